"""The ordinary FastRP run: WordNet, contacts and random graphs of growing size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from netwright.graphs import CSRGraph, GraphData, contacts, deepwalk, fastrp, largest_ball, wordnet
from netwright.graphs.sources import CONTACTS
from netwright.metrics.link_prediction import LinkScore, LinkSplit, cosine, evaluate_links, split_links
from netwright.metrics.node_classification import NodeScore, evaluate_nodes
from netwright.papers.fastrp_parts import (
    STRENGTHS,
    Setting,
    over_seeds,
    ratio,
    timed,
    tune,
)
from netwright.papers.fastrp_thesis import similarity_against_reduction
from netwright.papers.noise import noise
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run, one_thread

_DIM = 128
_WALKS = {"walks": 10, "length": 40, "window": 10, "negatives": 5, "lr": 0.05}


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    with one_thread():
        whole = wordnet().data
        data = GraphData("wordnet", whole.graph.sym(), whole.labels, whole.classes)
        if run.quick:
            data = data.subset(_around_entity(data, 2000))
        budget = _WALKS | ({"walks": 1} if run.quick else {})
        run.settings |= {"dim": _DIM, "train fraction": 0.1, "DeepWalk": budget, "threads": 1}
        run.log(f"{data.graph}: {data.graph.entries // 2:,} edges, {len(data.classes)} labels")
        setting = tune(run, data.graph, data.labels, _DIM)
        panels = [_against_deepwalk(run, data, setting, budget)]
        _beyond(run, data, setting)
        panels += [_orders(run, data, setting), _projections(run, data, setting), _betas(run, data, setting)]
        _node2vec(run, data, setting, budget)
        _links(run, data, setting, budget)
        panels.append(_sizes(run, setting, budget))
        panels.append(_thesis(run, data))
    run.plot(figure("FastRP on WordNet and contacts", panels, columns=2))


def _around_entity(data: GraphData, size: int) -> Any:
    """The synsets nearest to `entity`, the root of the nouns: a connected part with most of the labels."""
    return largest_ball(data.graph, size, start=0)


def _vectors(run: Run, data: GraphData, setting: Setting, **options: Any) -> Any:
    """A function from a seed to FastRP vectors; `options` replace settings."""
    given: dict[str, Any] = {"weights": setting.weights, "beta": setting.beta} | options
    return lambda seed: fastrp(data.graph, _DIM, seed=seed, **given).vectors


def _against_deepwalk(run: Run, data: GraphData, setting: Setting, budget: dict[str, Any]) -> Panel:
    """Quality and CPU time of both, on the same graph, width, thread and classifier protocol."""
    _, quick = timed(
        lambda: fastrp(data.graph, _DIM, setting.weights, setting.beta, run.seed), 1 if run.quick else 5
    )
    run.log(f"FastRP took {np.median(quick):.2f} CPU seconds; DeepWalk is running")
    walked, slow = timed(lambda: deepwalk(data.graph, _DIM, seed=run.seed, **budget))
    times, spread = ratio(slow[0], quick)
    run.log(f"DeepWalk took {slow[0]:.1f} CPU seconds")
    run.measure("times faster than DeepWalk", times, spread, "CPU seconds of one thread; walks and training")
    protocol: dict[str, Any] = {"C": STRENGTHS, "shuffles": 2 if run.quick else 5}
    ours = over_seeds(run, _vectors(run, data, setting), data.labels, run.seeds(), **protocol)
    theirs = evaluate_nodes(walked.vectors, data.labels, seed=run.seed, **protocol)
    for name, mine, other in (("micro", ours.micro, theirs.micro), ("macro", ours.macro, theirs.macro)):
        run.measure(f"{name}-F1 above DeepWalk's", float((mine - other).mean()), noise(mine - other))
    rows: list[tuple[Any, ...]] = [
        _row("FastRP", ours, float(np.median(quick))),
        _row("DeepWalk", theirs, slow[0]),
    ]
    rows.append(("majority class", _majority(data), None, None, None, None))
    columns = ("method", "micro-F1", "±", "macro-F1", "C", "CPU seconds")
    note = f"{data.graph.n:,} synsets, {len(data.classes)} labels, 10 % labelled, {_DIM} dimensions."
    run.table("WordNet: node classification", columns, rows, note)
    panel = Panel("WordNet, 10 % labelled", "micro-F1")
    return panel.bar("FastRP", ours.micro_f1, noise(ours.micro)).bar(
        "DeepWalk", theirs.micro_f1, noise(theirs.micro)
    )


def _beyond(run: Run, data: GraphData, setting: Setting) -> None:
    """Whether more dimensions or more orders than the paper's close the gap to DeepWalk."""
    wide = 128 if run.quick else 512
    long = (0.0, 0.0) + (1.0,) * 8
    rows: list[tuple[Any, ...]] = []
    for name, dim, weights in (("orders 3 and 4", wide, setting.weights), ("orders 3 to 10", _DIM, long)):
        made = fastrp(data.graph, dim, weights, setting.beta, run.seed)
        score = evaluate_nodes(made.vectors, data.labels, C=0.1, seed=run.seed, shuffles=2)
        rows.append((name, dim, score.micro_f1, score.macro_f1))
    run.table(
        "Beyond the paper's settings", ("what", "dimensions", "micro-F1", "macro-F1"), rows, "Not claims."
    )
    degree = data.graph.entries / data.graph.n
    run.tried(
        f"WordNet is nearly a tree (mean degree {degree:.1f}): four steps from a synset meet few others. "
        f"{wide} dimensions: micro-F1 {rows[0][2]:.3f}; orders 3 to 10, {_DIM} dimensions: {rows[1][2]:.3f}."
    )


def _row(name: str, score: NodeScore, seconds: float) -> tuple[str | float, ...]:
    return (name, score.micro_f1, noise(score.micro), score.macro_f1, score.C, seconds)


def _majority(data: GraphData) -> float:
    counts = np.asarray(data.labels.sum(axis=0)).ravel()  # type: ignore[union-attr]
    return float(counts.max() / counts.sum())


def _sweep(run: Run, data: GraphData, cases: dict[str, Any], setting: Setting) -> dict[str, NodeScore]:
    """Score FastRP under several options: two shuffles, the regularisation fixed at 0.1."""
    scores = {}
    for name, options in cases.items():
        make = _vectors(run, data, setting, **options)
        scores[name] = over_seeds(run, make, data.labels, run.seeds(2), shuffles=2, C=0.1)
        run.log(f"{name}: micro-F1 {scores[name].micro_f1:.3f}")
    return scores


def _bars(title: str, scores: dict[str, NodeScore]) -> Panel:
    panel = Panel(title, "micro-F1")
    for name, score in scores.items():
        panel.bar(name, score.micro_f1)
    return panel


def _table(run: Run, title: str, column: str, scores: dict[str, NodeScore], note: str) -> None:
    rows = [(name, score.micro_f1, score.macro_f1) for name, score in scores.items()]
    run.table(title, (column, "micro-F1", "macro-F1"), rows, note)


def _orders(run: Run, data: GraphData, setting: Setting) -> Panel:
    low = {"order 1": (1.0,), "order 2": (0.0, 1.0), "1 and 2": (1.0, 1.0)}
    high = {"order 3": (0.0, 0.0, 1.0), "order 4": (0.0, 0.0, 0.0, 1.0), "3 and 4": setting.weights}
    scores = _sweep(
        run, data, {name: {"weights": weights} for name, weights in (low | high).items()}, setting
    )
    best = max(low, key=lambda name: scores[name].micro_f1)
    gain = scores["3 and 4"].micro - scores[best].micro
    run.measure(
        "micro-F1 of orders 3 and 4 above orders 1 and 2",
        float(gain.mean()),
        noise(gain),
        f"against the best: {best}",
    )
    _table(run, "Orders", "orders", scores, f"beta {setting.beta}; C = 0.1, two shuffles, two seeds.")
    return _bars("Orders of the transition matrix", scores)


def _projections(run: Run, data: GraphData, setting: Setting) -> Panel:
    sparse, dense = "s = sqrt(n)", "s = 1"
    kinds = {dense: 1.0, "s = 3": 3.0, sparse: "very-sparse", "Gaussian": "gaussian"}
    scores = _sweep(run, data, {name: {"projection": kind} for name, kind in kinds.items()}, setting)
    loss = scores[sparse].micro - scores[dense].micro
    run.measure("micro-F1 of very sparse above dense projection", float(loss.mean()), noise(loss))
    rows = []
    for name, kind in kinds.items():
        made = lambda k=kind: fastrp(data.graph, _DIM, setting.weights, setting.beta, run.seed, k)  # noqa: E731
        _, seconds = timed(made, 1 if run.quick else 3)
        rows.append((name, scores[name].micro_f1, scores[name].macro_f1, float(np.median(seconds))))
    run.table(
        "Projections", ("projection", "micro-F1", "macro-F1", "CPU seconds"), rows, "s = 1 has no zeros."
    )
    return _bars("Density of the projection", scores)


def _betas(run: Run, data: GraphData, setting: Setting) -> Panel:
    scores = _sweep(run, data, {str(b): {"beta": b} for b in (-0.9, -0.6, -0.3, 0.0)}, setting)
    _table(run, "Degree exponent", "beta", scores, "The best value depends on the graph.")
    points = [(float(name), score.micro_f1) for name, score in scores.items()]
    return Panel("Degree exponent", "micro-F1", "beta").line("WordNet", points)


def _node2vec(run: Run, data: GraphData, setting: Setting, budget: dict[str, Any]) -> None:
    """node2vec's grid of p and q beside DeepWalk (p = q = 1), on a connected subgraph for its cost."""
    part = data.subset(_around_entity(data, 500 if run.quick else 5000))
    grid = (0.25, 1.0, 4.0) if not run.quick else (1.0, 4.0)
    ours = over_seeds(run, _vectors(run, part, setting), part.labels, run.seeds(), C=STRENGTHS)
    rows: list[tuple[Any, ...]] = [("FastRP", None, None, ours.micro_f1, ours.macro_f1)]
    for p, q in ((p, q) for p in grid for q in grid):
        walked = deepwalk(part.graph, _DIM, p=p, q=q, seed=run.seed, **budget)
        score = evaluate_nodes(walked.vectors, part.labels, C=STRENGTHS, seed=run.seed)
        rows.append(("DeepWalk" if p == q == 1 else "node2vec", p, q, score.micro_f1, score.macro_f1))
    note = f"The {part.graph.n:,} synsets nearest to `entity`; 10 % labelled; not a claim."
    run.table("node2vec", ("method", "p", "q", "micro-F1", "macro-F1"), rows, note)
    run.log("node2vec done")


def _links(run: Run, data: GraphData, setting: Setting, budget: dict[str, Any]) -> None:
    """Hold out 10 % of the edges; every method sees the same split and is scored by cosine."""
    ball = _around_entity(data, 1000 if run.quick else 20_000)
    graphs = {"WordNet, part": data.graph.subgraph(ball)}
    graphs |= {name: contacts(name).data.graph for name in (CONTACTS[:1] if run.quick else CONTACTS)}
    rows: list[tuple[Any, ...]] = []
    gaps = []
    for name, graph in graphs.items():
        split = split_links(*graph.pairs(), graph.n, seed=run.seed)
        train = _graph(split, graph.n)
        ours = [
            _scored(split, fastrp(train, _DIM, setting.weights, setting.beta, s).vectors) for s in run.seeds()
        ]
        auc, ap = (float(np.mean([getattr(score, k) for score in ours])) for k in ("auc", "ap"))
        theirs = _scored(split, deepwalk(train, _DIM, seed=run.seed, **budget).vectors)
        degree = evaluate_links(
            *(train.degree[pairs].prod(axis=1) for pairs in (split.positive, split.negative))
        )
        rows.append((name, graph.n, len(split.positive), auc, ap, theirs.auc, theirs.ap, degree.auc))
        gaps.append(auc - theirs.auc)
        run.log(f"links of {name}: AUC {auc:.3f}, DeepWalk {theirs.auc:.3f}")
    if not run.quick:
        split = split_links(*data.graph.pairs(), data.graph.n, seed=run.seed)
        train = _graph(split, data.graph.n)
        score = _scored(split, fastrp(train, _DIM, setting.weights, setting.beta, run.seed).vectors)
        rows.append(
            ("WordNet, whole", data.graph.n, len(split.positive), score.auc, score.ap, None, None, None)
        )
    note = "Mean gap over the graphs with both methods, spread over the graphs; settings as tuned for labels."
    run.measure("link prediction AUC above DeepWalk's", float(np.mean(gaps)), noise(gaps), note)
    columns = ("graph", "nodes", "held out", "FastRP AUC", "AP", "DeepWalk AUC", "AP ", "degree AUC")
    run.table("Link prediction, 10 % of the edges held out", columns, rows, note)


def _graph(split: LinkSplit, n: int) -> CSRGraph:
    return CSRGraph.from_edges(split.train[:, 0], split.train[:, 1], n)


def _scored(split: LinkSplit, vectors: Any) -> LinkScore:
    score = cosine(vectors)
    return evaluate_links(score(split.positive), score(split.negative))


def _sizes(run: Run, setting: Setting, budget: dict[str, Any]) -> Panel:
    """Time against the number of edges, random graphs of mean degree 20."""
    rows: list[tuple[Any, ...]] = []
    ranges: list[tuple[int, list[float]]] = []
    for edges in (1000, 10_000) if run.quick else (1000, 10_000, 100_000, 1_000_000):
        rng = np.random.default_rng(run.seed)
        nodes = edges // 10
        graph = CSRGraph.from_edges(rng.integers(0, nodes, edges), rng.integers(0, nodes, edges), nodes)
        repeats = 3 if edges >= 100_000 else 9
        _, quick = timed(lambda g=graph: fastrp(g, _DIM, setting.weights, setting.beta, run.seed), repeats)  # type: ignore[misc]
        one, two = (_wall(graph, setting, threads, repeats) for threads in (1, 2))
        _, slow = timed(lambda g=graph: deepwalk(g, _DIM, seed=run.seed, **budget))  # type: ignore[misc]
        times, _ = ratio(slow[0], quick)
        rows.append((graph.entries // 2, graph.n, float(np.median(quick)), one, two, slow[0], times))
        ranges.append((graph.entries // 2, quick))
        run.log(f"{graph.entries // 2:,} edges: {np.median(quick):.3f} s, DeepWalk {slow[0]:.1f} s")
    columns = (
        "edges",
        "nodes",
        "CPU s",
        "wall s, 1 thread",
        "wall s, 2 threads",
        "DeepWalk CPU s",
        "times faster",
    )
    run.table(
        "Time against size", columns, rows, "Random graphs of mean degree 20; the machine may be shared."
    )
    large = [(edges, seconds) for edges, seconds in ranges if edges > 5000]
    if len(large) > 1:
        slope, spread = _exponent(large)
        note = (
            f"least squares over {len(large)} graphs from 10,000 edges up; the spread is that of the repeats"
        )
        run.measure("growth of time with edges (exponent)", slope, spread, note)
    panel = Panel("Time against size", "seconds", "edges", log_x=True, log_y=True)
    panel.line("FastRP", [(row[0], row[2]) for row in rows])
    return panel.line("DeepWalk", [(row[0], row[5]) for row in rows])


def _exponent(times: list[tuple[int, list[float]]]) -> tuple[float, float]:
    """Slope of log time over log edges, and half its 95 % range over resampled repeats of each size."""
    rng = np.random.default_rng(0)
    x = np.log([edges for edges, _ in times])

    def slope(seconds: list[float]) -> float:
        return float(np.polyfit(x, np.log(seconds), 1)[0])

    draws = [slope([float(np.median(rng.choice(s, len(s)))) for _, s in times]) for _ in range(500)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return slope([float(np.median(s)) for _, s in times]), float(high - low) / 2


def _wall(graph: CSRGraph, setting: Setting, threads: int, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fastrp(graph, _DIM, setting.weights, setting.beta, threads=threads)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _thesis(run: Run, data: GraphData) -> Panel:
    """The paper's thesis: which similarity is reduced matters more than how it is reduced."""
    school = contacts("Primary_School").data
    part = data.subset(_around_entity(data, 500 if run.quick else 5000))
    panel = Panel("Similarity (bars) by best reduction", "micro-F1")
    for name, graph, dim, fraction in (("contacts", school, 32, 0.3), ("WordNet", part, _DIM, 0.1)):
        table = similarity_against_reduction(run, graph, dim, fraction)
        columns = ("similarity", *table.reductions)
        rows = [(row, *cells.tolist()) for row, cells in zip(table.similarities, table.scores, strict=True)]
        note = f"micro-F1, {graph.graph.n:,} nodes to {dim} dimensions, {fraction:.0%} labelled."
        run.table(f"Similarity against reduction, {name}", columns, rows, note)
        times, spread = table.ratio()
        run.measure(f"similarity matters more than reduction, {name} (times)", times, spread)
        run.log(f"{name}: the similarity matters {times:.1f} ± {spread:.1f} times as much as the reduction")
        if name == "WordNet":
            for row, cells in zip(table.similarities, table.scores, strict=True):
                panel.bar(row, float(cells.max()))
    return panel
