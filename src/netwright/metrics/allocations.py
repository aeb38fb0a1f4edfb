"""Peak of what PyTorch allocates for a call, exact and without a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def allocated_peak(fn: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes of tensors that a call holds at once, beyond those that were there before.

    Unlike the resident memory of a process (`peak_memory`) it counts tensors alone and does not depend on
    what the allocator or libraries keep, so that small networks can be compared.

    Args:
        fn: Called once.
        device: ``"cpu"``, or a CUDA device.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        return torch.cuda.max_memory_allocated(device) - before
    with _without_notices(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        fn()
    kineto = seen.profiler.kineto_results if seen.profiler is not None else None
    events = [e for e in kineto.events() if e.name() == "[memory]"] if kineto is not None else []
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """The profiler writes to the standard error from C++ that there is no GPU: not while this lasts."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
