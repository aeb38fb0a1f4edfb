"""Which line of whose code called an operator: so that what cannot change is named where it is written.

While a network is recorded, the innermost frame that belongs neither to PyTorch nor to the recorder is noted
for every operator, as a file and a line: a few steps up the stack, about a microsecond an operator. Reading
the line's text is left to whoever shows it.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from netwright.structure.record import Node
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

#: Files that are not the network's own code: PyTorch, this package, einops (which calls for the network).
_LIBRARIES = tuple(
    f"{folder}/"
    for folder in (
        Path(torch.__file__).parent.as_posix(),
        Path(__file__).parent.as_posix(),
        (Path(torch.__file__).parent.parent / "einops").as_posix(),
        (Path(torch.__file__).parent.parent / "functorch").as_posix(),
    )
)
_INSTALLED = ("site-packages", "dist-packages")
#: File name -> whether it is the network's own code.
_own: dict[str, bool] = {}


@dataclass(frozen=True)
class Place:
    """A line of code.

    Args:
        file: Path of the file.
        line: Number of the line, from 1.
    """

    file: str
    line: int

    @property
    def text(self) -> str:
        """The line itself without its indentation; empty where the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{_short(self.file)}:{self.line}"


def caller(stop: CodeType) -> tuple[str, int] | None:
    """The file and line of the innermost frame of the network's own code.

    Args:
        stop: Code of the function below which the network runs; nothing above it is looked at.

    Returns:
        None where no frame in between is the network's own: a `torch.nn.Sequential` has none.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code is stop:
            return None
        name = code.co_filename
        own = _own.get(name)
        if own is None:
            own = _own[name] = (
                not Path(name).as_posix().startswith((*_LIBRARIES, "<eval_with_key", "<frozen"))
            )
        if own:
            return name, frame.f_lineno
        frame = frame.f_back
    return None


def place(node: Node | None) -> Place | None:
    """The line that called an operator, where it is known.

    Args:
        node: An operator call of a recording.
    """
    return None if node is None or node.source is None else Place(*node.source)


def where(node: Node | None) -> str:
    """An operator with its module and its line, as "renorm in layer3.0, model.py:12"; empty for None."""
    if node is None:
        return ""
    module = f" in {node.module}" if node.module else ""
    found = place(node)
    return f"{node.op}{module}{f', {found}' if found else ''}"


def why(axis: Axis) -> str:
    """Why an axis stays, with the operator and the line that are the cause, as a clause without a stop.

    Args:
        axis: An axis that cannot shrink.
    """
    named = where(axis.node)
    found = place(axis.node)
    text = f": `{_cut(found.text)}`" if found is not None and found.text else ""
    return f"{axis.reason} ({named}{text})" if named else axis.reason


def unknown(net: Structure) -> list[Node]:
    """The calls of operators without a rule, the first of every operator, module and line.

    Args:
        net: The structure.
    """
    seen: dict[tuple[str, str, tuple[str, int] | None], Node] = {}
    for run in net.runs:
        for node in run.recording.nodes:
            if node.op in net.labels.unknown:
                seen.setdefault((node.op, node.module, node.source), node)
    return list(seen.values())


def lines(nodes: Iterable[Node]) -> list[str]:
    """The places of some operators, each once, in their order.

    Args:
        nodes: Operator calls.
    """
    return list(dict.fromkeys(where(node) for node in nodes))


def _short(name: str) -> str:
    """A path as one would say it: below the current folder, or below where packages are installed."""
    path = Path(name)
    parts = path.parts
    for folder in _INSTALLED:
        if folder in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(folder) :])
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
