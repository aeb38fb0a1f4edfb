"""A structure as a page: the modules with their costs, the tied axes over them, and why some cannot shrink.

The page is one file that asks for nothing: it opens anywhere, without a network.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright import _files
from netwright.structure.cost import VIEWS
from netwright.structure.draw import bytes_text, count_text, shape_text, share_text
from netwright.structure.facts import Use, savings, uses, width
from netwright.structure.sources import place, unknown, where
from netwright.structure.tree import Row, open_depth, tree

if TYPE_CHECKING:
    from netwright.structure.record import Node
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

#: The map: its width, the height of its bars, and how deep its arcs hang below them.
_WIDE, _BARS, _ARCS = 1000.0, 64.0, 66.0


class Picture(str):
    """The page as text; a notebook shows it as a picture."""

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self)}" style="width:100%;height:720px;border:0"></iframe>'


def draw(net: Structure, path: str | Path | None = None, title: str | None = None) -> Picture:
    """Draw a structure.

    Args:
        net: The structure.
        path: Where to write the page; None writes nothing.
        title: The page's; the class of the model where None.

    Raises:
        ArtefactError: if the file cannot be written.
    """
    page = Picture(html(net, title or net.name))
    if path is not None:
        _files.write_text(path, page)
    return page


def html(net: Structure, title: str) -> str:
    """The page as one HTML document.

    Args:
        net: The structure.
        title: Its title.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("netwright.structure", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count_text, "bytes": bytes_text, "shape": shape_text}
    root, on = tree(net), uses(net)
    rows = list(root.walk())
    slots = [row for row in rows if row.kind != "block" and (row.macs or row.params or row.tensors)]
    owner = {name: row.number for row in rows for name in row.tensors}
    saved = iter(savings(net).tolist())
    axes = [
        _axis(net, axis, found, next(saved) if axis.prunable else None)
        for axis, found in zip(net.axes, on, strict=True)
    ]
    place = {row.number: i for i, row in enumerate(slots)}
    spans = [sorted({place[owner[u.name]] for u in found}) for found in on]
    longest = max((span[-1] - span[0] for span in spans), default=1) or 1
    return environment.get_template("picture.html.j2").render(
        net=net,
        title=title,
        rows=root.parts,
        open=open_depth(root),
        labels=_labels(net),
        bars=_scales(net, rows),
        axes=axes,
        map=_bars(slots),
        unknown=_unknown(net),
        without=set(net.labels.unknown),
        arcs=[_arc(span[0], span[-1], longest, len(slots)) for span in spans if len(span) > 1],
        document={"longest": longest, **_document(net, rows, slots, owner, axes, on)},
        size={"wide": _WIDE, "bars": _BARS, "arcs": _ARCS},
    )


def _axis(net: Structure, axis: Axis, on: list[Use], saved: list[float] | None) -> dict[str, Any]:
    each = width(net, axis, on)
    cells = f"{len(axis.cells)} × " if len(axis.cells) > 1 else ""
    unit = "unit" if axis.total == 1 else "units"
    modules = len({u.name.rpartition(".")[0] or u.name for u in on})
    layers = f"{modules} layer{'s' if modules != 1 else ''}"
    facts = [f"{cells}{axis.size} {unit}{f' of {each}' if each > 1 else ''} in {layers}"]
    if saved is not None:
        facts.append(f"half saves {saved[0]:.1%} MACs")
    return {
        "name": axis.name,
        "free": axis.prunable,
        "facts": " · ".join(facts),
        "why": axis.reason,
        "where": where(axis.node),
        "code": _code(axis.node),
        "macs": saved[0] if saved is not None else 0.0,
        "params": saved[1] if saved is not None else 0.0,
    }


def _code(node: Node | None) -> str:
    """The text of the line that called an operator."""
    found = place(node)
    return found.text if found is not None else ""


def _unknown(net: Structure) -> list[dict[str, Any]]:
    """Operators without a rule, each with the lines that call it as (place, text)."""
    by: dict[str, list[Node]] = {}
    for node in unknown(net):
        by.setdefault(node.op, []).append(node)
    return [
        {"op": op, "calls": list(dict.fromkeys((where(node), _code(node)) for node in nodes))[:8]}
        for op, nodes in by.items()
    ]


def _labels(net: Structure) -> dict[str, str]:
    """Module -> what its one operator is, for those with a weight: "convolution 3→16"."""
    shapes, names = net.recording.shapes, net.recording.parameters
    found = {}
    for c in net.consumers:
        shape = shapes[names[c.name]]
        wide = [shape[c.dim_in], shape[c.dim_out]]
        if c.groups > 1:
            wide[c.transposed] *= c.groups
        grouped = f", {c.groups} groups" if c.groups > 1 else ""
        found[c.module] = f"{c.kind} {wide[0]}→{wide[1]}{grouped}"
    return found


def _scales(net: Structure, rows: list[Row]) -> dict[int, list[tuple[float, str]]]:
    """Row -> (width in percent, share as text) of its two bars; rows of one depth have one scale."""
    most: dict[int, list[int]] = {}
    for row in rows:
        peak = most.setdefault(row.depth, [1, 1])
        peak[0], peak[1] = max(peak[0], row.macs), max(peak[1], row.params)
    return {
        row.number: [
            (round(100 * value / peak, 2), share_text(value, whole))
            for value, peak, whole in zip(
                (row.macs, row.params), most[row.depth], (net.macs, net.params), strict=True
            )
        ]
        for row in rows
    }


def _bars(slots: list[Row]) -> list[dict[str, float]]:
    """The map's bars: one a layer, as high as its share of the multiply-accumulates."""
    step = _WIDE / max(len(slots), 1)
    peak = max([row.macs for row in slots] + [1])
    bars = []
    for i, row in enumerate(slots):
        high = max(1.5, (_BARS - 4) * row.macs / peak) if row.macs else 1.5
        bars.append(
            {
                "x": round((i + 0.14) * step, 2),
                "y": round(_BARS - high, 2),
                "w": round(0.72 * step, 2),
                "h": round(high, 2),
            }
        )
    return bars


def _arc(first: int, last: int, longest: int, count: int) -> str:
    """The path of an arc from one layer to another; the longest hangs as deep as there is room."""
    a, b = (first + 0.5) / count * _WIDE, (last + 0.5) / count * _WIDE
    deep = _BARS + 2 * (_ARCS - 4) * ((last - first) / longest) ** 0.5
    return f"M{a:.1f} {_BARS}Q{(a + b) / 2:.1f} {deep:.1f} {b:.1f} {_BARS}"


def _document(
    net: Structure,
    rows: list[Row],
    slots: list[Row],
    owner: dict[str, int],
    axes: list[dict[str, Any]],
    on: list[list[Use]],
) -> dict[str, Any]:
    """What the page's script needs."""
    numbers = {name: i for i, name in enumerate(owner)}
    shapes, known, own = net.recording.shapes, net.recording.parameters, _own(net)
    return {
        "rows": [_facts(net, row, own) for row in rows],
        "slots": [row.number for row in slots],
        "costs": [[r.macs, r.params, r.operator.activation_bytes if r.operator else 0] for r in slots],
        "code": _lines(rows),
        "tensors": [[name, shape_text(shapes[known[name]]), row] for name, row in owner.items()],
        "axes": [
            {
                "name": axis["name"],
                "free": axis["free"],
                "facts": axis["facts"],
                "uses": [[numbers[u.name], u.dim, u.count, u.size] for u in found],
            }
            for axis, found in zip(axes, on, strict=True)
        ],
    }


def _lines(rows: list[Row]) -> dict[str, Any]:
    """The lines of code that call the operators: every place and text once, and the number of each row's."""
    found: dict[tuple[str, str], int] = {}
    of = []
    for row in rows:
        at = place(row.operator.node) if row.operator is not None else None
        of.append(-1 if at is None else found.setdefault((str(at), at.text), len(found)))
    return {"lines": list(found), "of": of}


def _own(net: Structure) -> set[int]:
    """Numbers of the parameters and of the views of them: what no operator has computed."""
    own = set(net.recording.parameters.values())
    for node in net.recording.nodes:
        if node.op in VIEWS and node.inputs and node.inputs[0] in own:
            own.update(node.outputs)
    return own


def _facts(net: Structure, row: Row, own: set[int]) -> list[str]:
    """A row's name, its shapes and its costs in words."""
    name = row.path or net.name
    shapes, numbers = net.recording.shapes, net.recording.parameters
    if row.kind == "parameter":
        number = numbers[row.tensors[0]]
        kind = "buffer" if number in net.recording.buffers else "parameter"
        return [row.tensors[0], f"{kind} {shape_text(shapes[number])}"]
    costs = [
        f"{row.macs:,} MACs ({share_text(row.macs, net.macs)})" if row.macs else "",
        f"{row.params:,} parameters ({share_text(row.params, net.params)})" if row.params else "",
    ]
    if row.operator is None:
        return [name, f"{row.count} operator{'s' if row.count != 1 else ''}", *filter(None, costs)]
    o = row.operator
    memory = f"{bytes_text(o.activation_bytes)} of activations" if o.activation_bytes else "in place"
    read = [shapes[i] for i in dict.fromkeys(o.node.inputs) if i not in own]
    given = f"input {' and '.join(map(shape_text, read[:3]))}{' …' if len(read) > 3 else ''}" if read else ""
    held = [
        f"{n.rpartition('.')[2]} {shape_text(shapes[numbers[n]])}"
        for n in row.tensors
        if n.endswith("weight")
    ]
    return [
        name,
        o.kind,
        *filter(None, [given, *held]),
        f"output {shape_text(o.shape)}",
        *filter(None, costs),
        memory,
    ]
