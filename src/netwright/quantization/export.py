"""Export of PyTorch networks to ONNX, checked against PyTorch."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from netwright._files import atomic
from netwright.errors import ArtefactError, ModelError, from_os_error
from netwright.metrics import Example, arguments, file_bytes, open_session
from netwright.quantization._quiet import quiet
from netwright.quantization._shapes import fold_shapes
from netwright.structure import Inputs
from netwright.structure.onnx import OnnxNetwork
from netwright.structure.onnx.checking import RuntimeNetwork

Exporter = Literal["auto", "torchscript", "dynamo"]

#: Above this the weights go into a file beside (protobuf ends at 2 GiB).
_INLINE_BYTES = 1_900_000_000
_ABSOLUTE_TOLERANCE = 1e-4
_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Args:
        path: The ONNX file; networks beyond 2 GB keep their weights in ``NAME.data`` beside it.
        opset: Version of the ONNX operators used.
        max_abs_diff: Largest absolute difference of ONNX Runtime from PyTorch, or None where not verified.
        bytes: Size on the disk, weights beside included.
        exporter: Which of PyTorch's exporters made it, ``"torchscript"`` or ``"dynamo"``; ``"onnx"`` for a
            network that was read from an ONNX file.
    """

    path: Path
    opset: int
    max_abs_diff: float | None
    bytes: int
    exporter: str


@dataclass(frozen=True)
class _Task:
    """What both exporters need: the network, its inputs as exported, and what it must answer."""

    model: nn.Module
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    inputs: list[str]
    outputs: list[str]
    dynamic_inputs: list[bool]
    dynamic_outputs: list[bool]
    opset: int | None
    checks: list[tuple[tuple[Tensor, ...], list[Tensor]]]


def export_onnx(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    verify: bool = True,
    exporter: Exporter = "auto",
) -> Exported:
    """Export a network to one ONNX file and check its answers against PyTorch in ONNX Runtime.

    The network is exported from a copy on the CPU in eval mode. ``"auto"`` takes PyTorch's TorchScript
    exporter, which is several times faster, and its torch.export exporter where that fails or its file does
    not answer like PyTorch; after a clean-up both give files of the same operators.

    Args:
        model: The network.
        example: A tensor, a tuple of tensors or a dict of keyword tensors; dimension 0 of each is the batch.
        path: Where to write; replaced only by a complete, verified file.
        opset: Version of the ONNX operators; the exporter's own choice where None.
        dynamic_batch: Whether the file takes any batch size; otherwise it takes that of the example.
        verify: Whether to run the file, with the example and with another batch size where that is dynamic.
        exporter: ``"auto"``, ``"torchscript"`` or ``"dynamo"``.

    Returns:
        What was written.

    Raises:
        ModelError: if the model rejects the example, cannot be exported, or answers differently in ONNX
            Runtime.
        ArtefactError: if the file cannot be written.
    """
    path = Path(path)
    if isinstance(model, OnnxNetwork):
        return _as_it_is(model, example, path, verify)
    task = _prepare(model, example, opset, dynamic_batch)
    weights = sum(t.numel() * t.element_size() for t in (*task.model.parameters(), *task.model.buffers()))
    inline = weights < _INLINE_BYTES
    order = ["torchscript", "dynamo"] if exporter == "auto" else [exporter]
    if not inline:
        order = ["dynamo"]
    failures: list[str] = []
    for name in order:
        try:
            return _write(task, path, name, verify=verify, inline=inline)
        except ModelError as error:
            failures.append(f"{name}: {error.message}")
    raise ModelError(f"the network cannot be exported to ONNX ({'; '.join(failures)})")


def _as_it_is(model: OnnxNetwork, example: Example, path: Path, verify: bool) -> Exported:
    """Write a network that is an ONNX graph already, in its own opset and with its own open sizes."""
    model.save(path)
    difference = None
    if verify:
        inputs = Inputs.of(example)
        with torch.no_grad():
            want = pytree.tree_leaves(inputs.call(model))
        got = pytree.tree_leaves(inputs.call(RuntimeNetwork(path, model.program.outputs)))
        difference = max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True))
    return Exported(path, model.program.version, difference, file_bytes(path), "onnx")


def _write(task: _Task, path: Path, exporter: str, *, verify: bool, inline: bool) -> Exported:
    """Export with one exporter into a folder of its own, verify, and move the result into place."""
    export = _torchscript if exporter == "torchscript" else _dynamo
    with tempfile.TemporaryDirectory(prefix="netwright-export-", dir=_workplace(path, inline)) as folder:
        draft = Path(folder) / path.name
        _run(export, task, draft, inline)
        difference = _verify(task, draft) if verify else None
        opset = _opset(draft)
        if not inline:
            _move_beside(draft, path)
        with atomic(path) as temporary:
            shutil.copyfile(draft, temporary)
    return Exported(path, opset, difference, file_bytes(path), exporter)


def _workplace(path: Path, inline: bool) -> Path | None:
    """Return the folder for drafts: the target's own where weights must be renamed into place."""
    if inline:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _move_beside(draft: Path, path: Path) -> None:
    weights = draft.with_name(draft.name + ".data")
    if weights.is_file():
        try:
            weights.replace(path.with_name(weights.name))
        except OSError as error:
            raise from_os_error(error, f"writing {weights.name}") from error


def _run(export: Callable[[_Task, Path, bool], None], task: _Task, draft: Path, inline: bool) -> None:
    """Run one exporter quietly; whatever it raises becomes a ModelError of one line."""
    try:
        with quiet(), torch.no_grad():
            export(task, draft, inline)
    except OSError as error:
        raise from_os_error(error, f"writing {draft.name}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{type(error).__name__}: {reason}") from error


def _torchscript(task: _Task, draft: Path, inline: bool) -> None:
    """Export by tracing, then remove what tracing leaves: shape arithmetic, identities, constant nodes."""
    import onnx
    import onnx_ir
    import onnx_ir.passes.common as passes

    axes = dict(zip(task.inputs, task.dynamic_inputs, strict=True))
    axes.update(zip(task.outputs, task.dynamic_outputs, strict=True))
    torch.onnx.export(
        task.model,
        task.args,
        str(draft),
        kwargs=task.kwargs or None,
        dynamo=False,
        input_names=task.inputs,
        output_names=task.outputs,
        dynamic_axes={name: {0: "batch"} for name, dynamic in axes.items() if dynamic},
        opset_version=task.opset,
    )
    fold_shapes(draft, [_feed(task, values) for values, _ in task.checks])
    traced = onnx_ir.from_proto(onnx.load(draft))
    clean = onnx_ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    )
    onnx.save(onnx_ir.to_proto(clean(traced).model), draft)


def _dynamo(task: _Task, draft: Path, inline: bool) -> None:
    """Export through torch.export."""
    shapes: Any = None
    if any(task.dynamic_inputs):
        batch = torch.export.Dim("batch")
        dims = [{0: batch} if dynamic else None for dynamic in task.dynamic_inputs]
        shapes = dict(zip(task.inputs, dims, strict=True)) if task.kwargs else tuple(dims)
    torch.onnx.export(
        task.model,
        task.args,
        str(draft),
        kwargs=task.kwargs or None,
        dynamo=True,
        external_data=not inline,
        dynamic_shapes=shapes,
        input_names=task.inputs,
        output_names=task.outputs,
        opset_version=task.opset,
        verbose=False,
    )


def _prepare(model: nn.Module, example: Example, opset: int | None, dynamic: bool) -> _Task:
    """Copy the network, make batches of two sizes and record what PyTorch answers to each."""
    copied = folded(copy.deepcopy(model).cpu().eval().requires_grad_(False))
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    args, kwargs = arguments(example, torch.device("cpu"))
    args, kwargs = _detached(args), dict(zip(kwargs, _detached(tuple(kwargs.values())), strict=True))
    given = (*args, *kwargs.values())
    batched = [dynamic and t.dim() > 0 and len(t) == len(given[0]) for t in given]
    if any(batched) and len(given[0]) == 1:
        # torch.export takes a batch of one for a constant.
        given = tuple(torch.cat([t, t]) if b else t for t, b in zip(given, batched, strict=True))
    args, kwargs = given[: len(args)], dict(zip(kwargs, given[len(args) :], strict=True))
    batches = [given]
    if any(batched):
        # One more example, and in another order, so that nothing of the first batch can hide in the file.
        batches.append(tuple(_longer(t) if b else t for t, b in zip(given, batched, strict=True)))
    answers = [_answer(copied, args, kwargs, values) for values in batches]
    return _Task(
        model=copied,
        args=args,
        kwargs=kwargs,
        inputs=list(kwargs) or _names("input", len(args)),
        outputs=_names("output", len(answers[0])),
        dynamic_inputs=batched,
        dynamic_outputs=[
            a.dim() > 0 and len(a) != len(b) for a, b in zip(answers[0], answers[-1], strict=True)
        ],
        opset=opset,
        checks=list(zip(batches, answers, strict=True)),
    )


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """Put what parametrizations make of weights (masks, norms) in their place; in place."""
    for module in model.modules():
        parts = getattr(module, "parametrizations", None)
        if not (isinstance(parts, nn.ModuleDict) and parametrize.is_parametrized(module)):
            continue
        made = {name: getattr(module, name).detach().clone() for name in parts}
        # PyTorch's own removal deletes the attribute from a class which copies of the network share.
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]
        for name, value in made.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return model


def _longer(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[-1:], tensor.flip(0)])


def _detached(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.detach().contiguous() for value in values)


def _answer(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], values: tuple[Tensor, ...]
) -> list[Tensor]:
    """Return the tensors of the network's answer to a flat list of inputs, in order."""
    positional, named = values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))
    try:
        with torch.no_grad():
            answer = model(*positional, **named)
    except Exception as error:
        shapes = ", ".join(str(tuple(v.shape)) for v in values)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the model rejects an input of shape {shapes} ({reason})", "give its input shape"
        ) from error
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
    if not leaves:
        raise ModelError(f"the model answers {type(answer).__name__} without a tensor; ONNX needs one")
    return leaves


def _names(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{i}" for i in range(count)]


def _verify(task: _Task, draft: Path) -> float:
    """Return the largest absolute difference between ONNX Runtime and PyTorch.

    Raises:
        ModelError: if it is beyond what floating point explains.
    """
    try:
        session = open_session(draft, threads=torch.get_num_threads())
    except ArtefactError as error:
        raise ModelError(error.message) from error
    # A network may ignore an argument; the file then has no such input.
    names = {i.name for i in session.get_inputs()}
    worst = 0.0
    for values, expected in task.checks:
        fed = {name: value for name, value in _feed(task, values).items() if name in names}
        try:
            answers = session.run(None, fed)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the file fails on a batch of {len(values[0])} ({reason})") from error
        for want, got in zip((t.numpy() for t in expected), answers, strict=True):
            worst = max(worst, _difference(want, np.asarray(got)))
    return worst


def _feed(task: _Task, values: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in zip(task.inputs, values, strict=True)}


def _difference(want: np.ndarray, got: np.ndarray) -> float:
    if want.shape != got.shape:
        raise ModelError(f"the file answers with shape {got.shape}, PyTorch with {want.shape}")
    if want.size == 0:
        return 0.0
    difference = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max())
    allowed = _ABSOLUTE_TOLERANCE + _RELATIVE_TOLERANCE * float(np.abs(want).max())
    if not difference <= allowed and np.isfinite(want).all():
        raise ModelError(f"the file differs from PyTorch by {difference:.3g}, more than {allowed:.3g}")
    return difference


def _opset(path: Path) -> int:
    import onnx

    graph = onnx.load(path, load_external_data=False)
    return max(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
