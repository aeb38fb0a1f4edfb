"""What the cases of `benchmarks.full_scale` share: a register, times, and random images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netwright.data import Part, Splits


@dataclass(frozen=True)
class Setting:
    """How a case is run.

    Attributes:
        device: Where.
        batch: Images of one step.
        threads: CPU threads.
    """

    device: str = "cpu"
    batch: int = 4
    threads: int = 1


Case = Callable[[Setting], dict[str, Any]]
#: Name -> case; it returns what it measured, seconds under names that end in ``_s``.
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Register a case under the slug of the system that it runs."""

    def enter(function: Case) -> Case:
        assert name not in CASES
        CASES[name] = function
        return function

    return enter


@contextlib.contextmanager
def timed(found: dict[str, Any], name: str, device: str) -> Iterator[None]:
    """Add the seconds of a block to what was found, and those that the processor spent on it."""
    begun, spent = time.perf_counter(), time.process_time()
    yield
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    found[f"{name}_s"] = time.perf_counter() - begun
    found[f"{name}_cpu_s"] = time.process_time() - spent  # on a busy machine this is what repeats


def images(setting: Setting, size: int, classes: int = 1000) -> tuple[Tensor, Tensor]:
    """Random images (batch, 3, size, size) and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(setting.batch, 3, size, size, generator=generator)
    labels = torch.randint(classes, (setting.batch,), generator=generator)
    return x.to(setting.device), labels.to(setting.device)


def pictures(classes: int, count: int, size: int) -> Splits:
    """Random images as a data set: `count` to train on, to choose by and to judge by."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Part.from_tensors(
            torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % classes
        )
        for _ in range(2)
    ]
    return Splits("random", parts[0], parts[1], parts[1], classes=tuple(map(str, range(classes))))
