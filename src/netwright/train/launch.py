"""One device or several behind one small face, so that there is one training loop."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from netwright._imports import require
from netwright.errors import NetwrightError, TrainingError, UsageError

T = TypeVar("T")


class Launcher(Protocol):
    """What the training loop asks of the devices it runs on."""

    device: torch.device
    rank: int
    world: int

    def setup(self, model: nn.Module) -> nn.Module:
        """Return the module to call for the forward pass; `model` itself keeps the weights."""

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, averaged over all devices."""


class SingleDevice:
    """One device, plain PyTorch."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup(self, model: nn.Module) -> nn.Module:
        """Return the model itself."""
        return model

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()


class FabricDevices:
    """One process of several, behind a launched Lightning Fabric."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.device: torch.device = fabric.device
        self.rank: int = fabric.global_rank
        self.world: int = fabric.world_size

    def setup(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped for distributed data parallel."""
        return self.fabric.setup_module(model)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, averaged over all processes."""
        self.fabric.backward(loss)


def launch(
    worker: Callable[..., T],
    job: Any,
    devices: int,
    device: str | torch.device,
    progress: Callable[[Any], None] | None,
) -> T:
    """Run a worker on several devices with Lightning Fabric and return what rank 0 returned.

    Under ``torchrun`` the processes are there already and each joins; otherwise they are spawned, so the
    calling script needs the usual ``if __name__ == "__main__":`` and the model's class must be importable.

    Args:
        worker: Top-level function ``(launcher, job, report)``.
        job: Its argument, picklable.
        devices: Number of processes, one a device.
        device: Kind of device, ``"auto"``, ``"cuda"`` or ``"cpu"``.
        progress: Called in this process with what rank 0 reports.

    Raises:
        MissingExtraError: if Lightning Fabric is not installed.
        UsageError: if there are not as many devices.
        TrainingError: if a process fails or the job cannot be sent to one.
    """
    fabric_module = require("lightning_fabric", extra="scale")
    strategies = require("lightning_fabric.strategies", extra="scale")
    kind = torch.device(device).type if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} GPUs asked for, {torch.cuda.device_count()} found", "lower --devices")
    joined = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    # Auxiliary heads and frozen parts leave parameters without a gradient.
    strategy = strategies.DDPStrategy(
        start_method="popen" if joined else "spawn", find_unused_parameters=True
    )
    fabric = fabric_module.Fabric(accelerator=kind, devices=devices, strategy=strategy, precision="32-true")
    if joined:
        fabric.launch()
        return worker(FabricDevices(fabric), job, progress if fabric.global_rank == 0 else None)
    return _spawn(fabric, worker, job, progress)


def _spawn(fabric: Any, worker: Callable[..., T], job: Any, progress: Callable[[Any], None] | None) -> T:
    """Spawn the processes; a thread takes what rank 0 reports, and in the end its result, from a queue."""
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    results: list[bytes] = []
    listener = threading.Thread(target=_listen, args=(queue, progress, results), daemon=True)
    listener.start()
    try:
        fabric.launch(_child, worker, _Sealed(job), queue)
    except NetwrightError:
        raise
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"the training cannot be sent to several processes: {error}",
            "define the model's class and the objective at the top level of a module",
        ) from error
    except torch.multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("netwright.errors.")
        raise TrainingError(f"a training process failed: {reason}") from error
    except torch.multiprocessing.ProcessExitedException as error:
        raise TrainingError(f"a training process ended early: {error}", "is there enough memory?") from error
    finally:
        queue.put(None)
        listener.join()
    # Written by our own child process, so it is safe to unpickle.
    return pickle.loads(results[0])


class _Sealed:
    """A job that Fabric does not look into: it would rewrite the fields of frozen dataclasses."""

    def __init__(self, job: Any) -> None:
        self.job = job


def _child(fabric: Any, worker: Callable[..., T], sealed: _Sealed, queue: Any) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // fabric.world_size))
    first = fabric.global_rank == 0
    try:
        result = worker(FabricDevices(fabric), sealed.job, queue.put if first else None)
        if first:
            # Plain bytes: shared tensors would vanish with this process.
            queue.put(pickle.dumps(result))
    finally:
        if torch.distributed.is_initialized():
            # Its threads, still running when Python exits, may abort the process although all went well.
            torch.distributed.destroy_process_group()


def _listen(queue: Any, progress: Callable[[Any], None] | None, results: list[bytes]) -> None:
    """Collect results (bytes) and hand on everything else, until None comes."""
    while (item := queue.get()) is not None:
        if isinstance(item, bytes):
            results.append(item)
        elif progress is not None:
            progress(item)
