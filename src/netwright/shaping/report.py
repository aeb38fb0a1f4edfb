"""report.html: one file that a person can read anywhere, without a network; and front.svg, its picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from netwright import _files
from netwright.shaping import chart
from netwright.shaping.final import onnx_snippet, torch_snippet
from netwright.shaping.front import Front, Shaped
from netwright.shaping.propose import Record
from netwright.shaping.state import Folder

#: More layers than this are shown by the blocks they belong to.
_ROWS = 48


def write(folder: Folder, front: Front) -> None:
    """Write report.html and front.svg into the study's folder."""
    _files.write_text(folder.path / "front.svg", picture(front) + "\n")
    _files.write_text(folder.path / "report.html", render(front))


def render(front: Front) -> str:
    """The report as one HTML document.

    Args:
        front: What the study found.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("netwright.shaping", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "percent": percent,
        "points": points,
        "size": size,
        "ms": milliseconds,
        "against_dense": against_dense,
        "remark": remark,
    }
    pick = front.recommended or front.nearest
    return environment.get_template("report.html.j2").render(
        front=front,
        info=front.info,
        dense=front.dense,
        pick=pick,
        headline=headline(pick, front.dense),
        sentence=sentence(front, pick),
        legend=legend(front),
        quality=front.info["quality"],
        labelled=front.info["quality"] == "test accuracy",
        charts=_charts(front),
        rules=chart.RULES,
        trials=_trials(front),
        document=_document(front, pick),
        onnx=onnx_snippet(pick.name, front.info),
        torch=torch_snippet(pick.name, front.info),
        environment=_environment(front),
    )


def headline(pick: Shaped, dense: Shaped) -> str:
    """The result in a few words."""
    if pick.candidate == dense.candidate:
        return "The dense network is the best there is within this budget"
    speed = 1 / max(pick.ratio, 1e-9)
    fast = (
        f"{speed:.1f}× faster" if speed >= 1.05 else "As fast" if speed > 0.95 else f"{1 / speed:.1f}× slower"
    )
    known = pick.change
    if known is not None and known.low <= 0 <= known.high:
        return f"{fast}, as accurate as far as {pick.test['count']:,} test examples can tell"
    change = (pick.quality - dense.quality) * 100
    if abs(change) < 0.05:
        return f"{fast}, as accurate"
    return f"{fast}, {abs(change):.1f} points {'less' if change < 0 else 'more'} accurate"


def sentence(front: Front, pick: Shaped) -> str:
    """The result in one sentence."""
    dense, info = front.dense, front.info
    lead = "Take" if front.met else f"No candidate meets {front.budget}; the nearest is"
    quality = info["quality"]
    return (
        f"{lead} {pick.name}: {milliseconds(pick.latency_ms)} an example instead of "
        f"{milliseconds(dense.latency_ms)} in ONNX Runtime on {info['environment']['threads']} "
        f"thread{'s' if info['environment']['threads'] != 1 else ''}, "
        f"{percent(pick.outcome.macs / max(dense.outcome.macs, 1), 0)} of the "
        f"multiply-accumulates, {size(pick.outcome.size)} instead of {size(dense.outcome.size)} on disk, "
        f"and {percent(pick.quality)} {quality} ({percent(dense.quality)} dense)."
    )


def against_dense(network: Shaped) -> str:
    """The change of test accuracy from the dense network's, in points, with half its 95 % interval."""
    known = network.change
    if known is None or (network.candidate.dense and network.candidate.bits == 32):
        return "–"
    return f"{known.value * 100:+.2f} ± {(known.high - known.low) * 50:.2f}".replace("-", "−")


def remark(network: Shaped) -> str:
    """Why a network is kept where it is not plainly best, and which cheaper one may be as good."""
    parts = [" and ".join(network.reasons)] if network.reasons else []
    if network.like:
        parts.append(f"≈ {network.like}")
    return ", ".join(parts)


def legend(front: Front) -> str:
    """How to read the remarks of a front; empty where there are none."""
    examples = front.info.get("validation_examples")
    many = f"{examples:,} validation examples" if examples else "the validation examples"
    parts = []
    if any(n.like for n in front):
        parts.append(f"≈ NAME: that one is cheaper, and {many} cannot tell it less accurate (paired, 95 %).")
    if any(n.reasons for n in front):
        parts.append(
            "Smaller file, less arithmetic (MACs × bits), lower loss: why a network is kept although a "
            "cheaper one scored at least as well, by no more than the examples can tell."
        )
    return " ".join(parts)


def picture(front: Front) -> str:
    """The front as a picture that stands alone, in light and dark."""
    return chart.scatter(_points(front, "latency"), alone=True, **_axes(front, "latency"))


def _axes(front: Front, metric: str) -> dict[str, Any]:
    dense, budget = front.dense, front.budget
    titles = {
        "latency": "milliseconds an example, measured in ONNX Runtime",
        "macs": "million multiply-accumulates",
        "size": "kilobytes on disk",
    }
    limit = getattr(budget, metric)
    whole = _x(dense, metric)
    scale = {"latency": 1.0, "macs": 1e-6, "size": 1e-3}[metric]
    most = None if limit is None else limit.value * whole if limit.relative else limit.value * scale
    least = None
    if budget.accuracy is not None:
        base = 1 - dense.outcome.error
        least = base + budget.accuracy.value if budget.accuracy.relative else budget.accuracy.value
    labelled = front.info["quality"] == "test accuracy"
    title = "validation accuracy" if labelled else "agreement with the dense network (validation)"
    return {"x_title": titles[metric], "y_title": title, "x_limit": most, "y_limit": least}


def _x(network: Shaped, metric: str) -> float:
    if metric == "latency":
        return network.latency_ms
    return network.outcome.macs / 1e6 if metric == "macs" else network.outcome.size / 1e3


def _points(front: Front, metric: str) -> list[chart.Point]:
    result = []
    for i, network in enumerate(front.networks):
        result.append(
            chart.Point(
                x=_x(network, metric),
                accuracy=1 - network.outcome.error,
                kind=_kind(network.candidate.bits),
                role="dense" if network.candidate.dense else "front",
                label=f"{network.name}: {milliseconds(network.latency_ms)}, "
                f"{percent(1 - network.outcome.error)}",
                index=i,
                recommended=network.recommended,
                alike=network.like is not None,
                name=network.name if network.recommended else "",
            )
        )
    return result + _tried(front, metric)


def _tried(front: Front, metric: str) -> list[chart.Point]:
    """Candidates that others beat; their time is predicted, on the scale of the measured ones."""
    shown = {n.slot for n in front.networks}
    ratios = sorted(n.latency_ms / n.outcome.cost for n in front.networks if n.outcome.cost > 0)
    timed = front.info["metric"] == "latency"
    if metric == "latency" and not (timed and ratios):
        return []
    scale = ratios[len(ratios) // 2] if ratios else 1.0
    points_ = []
    for record in front.records:
        outcome = record.outcome
        if outcome is None or record.slot in shown:
            continue
        x = {"latency": outcome.cost * scale, "macs": outcome.macs / 1e6, "size": outcome.size / 1e3}[metric]
        note = " (time predicted)" if metric == "latency" else ""
        how = outcome.carried_out(record.candidate).describe()
        label = f"trial {record.slot}: {how}, {percent(1 - outcome.error)}{note}"
        points_.append(chart.Point(x, 1 - outcome.error, _kind(record.candidate.bits), "tried", label))
    return points_


def _charts(front: Front) -> list[dict[str, str]]:
    names = {"latency": "Latency", "macs": "MACs", "size": "File size"}
    result = []
    for metric, name in names.items():
        points_, axes = _points(front, metric), _axes(front, metric)
        result.append(
            {
                "key": metric,
                "name": name,
                "wide": chart.scatter(points_, **axes),
                "narrow": chart.scatter(points_, **axes, width=380, height=360),
            }
        )
    return result


def _kind(bits: int) -> str:
    return "int8" if bits == 8 else "fp32"


def _trials(front: Front) -> list[dict[str, Any]]:
    shown = {n.slot: n.on_front for n in front.networks}
    return [_trial(r, front=shown.get(r.slot, False)) for r in front.records]


def _trial(record: Record, *, front: bool) -> dict[str, Any]:
    outcome, candidate = record.outcome, record.candidate
    return {
        "slot": record.slot,
        "candidate": candidate if outcome is None else outcome.carried_out(candidate),
        "bits": _kind(candidate.bits),
        "outcome": outcome,
        "quality": None if outcome is None else 1 - outcome.error,
        "front": front,
        "failure": record.failure,
    }


def _document(front: Front, pick: Shaped) -> dict[str, Any]:
    """What the page's script needs: tooltips and the layers of every network."""
    names, columns = _layers([n.outcome.layers for n in front.networks])
    rows = []
    for network, values in zip(front.networks, columns, strict=True):
        latency = network.latency
        rows.append(
            {
                "name": network.name,
                "lines": [
                    f"{milliseconds(network.latency_ms)} ({latency['q1_ms']:.3f}-{latency['q3_ms']:.3f}), "
                    f"{1 / max(network.ratio, 1e-9):.2f}× dense",
                    f"{percent(1 - network.outcome.error)} validation, {percent(network.quality)} test",
                    f"{count(network.outcome.macs)} MACs, {count(network.outcome.params)} parameters",
                    f"{size(network.outcome.size)} on disk",
                    network.outcome.carried_out(network.candidate).describe(),
                    *([remark(network)] if remark(network) else []),
                ],
                "macs": [v[0] for v in values],
                "params": [v[1] for v in values],
            }
        )
    dense = front.networks.index(front.dense)
    return {"networks": rows, "layers": names, "dense": dense, "pick": front.networks.index(pick)}


def _layers(networks: Sequence[list[list[Any]]]) -> tuple[list[str], list[list[list[int]]]]:
    """MACs and parameters of every network by layer; by block where there are too many layers to look at."""
    every = list(OrderedDict.fromkeys(str(row[0]) or "(top)" for rows in networks for row in rows))
    depth = max((name.count(".") + 1 for name in every), default=1)
    while depth > 1 and len({_cut(name, depth) for name in every}) > _ROWS:
        depth -= 1
    names = list(OrderedDict.fromkeys(_cut(name, depth) for name in every))
    columns = []
    for rows in networks:
        sums = {name: [0, 0] for name in names}
        for row in rows:
            entry = sums[_cut(str(row[0]) or "(top)", depth)]
            entry[0] += int(row[2])
            entry[1] += int(row[3])
        columns.append([sums[name] for name in names])
    heavy = [i for i in range(len(names)) if any(c[i][0] for c in columns)] or list(range(len(names)))
    return [names[i] for i in heavy], [[column[i] for i in heavy] for column in columns]


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _environment(front: Front) -> dict[str, Any]:
    info = front.info
    known = dict(info["environment"])
    rows = {
        "Command": known.pop("command"),
        "Model and data": f"{info['model']} on {info['data']}",
        "Budget": str(front.budget),
        "Dense network": "trained here" if info["baseline"]["trained"] else "as given",
        "What can shrink": info["space"],
        "Time of this run": f"{info['seconds']:.0f} s",
        "Processor": f"{known.pop('processor')}, {known.pop('cores')} cores",
        "Measured on": f"{known.pop('threads')} thread(s), batch 1, medians, all files in turn",
    }
    rest = ", ".join(f"{k} {v}" for k, v in known.items())
    return {**rows, "Versions and settings": rest, "Study": info["study"]}


def count(value: float) -> str:
    """A count with three figures: 41.2 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= factor:
            return (
                f"{value / factor:.3g} {unit}" if value < 999.5 * factor else f"{value / factor:.0f} {unit}"
            )
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with three figures: 1.08 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return (
                f"{value / factor:.3g} {unit}" if value < 999.5 * factor else f"{value / factor:.0f} {unit}"
            )
    return f"{value:.0f} B"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent."""
    return "–" if value is None else f"{value * 100:.{digits}f}%"


def points(value: float) -> str:
    """A change of a share in points, with its sign."""
    return f"{value * 100:+.2f} points".replace("-", "−")


def milliseconds(value: float) -> str:
    """A time with three figures."""
    return f"{value:.3g} ms"
