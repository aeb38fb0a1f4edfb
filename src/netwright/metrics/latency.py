"""Latency, measured side by side so that the machine's drift cancels."""

from __future__ import annotations

import contextlib
import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import ModelError, UsageError
from netwright.metrics.session import Example, feed, open_session

Net = nn.Module | Path | str
RuntimeName = Literal["onnxruntime", "torch"]

_WARMUP_RUNS = 5
_WARMUP_SECONDS = 0.1
#: A network's turn lasts about this long at least, so that short runs are not all measured on cold caches.
_TURN_MS = 5.0
_LONGEST_COLD_MS = 20.0
_LEAST_ROUNDS = 10


@dataclass(frozen=True)
class Latency:
    """Time of one inference.

    Args:
        median_ms: Median wall time of a run, in milliseconds.
        q1_ms: Lower quartile.
        q3_ms: Upper quartile.
        runs: Timed runs.
        threads: Threads inside an operator.
        runtime: ``"onnxruntime"`` or ``"torch"``.
        batch: Examples of one run.
        device: Where it ran.
        ratio: Median over rounds of this network's time by the baseline's, or None without a baseline. Below
            1 is faster than the baseline.
        ratio_q1: Lower quartile of that.
        ratio_q3: Upper quartile of that.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    runs: int
    threads: int
    runtime: str
    batch: int
    device: str = "cpu"
    ratio: float | None = None
    ratio_q1: float | None = None
    ratio_q3: float | None = None

    @property
    def speedup(self) -> float | None:
        """How many times faster than the baseline, or None without one."""
        return None if self.ratio is None else 1 / self.ratio

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


def latency(
    net: Net,
    example: Example,
    *,
    against: Net | None = None,
    runtime: RuntimeName | None = None,
    threads: int = 1,
    min_runs: int = 30,
    min_seconds: float = 1.0,
    device: str = "cpu",
) -> Latency:
    """Measure the latency of one network, alternating with a baseline where one is given.

    Args:
        net: A module (runs in PyTorch) or the path of an ONNX file (runs in ONNX Runtime).
        example: The input of one run: a tensor, a tuple, or a dict by input name.
        against: Baseline that is measured in turn; `ratio` is the network's time by the baseline's.
        runtime: Refuse any other runtime; None takes what the network is.
        threads: Threads inside an operator.
        min_runs: Timed runs at least.
        min_seconds: Timed seconds at least; both are fulfilled.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        ArtefactError: if a file is no ONNX network.
        ModelError: if a module rejects the example.
        DataError: if the example does not fit a file's inputs.
        UsageError: if the runtime asked for is not the network's.
    """
    nets = {"net": net} if against is None else {"net": net, "against": against}
    measured = latencies(
        nets,
        example,
        baseline=None if against is None else "against",
        runtime=runtime,
        threads=threads,
        min_runs=min_runs,
        min_seconds=min_seconds,
        device=device,
    )
    return measured["net"]


def latencies(
    nets: Mapping[str, Net],
    example: Example,
    *,
    baseline: str | None = None,
    runtime: RuntimeName | None = None,
    threads: int = 1,
    min_runs: int = 30,
    min_seconds: float = 1.0,
    device: str = "cpu",
) -> dict[str, Latency]:
    """Measure several networks in turn, A B C A B C, so that the machine's drift meets all alike.

    Each turn of a network is one run, or as many as make the turns about equally long; its first run is not
    timed where runs are short, because the network before it has emptied the caches. Arguments are as for
    `latency`; `baseline` names the network that the ratios refer to.
    """
    if not nets:
        return {}
    if baseline is not None and baseline not in nets:
        raise UsageError(
            f"the baseline {baseline!r} is not among the networks", f"they are {', '.join(nets)}"
        )
    if threads < 1 or min_runs < 1:
        raise UsageError(f"threads={threads}, runs={min_runs}: both must be 1 or more")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_torch_threads(threads))
        stack.enter_context(torch.inference_mode())
        timers = {k: _timer(n, example, runtime, threads, device, stack) for k, n in nets.items()}
        stack.enter_context(_no_collection())
        rounds = _rounds(timers, min_runs, min_seconds)
    results = {}
    for name, net in nets.items():
        runs = [t for turn in rounds[name] for t in turn]
        ratios = _ratios(rounds[name], rounds[baseline]) if baseline is not None else None
        results[name] = _summary(net, runs, ratios, threads, _batch(example), device)
    return results


def _rounds(
    timers: Mapping[str, Callable[[], float]], min_runs: int, min_seconds: float
) -> dict[str, list[list[float]]]:
    """Time the networks in turn; returns per network the turns, each a list of milliseconds."""
    warm = {name: _warm_up(timer) for name, timer in timers.items()}
    turn_ms = max(_TURN_MS, *warm.values())
    repeats = {name: max(1, min(round(turn_ms / max(ms, 1e-4)), 1000)) for name, ms in warm.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in timers}
    timed = dict.fromkeys(timers, 0.0)
    count = 0
    while True:
        for name, timer in timers.items():
            if warm[name] < _LONGEST_COLD_MS:
                timer()
            turn = [timer() for _ in range(repeats[name])]
            rounds[name].append(turn)
            timed[name] += sum(turn)
        count += 1
        enough = all(count * repeats[n] >= min_runs and timed[n] >= 1000 * min_seconds for n in timers)
        if enough and count >= min(min_runs, _LEAST_ROUNDS):
            return rounds


def _warm_up(timer: Callable[[], float]) -> float:
    """Run until caches and allocators have settled; returns the median of the last runs in milliseconds."""
    times: list[float] = []
    while len(times) < _WARMUP_RUNS or (sum(times) < 1000 * _WARMUP_SECONDS and len(times) < 200):
        times.append(timer())
    return statistics.median(times[len(times) // 2 :])


def _timer(
    net: Net, example: Example, runtime: str | None, threads: int, device: str, stack: contextlib.ExitStack
) -> Callable[[], float]:
    """Return a function that runs a network once and returns the milliseconds."""
    kind = _runtime(net)
    if runtime is not None and runtime != kind:
        hint = "export it first" if kind == "torch" else "give the module itself"
        raise UsageError(f"this network runs in {kind}, not in {runtime}", hint)
    if isinstance(net, nn.Module):
        return _torch_timer(net, example, device, stack)
    session = open_session(net, threads=threads, device=device)
    values = feed(session, example)

    def run() -> float:
        begun = time.perf_counter()
        session.run(None, values)
        return (time.perf_counter() - begun) * 1e3

    return run


def _torch_timer(
    net: nn.Module, example: Example, device: str, stack: contextlib.ExitStack
) -> Callable[[], float]:
    where = torch.device(device)
    if any(t.device.type != where.type for t in (*net.parameters(), *net.buffers())):
        net = copy.deepcopy(net).to(where)
    modes = {module: module.training for module in net.modules()}
    stack.callback(_set_modes, modes)
    net.eval()
    args, kwargs = arguments(example, where)
    try:
        net(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        shapes = [tuple(t.shape) for t in (*args, *kwargs.values())]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the model rejects an input of shape {shapes} ({reason})", "give its input shape"
        ) from error

    def run() -> float:
        begun = time.perf_counter()
        net(*args, **kwargs)
        return (time.perf_counter() - begun) * 1e3

    def run_cuda() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(where)
        start.record()
        net(*args, **kwargs)
        end.record()
        torch.cuda.synchronize(where)
        return start.elapsed_time(end)

    return run_cuda if where.type == "cuda" else run


def arguments(example: Example, device: torch.device) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return positional and keyword arguments of a call, on a device."""
    if isinstance(example, Mapping):
        return (), {name: value.to(device) for name, value in example.items()}
    values = (example,) if isinstance(example, Tensor) else tuple(example)
    return tuple(value.to(device) for value in values), {}


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


def _runtime(net: Net) -> str:
    return "torch" if isinstance(net, nn.Module) else "onnxruntime"


def _batch(example: Example) -> int:
    first = (
        example
        if isinstance(example, Tensor)
        else next(iter(arguments(example, torch.device("cpu"))[0]), None)
    )
    if first is None and isinstance(example, Mapping):
        first = next(iter(example.values()))
    return len(first) if first is not None and first.dim() else 1


def _ratios(turns: list[list[float]], base: list[list[float]]) -> list[float]:
    """Return the ratio of each round, of the turns' medians."""
    return [statistics.median(a) / statistics.median(b) for a, b in zip(turns, base, strict=True)]


def _summary(
    net: Net, runs: list[float], ratios: list[float] | None, threads: int, batch: int, device: str
) -> Latency:
    q1, median, q3 = quartiles(runs)
    ratio = quartiles(ratios) if ratios else (None, None, None)
    return Latency(
        median, q1, q3, len(runs), threads, _runtime(net), batch, str(device), ratio[1], ratio[0], ratio[2]
    )


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, median, q3


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the timings."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
