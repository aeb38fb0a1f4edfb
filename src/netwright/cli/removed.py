"""What `netwright prune` writes and shows of a network whose channels were removed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.measure import format_bytes
from netwright.errors import ArtefactError

if TYPE_CHECKING:
    from netwright.pruning import Pruned

_AXES = 20
_WIDTH = 110
_INDENT: dict[str, Any] = {
    "initial_indent": "  ",
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}


def write(pruned: Pruned, path: Path, kind: str, example: Any) -> None:
    """Write the smaller network, complete or not at all."""
    from netwright.structure.onnx import OnnxNetwork

    if isinstance(pruned.model, OnnxNetwork):
        pruned.model.save(path)
    elif kind == "onnx":
        from netwright.quantization import export_onnx

        export_onnx(pruned.model, example, path)
    elif kind == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import save_model

        from netwright import _files

        with _files.atomic(path) as temporary:
            try:
                save_model(pruned.model, str(temporary), metadata={"format": "pt"})
            except SafetensorError as error:
                raise ArtefactError(f"{path} cannot be written: {error}", "is the disk full?") from error
    else:
        from netwright.pruning import save_pruned

        save_pruned(pruned, path)


def document(name: str, pruned: Pruned, output: Path, notes: list[str]) -> dict[str, Any]:
    """Everything, for `--json`."""
    from netwright.structure import facts

    net = pruned.net
    widths = {axis: {"before": before, "after": after} for axis, (after, before) in pruned.widths.items()}
    frozen = []
    for axis in net.axes:
        if not axis.prunable:
            at = {} if axis.node is None else facts.call(axis.node)
            frozen.append({"axis": axis.name, "reason": axis.reason, **at})
    return {
        "model": name,
        "output": str(output),
        "bytes": written_bytes(output),
        "before": vars(pruned.before),
        "after": vars(pruned.after),
        "latency_ms": pruned.latency,
        "axes": widths,
        "frozen": frozen,
        "how": pruned.how,
        "accuracy": pruned.history[-1]["accuracy"] if pruned.history else None,
        "notes": notes,
        "seconds": round(pruned.seconds, 3),
    }


def written_bytes(output: Path) -> int:
    """Bytes of what was written: a file (with weights beside it), or the weights in a folder."""
    from netwright.metrics import file_bytes

    if output.is_dir():
        return sum(file.stat().st_size for file in output.glob("*.safetensors"))
    return file_bytes(output) if output.suffix == ".onnx" else output.stat().st_size


def show(pruned: Pruned, output: Path, notes: list[str], everything: bool) -> None:
    """Print what it costs before and after, the axes, and what stayed and why."""
    from rich.console import Console
    from rich.table import Table

    from netwright.structure.draw import bytes_text, count_text, frozen_text
    from netwright.structure.facts import frozen

    before, after = pruned.before, pruned.after
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "before", "after", "share"):
        table.add_column(heading, justify="left" if not heading else "right")

    def line(name: str, old: float, new: float, text: Any) -> None:
        table.add_row(name, text(old), text(new), f"{new / old:.1%}" if old else "–")

    line("MACs", before.macs, after.macs, count_text)
    line("parameters", before.params, after.params, count_text)
    line("activations", before.activation_bytes, after.activation_bytes, bytes_text)
    if pruned.latency is not None:
        line("latency", pruned.latency["before"], pruned.latency["after"], lambda ms: f"{ms:.3g} ms")
    console = Console(highlight=False)
    console.print(table)
    widths = list(pruned.widths.items())
    shown = widths if everything else [(n, w) for n, w in widths if w[0] < w[1]][:_AXES]
    if shown:
        axes = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("axis", "before", "after", "share"):
            axes.add_column(heading, justify="left" if heading == "axis" else "right", overflow="fold")
        for name, (kept, size) in shown:
            axes.add_row(name, str(size), str(kept), f"{kept / size:.1%}")
        console.print()
        console.print(axes)
    changed = sum(kept < size for _, (kept, size) in widths)
    if len(shown) < changed:
        print(f"… and {changed - len(shown)} more (--all shows them)")
    groups = frozen(pruned.net)
    if groups:
        print("\nleft alone:")
    for group in groups:
        print(textwrap.fill(frozen_text(group, everything), _WIDTH, **_INDENT))
    if notes:
        print()
    for note in notes:
        print(textwrap.fill(f"- {note}", _WIDTH, subsequent_indent="  "))
    if pruned.history and pruned.history[-1]["accuracy"] is not None:
        print(f"\naccuracy after training: {pruned.history[-1]['accuracy']:.1%}")
    print(f"\n{output}: {format_bytes(written_bytes(output))}, pruned {pruned.how} in {pruned.seconds:.1f} s")
