"""What `netwright prune` writes and shows of a network with masks."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.measure import format_bytes
from netwright.cli.removed import written_bytes
from netwright.errors import ArtefactError

if TYPE_CHECKING:
    from netwright.pruning import Sparse

_LAYERS = 30
_WIDTH = 110


def write(sparse: Sparse, path: Path, kind: str, example: Any) -> None:
    """Write the network, complete or not at all: zeros in the weights, and masks where the format has some.

    Args:
        sparse: The network.
        path: Where to.
        kind: "onnx" (zeros alone), "safetensors" (zeros, and masks under ``_nw_mask.``) or "folder".
        example: Of the network's input.
    """
    from netwright.pruning import bake, save_pruned

    if kind == "onnx":
        from netwright.quantization import export_onnx

        export_onnx(bake(sparse.model), example, path)
    elif kind == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from netwright import _files

        tensors = {n: t.detach().cpu().contiguous() for n, t in bake(sparse.model).state_dict().items()}
        tensors |= {f"_nw_mask.{n}": m.cpu().contiguous() for n, m in sparse.masks.items()}
        seen: dict[int, str] = {}
        for name, tensor in list(tensors.items()):  # the format holds no tensor twice
            if tensor.numel() and tensor.data_ptr() in seen:
                tensors[name] = tensor.clone()
            seen[tensor.data_ptr()] = name
        with _files.atomic(path) as temporary:
            try:
                save_file(tensors, str(temporary), metadata={"format": "pt"})
            except SafetensorError as error:
                raise ArtefactError(f"{path} cannot be written: {error}", "is the disk full?") from error
    else:
        save_pruned(sparse, path)


def document(name: str, sparse: Sparse, output: Path, notes: list[str]) -> dict[str, Any]:
    """Everything, for `--json`."""
    return {
        "model": name,
        "output": str(output),
        "bytes": written_bytes(output),
        "keep": sparse.keep,
        "density": sparse.density,
        "layers": [dict(row) for row in sparse.table],
        "levels": [{"level": x.level, "keep": x.keep, "accuracy": x.accuracy} for x in sparse.levels],
        "accuracy": sparse.history[-1]["accuracy"] if sparse.history else None,
        "notes": notes,
        "seconds": round(sparse.seconds, 3),
    }


def show(sparse: Sparse, output: Path, notes: list[str], everything: bool) -> None:
    """Print what stayed of each layer."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "weights", "stay", "share"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    shown = sparse.layers if everything else sparse.layers[:_LAYERS]
    for layer in shown:
        table.add_row(layer.name, f"{layer.total:,}", f"{layer.kept:,}", f"{layer.density:.1%}")
    total, kept = (sum(getattr(x, n) for x in sparse.layers) for n in ("total", "kept"))
    table.add_row("together", f"{total:,}", f"{kept:,}", f"{sparse.density:.2%}", style="bold")
    Console(highlight=False).print(table)
    if len(shown) < len(sparse.layers):
        print(f"… and {len(sparse.layers) - len(shown)} more (--all shows them)")
    if sparse.levels:
        print("\nlevels:")
    for level in sparse.levels:
        reached = "" if level.accuracy is None else f", accuracy {level.accuracy:.1%}"
        print(f"  {level.level}: {level.kept:,} weights ({level.keep:.1%}){reached}")
    if not sparse.levels and sparse.history and sparse.history[-1]["accuracy"] is not None:
        print(f"\naccuracy after training: {sparse.history[-1]['accuracy']:.1%}")
    print()
    for note in notes:
        print(textwrap.fill(f"- {note}", _WIDTH, subsequent_indent="  "))
    print(f"\n{output}: {format_bytes(written_bytes(output))}, masked in {sparse.seconds:.1f} s")
