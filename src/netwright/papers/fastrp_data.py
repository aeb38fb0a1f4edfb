"""FastRP on a graph that the user gives: the published BlogCatalog table, or an embedding of any graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from netwright.graphs import GraphData, deepwalk, fastrp, read
from netwright.metrics.node_classification import evaluate_nodes
from netwright.papers.fastrp_parts import Setting, over_seeds, ratio, timed, tune
from netwright.papers.noise import noise
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run, one_thread

_DIM = 512
_SCOPE = "blogcatalog"
_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


def measure(run: Run, path: Path) -> None:
    """Repeat the BlogCatalog table where the file is that graph; else embed the graph and save it."""
    data = read(path)
    graph = data.graph.sym() if data.graph.directed else data.graph
    data = GraphData(data.name, graph, data.labels, data.classes)
    run.log(f"{path.name}: {graph}")
    with one_thread():
        if (graph.n, graph.entries // 2, len(data.classes)) == (10_312, 333_983, 39):
            run.scope = _SCOPE
            _blogcatalog(run, data)
        else:
            _own(run, data)


def _blogcatalog(run: Run, data: GraphData) -> None:
    budget: dict[str, Any] = {
        "walks": 1 if run.quick else 80,
        "length": 40,
        "window": 10,
        "negatives": 5,
        "lr": 0.05,
    }
    run.settings |= {"dim": _DIM, "C": 0.1, "DeepWalk": budget | {"dim": 128}, "threads": 1}
    setting = tune(run, data.graph, data.labels, _DIM)
    _, quick = timed(
        lambda: fastrp(data.graph, _DIM, setting.weights, setting.beta, run.seed), 1 if run.quick else 5
    )
    walked, slow = timed(lambda: deepwalk(data.graph, 128, seed=run.seed, **budget))
    times, spread = ratio(slow[0], quick)
    run.measure(
        "BlogCatalog times faster than DeepWalk", times, spread, "CPU seconds of one thread, 80 walks a node"
    )
    run.log(f"{np.median(quick):.2f} s against {slow[0]:.1f} s")

    def ours(found: Setting, fraction: float) -> Any:
        make = lambda seed: fastrp(data.graph, _DIM, found.weights, found.beta, seed).vectors  # noqa: E731
        return over_seeds(run, make, data.labels, run.seeds(), fraction=fraction, C=0.1)

    # The published DeepWalk figure is with C = 1; the better of several is taken for it.
    theirs = evaluate_nodes(walked.vectors, data.labels, C=(0.01, 0.1, 1.0), seed=run.seed)
    best = ours(setting, 0.1)
    for name, mine, other in (("micro", best.micro, theirs.micro), ("macro", best.macro, theirs.macro)):
        run.measure(f"BlogCatalog {name}-F1, 10 % labelled", float(mine.mean()), noise(mine))
        run.measure(
            f"BlogCatalog {name}-F1 above DeepWalk's", float((mine - other).mean()), noise(mine - other)
        )
    published = ours(Setting(-0.628, 45.28 / 7.81), 0.1)
    rows: list[tuple[Any, ...]] = [
        ("FastRP, tuned here", setting.beta, setting.a4, best.micro_f1, best.macro_f1, 0.376, 0.232),
        (
            "FastRP, published settings",
            -0.628,
            45.28 / 7.81,
            published.micro_f1,
            published.macro_f1,
            0.376,
            0.232,
        ),
        ("DeepWalk", None, None, theirs.micro_f1, theirs.macro_f1, 0.364, 0.213),
    ]
    columns = ("method", "beta", "a4", "micro-F1", "macro-F1", "published micro", "published macro")
    note = "10 % labelled, C = 0.1 (DeepWalk: chosen by validation), 5 shuffles; FastRP: mean over the seeds."
    run.table("BlogCatalog", columns, rows, note)
    _fractions(run, data, setting, walked.vectors, theirs.C)


def _fractions(run: Run, data: GraphData, setting: Setting, walked: Any, strength: float) -> None:
    vectors = fastrp(data.graph, _DIM, setting.weights, setting.beta, run.seed).vectors
    rows = []
    for fraction in _FRACTIONS[:1] if run.quick else _FRACTIONS:
        mine = evaluate_nodes(vectors, data.labels, fraction=fraction, C=0.1, seed=run.seed, shuffles=3)
        other = evaluate_nodes(walked, data.labels, fraction=fraction, C=strength, seed=run.seed, shuffles=3)
        rows.append((fraction, mine.micro_f1, mine.macro_f1, other.micro_f1, other.macro_f1))
    columns = ("labelled", "FastRP micro-F1", "macro-F1", "DeepWalk micro-F1", "macro-F1 ")
    run.table("BlogCatalog by share of labels", columns, rows, "First seed, three shuffles.")
    panels = []
    for title, k in (("micro-F1", 1), ("macro-F1", 2)):
        panel = Panel(f"BlogCatalog: {title}", title, "share labelled")
        panel.line("FastRP", [(row[0], row[k]) for row in rows]).line(
            "DeepWalk", [(row[0], row[k + 2]) for row in rows]
        )
        panels.append(panel)
    run.plot(figure("FastRP and DeepWalk on BlogCatalog", panels))


def _own(run: Run, data: GraphData) -> None:
    run.scope = data.name
    run.no_verdict("nothing was published about this graph")
    setting = Setting() if data.labels is None else tune(run, data.graph, data.labels, _DIM)
    embedding, seconds = timed(lambda: fastrp(data.graph, _DIM, setting.weights, setting.beta, run.seed))
    rows: list[tuple[Any, ...]] = [("nodes", data.graph.n), ("edges", data.graph.entries // 2)]
    rows += [("beta", setting.beta), ("a4", setting.a4), ("CPU seconds", seconds[0])]
    if data.labels is not None:
        score = evaluate_nodes(embedding.vectors, data.labels, C=(0.01, 0.1, 1.0), seed=run.seed)
        rows += [("micro-F1, 10 % labelled", score.micro_f1), ("macro-F1, 10 % labelled", score.macro_f1)]
    if run.out is not None:
        saved = embedding.save(run.out / f"fastrp-{data.name}.npz")
        rows.append(("vectors", str(saved)))
        run.log(f"wrote {saved}")
    run.table(data.name, ("what", "value"), rows)
