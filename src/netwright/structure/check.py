"""The numeric check: the dense network with what was removed held at zero, against the really smaller one.

The dense network is recorded once more on real float64 tensors, its operators are replayed one by one,
and after each of them the elements whose class went are set to zero. Normalisations over a pruned axis use
the statistics of what stays, which is what the smaller network does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.errors import StructureError
from netwright.structure.copying import deep_copy
from netwright.structure.labels import Labels
from netwright.structure.record import Node, Ref, plain_kernels, record_values
from netwright.structure.scales import Scales, fit_scales
from netwright.structure.sizes import scale, take

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure


_SEED = 0


@dataclass(frozen=True)
class Check:
    """How close the smaller network is to the dense one with what was removed at zero.

    Attributes:
        error: Largest difference of any output, relative to the largest value of the reference.
        change: The same between the dense network and the reference: how much the removal changed. A check
            that could not fail would have 0 here.
    """

    error: float
    change: float


def check(
    model: nn.Module,
    net: Structure,
    keep: Tensor,
    small: nn.Module,
    *,
    dtype: torch.dtype = torch.float64,
    scales: Scales | None = None,
    kept: Mapping[str, dict[int, Tensor]] | None = None,
) -> Check:
    """Compare a smaller network with its definition, in eval mode on the CPU.

    Args:
        model: The dense network; it is not touched.
        net: Its structure.
        keep: (count,) bool, True where a class stays.
        small: The smaller network; it is not touched.
        dtype: Precision of the comparison.
        scales: Factors that the surgery put into parameters, as in `Shrunk`; they are applied once more in
            this precision, so that their rounding does not count.
        kept: Index maps of the surgery, where there are scales.

    Raises:
        StructureError: if the real recording cannot be labelled as the structure says.
    """

    def cast(x: Tensor) -> Tensor:
        return x.detach().to("cpu", dtype if x.is_floating_point() else x.dtype)

    inputs = net.inputs.map(cast)
    dense = deep_copy(model).cpu().to(dtype).eval()
    with plain_kernels(), Precision(dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # a network that draws noise draws the same each time
        recording, values = record_values(dense, inputs)
        labels = Labels(heads=net.heads, given=net.layers, units=net.count, leading=net.leading)
        traced = labels.walk(recording)
        stays = torch.cat([keep, torch.ones(labels.units - net.count, dtype=torch.bool)])
        stays = _resolve(labels, stays, net.count)
        torch.manual_seed(_SEED)
        outputs, plain = _replay(recording, values, traced.table, stays)
        with torch.no_grad():
            twin = deep_copy(small).cpu().to(dtype).eval()
            _rescale(dense, twin, scales or {}, kept or {})
            torch.manual_seed(_SEED)
            got = inputs.call(twin)
    found = [x for x in pytree.tree_leaves(got) if isinstance(x, Tensor)]
    if len(found) != len(outputs):
        raise StructureError(
            f"the smaller network returns {len(found)} tensors, the dense one {len(outputs)}"
        )
    return Check(_largest(found, outputs), _largest(plain, outputs))


class Precision(TorchDispatchMode):
    """Compute in one precision what a network computes in single precision whatever its own is.

    Rotary tables, softmax and norms are often cast to float32; the comparison would see their rounding.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __enter__(self) -> Any:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self._default)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("dtype")
        if asked is not None and asked.is_floating_point and asked.itemsize < self.dtype.itemsize:
            kwargs["dtype"] = self.dtype
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype == torch.float64:
            return _grouped_product(*args, **kwargs)
        return func(*args, **kwargs)


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor | None = None, **rest: Any) -> Tensor:
    """Rows of `a` (S, K) up to each of `offs` (G,) times the matrix of their group in `b` (G, K, N).

    The operator itself knows no double precision.
    """
    if offs is None or (a.dim(), b.dim()) != (2, 3):
        raise StructureError("a grouped product of this form cannot be checked in double precision")
    ends = [0, *offs.tolist()]
    parts = [a[i:j] @ m for i, j, m in zip(ends[:-1], ends[1:], b, strict=True)]
    return torch.cat([*parts, a.new_zeros(len(a) - ends[-1], b.shape[2])])


def _rescale(
    dense: nn.Module, small: nn.Module, scales: Scales, kept: Mapping[str, dict[int, Tensor]]
) -> None:
    """Put the scaled parameters in again without the rounding of the small network's own precision.

    Raises:
        StructureError: if a parameter is not what it was scaled to.
    """
    theirs = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    ours = {**dict(dense.named_parameters()), **dict(dense.named_buffers())}
    for name, dims in fit_scales(scales, dict(kept)).items():
        exact = scale(take(ours[name].detach(), kept.get(name, {})), dims)
        rounding = 1e-2 * float(exact.abs().max())  # of the coarsest precision, bfloat16
        if float((exact - theirs[name]).abs().max()) > rounding:
            raise StructureError(f"{name} is not what the surgery scaled it to")
        theirs[name].data.copy_(exact)


def _resolve(labels: Labels, stays: Tensor, count: int) -> Tensor:
    """Units that the walk made anew stay iff the class they are tied with does."""
    if labels.units == count or not labels.ties:
        return stays
    left = torch.cat([a for a, _, _ in labels.ties])
    right = torch.cat([b for _, b, _ in labels.ties])
    while True:
        both = stays[left] & stays[right]
        new = stays.clone()
        fresh_left, fresh_right = left >= count, right >= count
        new[left[fresh_left & ~both]] = False
        new[right[fresh_right & ~both]] = False
        if bool((new == stays).all()):
            return new
        stays = new


def _largest(a: list[Tensor], b: list[Tensor]) -> float:
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        if not x.is_floating_point():
            x, y = x.double(), y.double()
        scale = float(y.abs().max()) if y.numel() else 1.0
        error = float((x - y).abs().max()) / max(scale, 1e-30) if y.numel() else 0.0
        if error != error:  # NaN compares as false with everything
            return float("inf")
        worst = max(worst, error)
    return worst


def _mask_of(layers: list[Tensor], stays: Tensor) -> Tensor | None:
    """True where an element goes, broadcastable; None when all stays."""
    gone: Tensor | None = None
    for layer in layers:
        part = ~stays[layer]
        if bool(part.any()):
            gone = part if gone is None else gone | part
    return gone


def _replay(
    recording: Any, values: dict[int, Tensor], table: list[list[Tensor]], stays: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Run every operator again with what goes held at zero.

    Returns:
        The outputs, and those of the network as it is.
    """
    plain = [values[o].clone() for o in recording.outputs]
    held: dict[int, Tensor] = {}
    masks: dict[int, Tensor | None] = {}

    def mask(number: int) -> Tensor | None:
        if number not in masks:
            masks[number] = _mask_of(table[number], stays)
        return masks[number]

    def value(ref: Any) -> Any:
        if isinstance(ref, Ref):
            if ref.id not in held:
                held[ref.id] = _hide(values[ref.id].clone(), mask(ref.id))
            return held[ref.id]
        if isinstance(ref, (list, tuple)):
            return type(ref)([value(v) for v in ref])
        return ref

    last = {i: at for at, node in enumerate(recording.nodes) for i in (*node.inputs, *node.outputs)}
    returned = set(recording.outputs)
    for at, node in enumerate(recording.nodes):
        special = _SPECIAL.get(node.op)
        args = [value(a) for a in node.args]
        kwargs = {k: value(v) for k, v in node.kwargs.items()}
        gone = mask(node.inputs[0]) if node.inputs else None
        with torch.no_grad():
            if special is not None and gone is not None:
                out = special(node, args, kwargs, gone)
            elif node.op == "view":
                out = args[0].reshape(args[1]) if not isinstance(args[1], torch.dtype) else node.target(*args)
            else:
                out = node.target(*args, **kwargs)
        outs = [out] if isinstance(out, Tensor) else list(out)
        for number, tensor in zip(node.outputs, outs, strict=False):
            if number >= 0:
                held[number] = _hide(tensor, mask(number))
        for number in (*node.inputs, *node.outputs):
            if last[number] == at and number not in returned:  # no copy of a parameter outlives its use
                held.pop(number, None)
                masks.pop(number, None)
    return [held[o] if o in held else values[o] for o in recording.outputs], plain


def _hide(tensor: Tensor, gone: Tensor | None) -> Tensor:
    if gone is None:
        return tensor
    if 0 in tensor.stride():  # an expanded tensor: writing in place would write to what it shares
        return tensor.masked_fill(gone, 0)
    return tensor.masked_fill_(gone, 0)


Special = Callable[[Node, list[Any], dict[str, Any], Tensor], Any]


def _moments(
    x: Tensor, gone: Tensor, dims: tuple[int, ...], correction: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean and variance over what stays, dimensions kept."""
    stay = (~gone).expand(x.shape).to(x.dtype)
    count = stay.sum(dims, keepdim=True)
    mean = (x * stay).sum(dims, keepdim=True) / count
    spread = ((x - mean) ** 2 * stay).sum(dims, keepdim=True)
    return mean, spread / (count - correction)


def _layer_norm(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    x, shape = args[0], args[1]
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    weight, bias, eps = args[2], args[3], args[4]
    mean, var = _moments(x, gone, dims)
    rstd = torch.rsqrt(var + eps)
    out = (x - mean) * rstd
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, rstd


def _rms_norm(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    x, shape = args[0], args[1]
    weight = args[2] if len(args) > 2 else None
    eps = args[3] if len(args) > 3 and args[3] is not None else torch.finfo(x.dtype).eps
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    stay = (~gone).expand(x.shape).to(x.dtype)
    square = (x * x * stay).sum(dims, keepdim=True) / stay.sum(dims, keepdim=True)
    rstd = torch.rsqrt(square + eps)
    out = x * rstd
    return (out if weight is None else out * weight), rstd


def _group_norm(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    x, weight, bias, n, c, _, groups, eps = args
    gone = gone.expand(x.shape).reshape(n, groups, -1)
    flat = x.reshape(n, groups, -1)
    mean, var = _moments(flat, gone, (2,))
    out = ((flat - mean) * torch.rsqrt(var + eps)).reshape(x.shape)
    wide = [1, c] + [1] * (x.dim() - 2)
    out = out if weight is None else out * weight.reshape(wide)
    return (out if bias is None else out + bias.reshape(wide)), mean, var


def _batch_norm(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    """Only a call that takes statistics over a pruned dimension (a standardised weight) differs."""
    x = args[0]
    training = node.op == "native_batch_norm" and bool(args[5])
    if not training or (gone.shape[1] > 1 and gone.numel() == gone.shape[1]):
        return node.target(*args, **kwargs)
    mean, var = _moments(x, gone, tuple(d for d in range(x.dim()) if d != 1))
    out = (x - mean) * torch.rsqrt(var + args[7])
    wide = [1, -1] + [1] * (x.dim() - 2)
    out = out if args[1] is None else out * args[1].reshape(wide)
    return (out if args[2] is None else out + args[2].reshape(wide)), mean.reshape(-1), var.reshape(-1)


def _mean(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    x = args[0]
    given = args[1] if len(args) > 1 and args[1] is not None else kwargs.get("dim")
    dims = tuple(range(x.dim())) if given in (None, []) else tuple(d % x.dim() for d in given)
    if not any(gone.shape[d] > 1 for d in dims):
        return node.target(*args, **kwargs)
    keepdim = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
    stay = (~gone).expand(x.shape).to(x.dtype)
    out = (x * stay).sum(dims, keepdim=True) / stay.sum(dims, keepdim=True).clamp(min=1)
    return out if keepdim else out.squeeze(dims)


def _var(node: Node, args: list[Any], kwargs: dict[str, Any], gone: Tensor) -> Any:
    x = args[0]
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = tuple(range(x.dim())) if not isinstance(given, (list, tuple)) or not given else tuple(given)
    dims = tuple(d % x.dim() for d in dims)
    if not any(gone.shape[d] > 1 for d in dims):
        return node.target(*args, **kwargs)
    correction = kwargs.get("correction", 1 if kwargs.get("unbiased", True) else 0)
    keepdim = bool(kwargs.get("keepdim", False))
    mean, var = _moments(x, gone, dims, float(correction if correction is not None else 1))
    if "std" in node.op:
        var = var.sqrt()
    if not keepdim:
        mean, var = mean.squeeze(dims), var.squeeze(dims)
    return (var, mean) if node.op.endswith("_mean") else var


_SPECIAL: dict[str, Special] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "mean": _mean,
    "var": _var,
    "std": _var,
    "var_mean": _var,
    "std_mean": _var,
}
