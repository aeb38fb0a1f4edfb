"""What every test stands on: one thread a process, and no trace of the user's own settings."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# Wall-clock limits per example fail on a busy machine; fixed examples make a failure repeat.
hypothesis.settings.register_profile("netwright", deadline=None, derandomize=True)
hypothesis.settings.load_profile("netwright")


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread in each worker: the workers are the parallelism. Draw alike while collecting."""
    torch.manual_seed(0)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Let a test draw the same whatever ran before it, so that a failure repeats."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Hide the user's NETWRIGHT_* settings and make printed tables the same on every terminal.

    NETWRIGHT_DATA stays: the data sets are fetched once, into the user's cache or where it says.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("NETWRIGHT_") and name != "NETWRIGHT_DATA":
                patch.delenv(name)
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        yield
