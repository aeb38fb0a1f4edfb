"""Peak memory, measured in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright.errors import ArtefactError, ModelError, NetwrightError
from netwright.metrics.latency import Net, arguments
from netwright.metrics.session import Example, feed, open_session


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one call.

    Args:
        bytes: What the call added to the memory of its process at most.
        process_bytes: Peak of the whole process, interpreter and libraries included (on a GPU: of the
            device).
        device: Whose memory it is.
    """

    bytes: int
    process_bytes: int
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


def peak_memory(fn: Callable[..., object], *args: Any, device: str = "cpu") -> PeakMemory:
    """Measure the peak memory of a call in a fresh process.

    The process is spawned, so `fn` must be defined at the top level of a module, its arguments must be
    picklable, and a script needs the usual ``if __name__ == "__main__":``.

    Args:
        fn: Called once with `args`.
        args: Its arguments; what they take is there before the call and not counted.
        device: ``"cpu"`` for resident memory, or a CUDA device for what PyTorch allocates there.

    Raises:
        ModelError: if the call fails.
        ArtefactError: if the process dies, for instance for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, fn, args, device), daemon=True)
    process.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError as error:
        process.join()
        raise ArtefactError(
            f"the process that measures memory ended with code {process.exitcode}", "is there enough memory?"
        ) from error
    finally:
        ours.close()
    process.join()
    if isinstance(outcome, NetwrightError):
        raise outcome
    if isinstance(outcome, str):
        raise ModelError(f"measuring memory failed: {outcome}")
    added, peak = outcome
    return PeakMemory(added, peak, device)


def net_memory(net: Net, example: Example, *, threads: int = 1, device: str = "cpu") -> PeakMemory:
    """Measure the peak memory of a network's first inference, its weights included.

    Args:
        net: A module (in PyTorch; its class must be importable) or the path of an ONNX file (in ONNX
            Runtime).
        example: The input, as for `latency`.
        threads: Threads inside an operator.
        device: ``"cpu"``, or ``"cuda"`` for a module.

    Raises:
        ArtefactError: if a file is no ONNX network.
        ModelError: if the module rejects the example.
    """
    if not isinstance(net, nn.Module):
        return peak_memory(_run_onnx, Path(net), example, threads)
    measured = peak_memory(_run_torch, net, example, threads, device, device=device)
    if torch.device(device).type != "cpu":
        return measured
    # The weights came with the arguments and were there before the call.
    weights = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    return PeakMemory(measured.bytes + weights, measured.process_bytes, measured.device)


def _run_onnx(path: Path, example: Example, threads: int) -> None:
    session = open_session(path, threads=threads)
    session.run(None, feed(session, example))


def _run_torch(net: nn.Module, example: Example, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    where = torch.device(device)
    args, kwargs = arguments(example, where)
    with torch.inference_mode():
        net.to(where).eval()(*args, **kwargs)


def _child(pipe: Connection, fn: Callable[..., object], args: tuple[Any, ...], device: str) -> None:
    """Run the call and send (added, peak), or what went wrong."""
    try:
        if torch.device(device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            fn(*args)
            peak = torch.cuda.max_memory_allocated(device)
            pipe.send((peak, peak))
            return
        # Libraries are loaded before the call: they are not the network's.
        import onnxruntime  # noqa: F401

        before = _reset_peak()
        fn(*args)
        peak = _peak()
        pipe.send((max(peak - before, 0), peak))
    except NetwrightError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    finally:
        pipe.close()


def _reset_peak() -> int:
    """Set the peak back to the present memory where the system can; returns the present peak in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
