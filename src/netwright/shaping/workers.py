"""Who evaluates candidates: this process, several processes of this machine, or a Ray cluster.

The parent owns the study; workers only evaluate. A worker that dies loses the trial it was at, and that one
is evaluated again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Protocol

from netwright._imports import require
from netwright.errors import ArtefactError, NetwrightError, StructureError
from netwright.shaping.candidate import Candidate, Evaluator, Outcome

Result = Outcome | NetwrightError

_ATTEMPTS = 3


class Pool(Protocol):
    """Evaluates candidates."""

    size: int

    def submit(self, slot: int, candidate: Candidate) -> None:
        """Begin an evaluation."""
        ...

    def wait(self) -> tuple[int, Result]:
        """Wait for one evaluation; returns its slot and what came out."""
        ...


def attempt(evaluator: Evaluator, candidate: Candidate) -> Result:
    """Evaluate; what a candidate raises becomes a result, so that one bad candidate does not end a study."""
    try:
        return evaluator(candidate)
    except NetwrightError as error:
        return error
    except OSError:
        raise
    except Exception as error:
        if os.environ.get("NETWRIGHT_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        return StructureError(f"{candidate.describe()}: {type(error).__name__}: {text}")


class Inline:
    """One evaluation at a time, in this process."""

    size = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._queue: deque[tuple[int, Candidate]] = deque()

    def submit(self, slot: int, candidate: Candidate) -> None:
        """Remember an evaluation; it runs in `wait`."""
        self._queue.append((slot, candidate))

    def wait(self) -> tuple[int, Result]:
        """Run the oldest evaluation."""
        slot, candidate = self._queue.popleft()
        return slot, attempt(self._evaluator, candidate)


_evaluator: Evaluator | None = None


def _prepare(factory: Callable[[], Evaluator], threads: int) -> None:
    """Set up a worker process: its share of the cores, and one evaluator for all its trials."""
    global _evaluator
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator = factory()


def _end_with_parent() -> None:
    """Leave when the parent is gone, also when it was killed: nobody would hear the answer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(candidate: Candidate) -> Result:
    if _evaluator is None:
        raise RuntimeError("the worker process was not prepared")
    return attempt(_evaluator, candidate)


class Processes:
    """Several evaluations at a time, in processes of this machine.

    Args:
        factory: Makes a worker's evaluator; picklable.
        size: Number of processes.
    """

    def __init__(self, factory: Callable[[], Evaluator], size: int) -> None:
        self.size = size
        self._factory = factory
        self._threads = max(1, (os.cpu_count() or 1) // size)
        self._flying: dict[Future[Result], tuple[int, Candidate]] = {}
        self._attempts: dict[int, int] = {}
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        arguments = (self._factory, self._threads)
        return ProcessPoolExecutor(self.size, context, initializer=_prepare, initargs=arguments)

    def submit(self, slot: int, candidate: Candidate) -> None:
        """Send an evaluation to a free process."""
        self._attempts[slot] = self._attempts.get(slot, 0) + 1
        try:
            future = self._pool.submit(_work, candidate)
        except BrokenProcessPool:
            self._pool = self._start()
            future = self._pool.submit(_work, candidate)
        self._flying[future] = (slot, candidate)

    def wait(self) -> tuple[int, Result]:
        """Wait for one evaluation; evaluations of a process that died begin again."""
        while True:
            done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
            future = next(iter(done))
            slot, candidate = self._flying.pop(future)
            try:
                return slot, future.result()
            except BrokenProcessPool:
                if self._attempts[slot] >= _ATTEMPTS:
                    return slot, StructureError(
                        f"{candidate.describe()}: its worker process died {_ATTEMPTS} times",
                        "it may need more memory; try fewer --workers",
                    )
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._start()
                self.submit(slot, candidate)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=5)


class Ray:
    """Several evaluations at a time, as Ray actors.

    Args:
        factory: Makes a worker's evaluator; picklable. The study's folder must be visible to every node.
        size: Number of actors.
        address: Address of a cluster, or ``"local"``.

    Raises:
        MissingExtraError: without the extra ``scale``.
        ArtefactError: if the cluster cannot be reached.
    """

    def __init__(self, factory: Callable[[], Evaluator], size: int, address: str = "local") -> None:
        self._ray: Any = require("ray", extra="scale")
        self.size = size
        self._own = not self._ray.is_initialized()
        if self._own:
            try:
                local = {"num_cpus": max(size, 1), "include_dashboard": False}
                options = local if address == "local" else {}
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                text = " ".join(str(error).split())[:160]
                raise ArtefactError(f"Ray at {address!r} cannot be reached: {text}") from error
        actor = self._ray.remote(_Actor).options(
            num_cpus=1, max_restarts=_ATTEMPTS, max_task_retries=_ATTEMPTS
        )
        self._idle = [actor.remote(factory) for _ in range(size)]
        self._flying: dict[Any, tuple[int, Any]] = {}

    def submit(self, slot: int, candidate: Candidate) -> None:
        """Send an evaluation to a free actor."""
        actor = self._idle.pop()
        self._flying[actor.evaluate.remote(candidate)] = (slot, actor)

    def wait(self) -> tuple[int, Result]:
        """Wait for one evaluation."""
        ready, _ = self._ray.wait(list(self._flying), num_returns=1)
        slot, actor = self._flying.pop(ready[0])
        self._idle.append(actor)
        try:
            return slot, self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError as error:
            return slot, StructureError(f"a Ray worker died: {' '.join(str(error).split())[:160]}")

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._own:
            self._ray.shutdown()


class _Actor:
    """What runs in a Ray worker."""

    def __init__(self, factory: Callable[[], Evaluator]) -> None:
        self._evaluator = factory()

    def evaluate(self, candidate: Candidate) -> Result:
        """Evaluate a candidate."""
        return attempt(self._evaluator, candidate)


@contextlib.contextmanager
def pool(factory: Callable[[], Evaluator], workers: int, ray: str | None = None) -> Iterator[Pool]:
    """The pool for a number of workers; ended on leaving, also by an error.

    Args:
        factory: Makes an evaluator; picklable if there are several workers.
        workers: Number of evaluations at a time.
        ray: Address of a Ray cluster, ``"local"``, or None for processes of this machine.
    """
    if ray is None and workers == 1:
        yield Inline(factory())
        return
    several = Processes(factory, workers) if ray is None else Ray(factory, workers, ray)
    try:
        yield several
    finally:
        several.close()
