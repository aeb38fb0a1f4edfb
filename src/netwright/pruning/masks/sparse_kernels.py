"""Masked networks on kernels that skip zeros: only there does a mask make a network faster, and not always.

Linear layers run as CSR or BSR (compressed sparse rows, single weights or blocks) through PyTorch's sparse
products, or, where two of every four weights along the inputs are zero, on the sparse tensor cores of NVIDIA
GPUs since Ampere. What is faster depends on density, shapes and device: it is measured, side by side with
the dense layers, never inferred.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.metrics import Latency, latencies
from netwright.pruning.masks.granularity import NM, Block
from netwright.pruning.masks.mask_state import MaskState, bake
from netwright.structure import Inputs

Kernel = Literal["auto", "2:4", "csr", "bsr"]
KERNELS = ("2:4", "csr", "bsr")
#: Sides of square blocks that are tried for BSR, the smallest first.
BLOCKS = (4, 8, 16, 32)
#: Rows and columns of a weight are multiples of these on sparse tensor cores, for 16-bit numbers.
_TILE = (32, 64)
_AMPERE = (8, 0)
#: How long two candidates of one layer are compared.
_SECONDS = 0.05


class SparseLinear(nn.Module):
    """A linear layer whose weight is stored without its zeros; for inference.

    Args:
        layer: The dense layer, zeros in its weight.
        kernel: "csr", "bsr" or "2:4".
        block: Side of the blocks of BSR; it divides both sizes of the weight.

    Attributes:
        crow: Where each row, or row of blocks, begins among the values.
        columns: The column of each value, or block.
        values: What is not zero: (kept,), or (blocks, side, side).
    """

    crow: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, kernel: str, block: int = 4) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kernel, self.block = kernel, block
        weight = layer.weight.detach()
        if kernel == "2:4":
            self.register_buffer("packed", torch.sparse.to_sparse_semi_structured(weight))
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse (CSR|BSR) tensor support is in beta")
                sparse = weight.to_sparse_csr() if kernel == "csr" else weight.to_sparse_bsr((block, block))
            # In parts: PyTorch cannot copy the whole.
            self.register_buffer("crow", sparse.crow_indices())
            self.register_buffer("columns", sparse.col_indices())
            self.register_buffer("values", sparse.values())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The sparse tensor, (out_features, in_features)."""
        if self.kernel == "2:4":
            return self.get_buffer("packed")
        size = (self.out_features, self.in_features)
        make = torch.sparse_csr_tensor if self.kernel == "csr" else torch.sparse_bsr_tensor
        return make(self.crow, self.columns, self.values, size, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply; x: (..., in_features) -> (..., out_features)."""
        if self.kernel == "2:4":
            return nn.functional.linear(x, self.weight, self.bias)
        # `linear` itself takes a slow way for sparse weights: many times that of this product.
        rows = x.reshape(-1, self.in_features)  # (n, in_features)
        y = (self.weight @ rows.t()).t()  # (n, out_features)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes and the kernel."""
        size = f", block={self.block}" if self.kernel == "bsr" else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, kernel={self.kernel}{size}"


@dataclass(frozen=True)
class Accelerated:
    """A network for inference on sparse kernels.

    Attributes:
        model: A copy of the masked network, without masks, some of its linear layers `SparseLinear`.
        kernels: Masked linear layer -> "dense", "csr", "bsr" or "2:4".
        dense: Measured time of the masked network on dense kernels, or None where no example was given.
        sparse: Measured time of `model`, with its ratio to `dense`; in turn with it, on the same machine.
        difference: Largest absolute difference of their answers on the example, or None.
        notes: What a reader should know, one line each.
    """

    model: nn.Module
    kernels: dict[str, str]
    dense: Latency | None = None
    sparse: Latency | None = None
    difference: float | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{name}: {kernel}" for name, kernel in self.kernels.items()]
        if self.dense is not None and self.sparse is not None:
            lines.append(
                f"{self.dense.median_ms:.3f} ms dense, {self.sparse.median_ms:.3f} ms sparse, "
                f"ratio {self.sparse.ratio:.2f} ({self.sparse.ratio_q1:.2f} to {self.sparse.ratio_q3:.2f}), "
                f"on {self.dense.device} with {self.dense.threads} thread"
            )
        else:
            lines.append("not measured: zeros alone make nothing faster")
        return "\n".join([*lines, *self.notes])


@torch.no_grad()
def accelerate_sparse(
    model: nn.Module, kernel: Kernel = "auto", *, example: Any = None, threads: int = 1
) -> Accelerated:
    """Run the masked linear layers of a network on a sparse kernel; for inference.

    Args:
        model: A network with masks; it is not touched.
        kernel: "csr", "bsr" (blocks of 4 to 32, the largest that stores no more), "2:4" (NVIDIA GPUs of
            compute capability 8.0 or more, 16-bit weights), or "auto", which times them all on every layer
            and leaves those dense that are fastest so.
        example: Its input; "auto" needs it. The copy is timed side by side with the dense network on it.
        threads: CPU threads of what is timed.

    Returns:
        The copy, and what was measured.

    Raises:
        UsageError: if the network has no masks or no masked linear layer, the device has no such kernel, or
            no layer fits it.
    """
    if kernel not in ("auto", *KERNELS):
        raise UsageError(f"there is no kernel {kernel!r}", f"choose from auto, {', '.join(KERNELS)}")
    state = MaskState.of(model)
    if state is None:
        raise UsageError("the network has no masks", "mask it with netwright.sparsify")
    if kernel == "auto" and example is None:
        raise UsageError('kernel="auto" times the layers', "give an example= input")
    dense = bake(state.model).eval()
    layers = _masked_layers(dense, list(state.masks))
    if not layers:
        raise UsageError(
            "no linear layer of the network has a mask", "convolutions have no sparse kernels in PyTorch"
        )
    inputs = _inputs_of(dense, layers, example) if kernel == "auto" else {}
    fast = bake(state.model).eval()
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for name, layer in layers.items():
        options = [kernel] if kernel != "auto" else [k for k in KERNELS if not _obstacle(k, layer)]
        reasons = [_obstacle(k, layer) for k in options]
        if kernel != "auto" and reasons[0]:
            if kernel == "2:4" and not _has_sparse_cores(layer.weight.device):
                raise UsageError(reasons[0], 'take kernel="csr" or "bsr"; on the CPU there is no other')
            notes.append(f"{name} stays dense: {reasons[0]}")
            chosen[name] = "dense"
            continue
        built: dict[str, nn.Module] = {k: _build(layer, k) for k in options}
        best = kernel if kernel != "auto" else _fastest(layer, built, inputs.get(name), threads)
        chosen[name] = best
        if best != "dense":
            _put(fast, name, built[best])
    if kernel != "auto" and set(chosen.values()) == {"dense"}:
        raise UsageError(f"no layer fits kernel {kernel!r}", notes[0])
    if "bsr" in chosen.values():
        notes += _padding(fast)
    return _measured(dense, fast, chosen, notes, example, threads)


def _measured(
    dense: nn.Module, fast: nn.Module, chosen: dict[str, str], notes: list[str], example: Any, threads: int
) -> Accelerated:
    if example is None:
        return Accelerated(fast, chosen, notes=[*notes, "not measured: give an example= to time it"])
    inputs = Inputs.of(example)
    want, got = (_tensors(inputs.call(m)) for m in (dense, fast))
    difference = max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True))
    device = str(next(p.device for p in dense.parameters()))
    times = latencies(
        {"dense": dense, "sparse": fast},
        example,
        baseline="dense",
        runtime="torch",
        threads=threads,
        min_seconds=4 * _SECONDS,
        device=device,
    )
    return Accelerated(fast, chosen, times["dense"], times["sparse"], difference, notes)


def _masked_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Linear]:
    """Linear layers of a network whose weights had masks, shared ones at every place."""
    masked = {id(model.get_parameter(name)) for name in names}
    # Attention reads the weights of its layers without calling them; those are of other classes.
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is nn.Linear and id(module.weight) in masked
    }


def _obstacle(kernel: str, layer: nn.Linear) -> str | None:
    """Why a layer cannot run on a kernel, or None."""
    weight = layer.weight
    rows, columns = weight.shape
    if kernel == "bsr" and (rows % BLOCKS[0] or columns % BLOCKS[0]):
        return f"{rows} x {columns} does not divide into blocks of {BLOCKS[0]}"
    if kernel != "2:4":
        return None
    if not _has_sparse_cores(weight.device):
        where = torch.cuda.get_device_name(weight.device) if weight.is_cuda else weight.device.type.upper()
        return f"2:4 needs sparse tensor cores (NVIDIA, capability 8.0 or more), the network is on {where}"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"its weights are {weight.dtype}, sparse tensor cores take 16 bits: model.half()"
    if rows % _TILE[0] or columns % _TILE[1]:
        return f"{rows} x {columns} is no multiple of {_TILE[0]} x {_TILE[1]}"
    pattern = NM(2, 4)
    if not torch.equal(weight.abs() * pattern.mask(weight.abs()), weight.abs()):
        return 'more than two of four weights are there: sparsify(granularity="2:4")'
    return None


def _has_sparse_cores(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


def _build(layer: nn.Linear, kernel: str) -> SparseLinear:
    """A layer on a kernel, tried once.

    Raises:
        UsageError: if PyTorch has no such product for its numbers on its device.
    """
    built = SparseLinear(layer, kernel, _block(layer.weight) if kernel == "bsr" else 4)
    weight = layer.weight
    try:
        built(weight.new_zeros(8, layer.in_features))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{kernel} does not run on {weight.device} in {weight.dtype}: {reason}") from error
    return built


def _block(weight: Tensor) -> int:
    """The side of blocks that stores least, the largest of several."""
    sides = [side for side in BLOCKS if not any(n % side for n in weight.shape)]
    stored = {
        side: int(Block(side, side).pool((weight != 0).float()).count_nonzero()) * side**2 for side in sides
    }
    least = min(stored.values())
    return max(side for side in sides if stored[side] == least)


def _padding(model: nn.Module) -> Iterator[str]:
    """What blocks store beside the weights that are there."""
    for name, module in model.named_modules():
        if isinstance(module, SparseLinear) and module.kernel == "bsr":
            values = module.values
            zeros = 1 - int(values.count_nonzero()) / max(values.numel(), 1)
            if zeros > 0.1:
                yield f"{name}: {zeros:.0%} of what its blocks of {module.block} store are zeros"


def _inputs_of(model: nn.Module, layers: dict[str, nn.Linear], example: Any) -> dict[str, Tensor]:
    """What every layer gets when the network runs on the example; layers that are not called are left out."""
    seen: dict[str, Tensor] = {}
    names = {id(layer): name for name, layer in layers.items()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.setdefault(names[id(module)], args[0])

    handles = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        Inputs.of(example).call(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _fastest(layer: nn.Linear, built: dict[str, nn.Module], x: Tensor | None, threads: int) -> str:
    if x is None:
        return "dense"
    device = str(layer.weight.device)
    times = latencies(
        {"dense": layer, **built},
        x,
        runtime="torch",
        threads=threads,
        min_runs=10,
        min_seconds=_SECONDS,
        device=device,
    )
    return min(times, key=lambda k: times[k].median_ms)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    if not name:
        raise UsageError("the network is one linear layer", "wrap it: torch.nn.Sequential(layer)")
    parent = model.get_submodule(owner)
    parent._modules[leaf] = module
    if isinstance(parent, nn.TransformerEncoderLayer):
        # Its fused path reads dense weights; without this mark of its activation it calls its layers.
        parent.activation_relu_or_gelu = 0


def _tensors(answer: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
