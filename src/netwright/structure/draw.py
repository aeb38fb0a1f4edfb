"""A structure in words: the table that ``print(net)`` shows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from netwright.structure.facts import FrozenGroup, Use, frozen, savings, uses, width
from netwright.structure.sources import place, unknown
from netwright.structure.tree import split_path

if TYPE_CHECKING:
    from netwright.structure.cost import Operator
    from netwright.structure.record import Node
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

#: More layers than this are shown by the blocks they belong to, more axes are cut off.
_LAYERS, _AXES, _FROZEN = 36, 24, 12
_WIDTH = 110
_NAME = 44


def table(net: Structure, everything: bool = False) -> str:
    """The structure as text of about 110 columns.

    Args:
        net: The structure.
        everything: Show every operator, axis and member, however many there are.
    """
    given = ", ".join(shape_text(x.shape) for x in net.inputs.tensors())
    can, total = len(net.prunable), len(net.axes)
    lines = [
        f"{net.name}: {count_text(net.macs)} MACs, {count_text(net.params)} parameters, "
        f"{bytes_text(net.activation_bytes)} of activations an example",
        f"{can} of {total} axes can shrink; traced with {given}",
        "",
    ]
    lines += _layers(net, everything)
    lines += _axes(net, everything)
    lines += _frozen(net, everything)
    lines += _unknown(net, everything)
    if net.notes:
        lines += ["", *(line for note in net.notes for line in _wrap(f"- {note}", "  "))]
    return "\n".join(lines)


def _layers(net: Structure, everything: bool) -> Iterator[str]:
    operators = net.operators
    shown = [o for o in operators if everything or o.macs or o.params]
    rest = Counter(o.kind for o in operators if not (everything or o.macs or o.params))
    if everything or len(shown) <= _LAYERS:
        rows = [(o.module or "(top)", o.kind, shape_text(o.shape), o.macs, o.params) for o in shown]
    else:
        rows, rest = _blocks(operators), Counter()
    limit = len(rows) if everything else _LAYERS
    names = [_short(r[0], everything) for r in rows[:limit]]
    kinds = [r[1] for r in rows[:limit]]
    a, b = _column("layer", names), _column("operator", kinds)
    c = _column("output", [r[2] for r in rows[:limit]])
    heading = f"{'layer':<{a}}  {'operator':<{b}}  {'output':<{c}} "
    yield f"{heading}{'MACs':>9} {'share':>7} {'params':>9} {'share':>7}"
    for name, (_, kind, shape, macs, params) in zip(names, rows, strict=False):
        yield (
            f"{name:<{a}}  {kind:<{b}}  {shape:<{c}} {count_text(macs):>9} {share_text(macs, net.macs):>7} "
            f"{count_text(params):>9} {share_text(params, net.params):>7}"
        )
    if len(rows) > limit:
        yield f"… and {_plural(len(rows) - limit, 'more layer', 'more layers')}"
    if rest:
        kinds = [f"{kind} {n}" for kind, n in rest.most_common()]
        count = _plural(sum(rest.values()), "operator has", "operators have")
        yield from _wrap(f"{count} neither: {_some(kinds, 8, False)}", "")


def _blocks(operators: Sequence[Operator]) -> list[tuple[str, str, str, int, int]]:
    """The operators summed by the deepest level of modules that is short enough."""
    depth = max(len(_levels(o.module)) for o in operators)
    while depth > 1 and len({_cut(o.module, depth) for o in operators}) > _LAYERS:
        depth -= 1
    sums: dict[str, list[Any]] = {}
    for o in operators:
        entry = sums.setdefault(_cut(o.module, depth), [0, 0, 0, "", o.kind])
        entry[0] += 1
        entry[1] += o.macs
        entry[2] += o.params
        entry[3] = shape_text(o.shape)
    return [
        (name, kind if n == 1 else f"{n} operators", shape, macs, params)
        for name, (n, macs, params, shape, kind) in sums.items()
    ]


def _axes(net: Structure, everything: bool) -> Iterator[str]:
    if not net.prunable:
        return
    axes = list(zip(net.prunable, uses(net), savings(net).tolist(), strict=False))
    shown = axes if everything else axes[:_AXES]
    names = [_short(axis.name, everything) for axis, _, _ in shown]
    a = _column("axis that can shrink", names)
    yield ""
    heading = f"{'axis that can shrink':<{a}} {'units':>13} {'half saves':>11}  "
    yield f"{heading}members, and the modules they are in"
    for name, (axis, on, (macs, _)) in zip(names, shown, strict=True):
        lead = f"{name:<{a}} {_units(net, axis, on):>13} {f'{macs:.1%} MACs':>11}  "
        if everything:
            text = f"{len(on)}: {', '.join(map(str, on))}"
        else:
            text = f"{len(on)}: {_fitting(on, _WIDTH - len(lead) - 6)}"
        yield from textwrap.wrap(
            text,
            max(_WIDTH, len(lead) + 50),
            initial_indent=lead,
            subsequent_indent=" " * len(lead),
            break_long_words=False,
            break_on_hyphens=False,
        )
    if len(axes) > len(shown):
        yield f"… and {_plural(len(axes) - len(shown), 'more axis', 'more axes')}"


def _unknown(net: Structure, everything: bool) -> Iterator[str]:
    """Operators without a rule, with the lines of code that call them."""
    by: dict[str, list[Node]] = {}
    for node in unknown(net):
        by.setdefault(node.op, []).append(node)
    for op, nodes in by.items():
        modules = list(dict.fromkeys(node.module or "(top)" for node in nodes))
        yield ""
        text = f"no rule for {op}, which freezes what it touches: {_some(modules, 3, everything)}"
        yield from _wrap(text, "")
        code = dict.fromkeys(found for found in map(place, nodes) if found is not None)
        shown = list(code) if everything else list(code)[:3]
        for found in shown:
            yield f"  {found}: {found.text}" if found.text else f"  {found}"
        if len(code) > len(shown):
            yield f"  … and {_plural(len(code) - len(shown), 'more line', 'more lines')}"


def _frozen(net: Structure, everything: bool) -> Iterator[str]:
    groups = frozen(net)
    shown = groups if everything else groups[:_FROZEN]
    if shown:
        yield ""
        yield "axes that stay, and why"
    for group in shown:
        yield from _wrap(f"  {frozen_text(group, everything)}", "    ")
    if len(groups) > len(shown):
        yield f"  … and for {_plural(len(groups) - len(shown), 'more reason', 'more reasons')}"


def frozen_text(group: FrozenGroup, everything: bool = False) -> str:
    """Axes that cannot shrink, the reason, and the operators that are it.

    Args:
        group: From `frozen`.
        everything: Name all axes and operators.
    """
    names = _some([f"{a.name} ({a.total})" for a in group.axes], 3, everything)
    where = f" [{_some(group.where, 2, everything)}]" if group.where else ""
    return f"{names}: {group.reason}{where}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape: 2×3×224×224."""
    return "×".join(map(str, shape)) or "scalar"


def count_text(value: float) -> str:
    """A count with three figures: 41.2 M."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= factor:
            digits = 2 if value < 9.995 * factor else 1 if value < 99.95 * factor else 0
            return f"{value / factor:.{digits}f} {unit}"
    return f"{value:.0f}"


def bytes_text(value: float) -> str:
    """Bytes with three figures: 1.08 MB."""
    text = count_text(value).replace("K", "k")
    return f"{text}B" if " " in text else f"{text} B"


def share_text(value: float, whole: float) -> str:
    """A share in percent; a dash for nothing."""
    return f"{value / whole:.1%}" if value and whole else "–"


def _units(net: Structure, axis: Axis, on: Sequence[Use]) -> str:
    cells = f"{len(axis.cells)} × " if len(axis.cells) > 1 else ""
    each = width(net, axis, on)
    return f"{cells}{axis.size}{f' of {each}' if each > 1 else ''}"


def _fitting(on: Sequence[Use], room: int) -> str:
    """The modules of an axis's members, as many as fit."""
    modules = list(dict.fromkeys(use.name.rpartition(".")[0] or use.name for use in on))
    names = [_short(m, False, 30) for m in modules]
    text = names[0]
    for i, name in enumerate(names[1:], 1):
        if len(text) + len(name) + 2 > room:
            return f"{text}, +{len(names) - i}"
        text += f", {name}"
    return text


def _plural(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _cut(module: str, depth: int) -> str:
    levels = _levels(module)
    return levels[min(depth, len(levels)) - 1] if levels else "(top)"


def _levels(module: str) -> list[str]:
    """The paths from the outermost module to this one."""
    found: list[str] = []
    while module:
        found.insert(0, module)
        module = split_path(module)[0]
    return found


def _short(name: str, everything: bool, limit: int = _NAME) -> str:
    return name if everything or len(name) <= limit else f"…{name[1 - limit :]}"


def _some(names: Sequence[str], limit: int, everything: bool) -> str:
    if everything or len(names) <= limit + 1:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"


def _column(heading: str, cells: Sequence[str]) -> int:
    return max([len(heading), *map(len, cells)])


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
