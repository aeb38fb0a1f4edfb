"""What a network must pass: pruned to half, smaller, exact, trainable, and back from a file."""

from __future__ import annotations

import gc
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import netwright as nw
from netwright import structure
from netwright.errors import NetwrightError
from netwright.testing.surgery import randomise

from .case import Case

#: Largest error relative to the masked dense network, by the precision of the comparison.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
#: Bytes of memory a parameter for a comparison in float64, which holds several copies; float32 where there
#: is less.
_FLOAT64_BYTES = 32
#: The removal must change the outputs at least this much, else the comparison says nothing.
_CHANGE = 1e-6
_LARGEST_SHARE = 0.75


class OutOfTimeError(Exception):
    """Pruning took longer than it may."""


class FailedError(Exception):
    """A promise is not kept; `kind` is a word for the table of causes."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def judge(case: Case, heads: str, cpu: float, memory: float = 8.0) -> dict[str, Any]:
    """Everything about one network; never raises.

    Args:
        case: The network.
        heads: As of `prune`.
        cpu: CPU seconds for tracing and pruning.
        memory: GiB that the network may take.

    Returns:
        A row for the table; `ok`, and `kind` and `why` where it is False.
    """
    row: dict[str, Any] = {"id": case.id, "set": case.group, "name": case.name, "ok": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _judge(case, heads, cpu, memory, row)
            row["ok"] = True
        except FailedError as error:
            row |= {"kind": error.kind, "why": str(error)}
        except NetwrightError as error:
            row |= {"kind": "refused", "why": str(error)}
        except OutOfTimeError:
            row |= {"kind": "time", "why": f"pruning took more than {cpu:.0f} s"}
        except MemoryError:
            row |= {"kind": "memory", "why": "out of memory"}
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            row |= {
                "kind": "crash",
                "why": f"{type(error).__name__}: {' '.join(str(error).split())[:200]} "
                f"({where.filename.rpartition('/')[2]}:{where.lineno})",
                "traceback": traceback.format_exc()[-4000:],
            }
    return row


def _judge(case: Case, heads: str, cpu: float, memory: float, row: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, example = case.build()
    model = randomise(model).eval()
    inputs = structure.Inputs.of(example)
    total = sum(p.numel() for p in model.parameters())
    row["parameters"] = total
    with torch.no_grad():
        want = [x.shape for x in tensors(inputs.call(model))]
    gc.collect()
    with _limited(cpu):
        begun = time.process_time()
        result = nw.prune(
            model, example, "keep=0.5", allocation="uniform", importance="magnitude-l1", round_to=1,
            repair="none", heads=heads,
        )  # fmt: skip
        row["seconds"] = round(time.process_time() - begun, 3)
    small = result.model
    row["how"] = result.how
    row["notes"] = list(result.notes)
    row["kept"] = round(sum(p.numel() for p in small.parameters()) / total, 4)
    row["frozen"] = _reasons(result.frozen)
    with torch.no_grad():
        got = tensors(inputs.call(small))
    if [x.shape for x in got] != want:
        raise FailedError("shapes", f"the outputs are {[tuple(x.shape) for x in got]}")
    if not all(bool(torch.isfinite(x).all()) for x in got if x.is_floating_point()):
        raise FailedError("finite", "the outputs are not finite")
    _exact(model, result, inputs, memory * 2**30 / _FLOAT64_BYTES, row)
    _trains(small, inputs)
    _comes_back(model, result, inputs)
    if row["kept"] > _LARGEST_SHARE:
        raise FailedError("kept", f"{row['kept']:.0%} of the parameters stayed: {row['frozen']}")


def tensors(output: Any) -> list[Tensor]:
    """The tensors in what a model returned, in order."""
    found = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    return found or [x for x in vars(output).values() if isinstance(x, Tensor)]


def _reasons(frozen: list[tuple[str, str]]) -> dict[str, int]:
    """How many axes each reason froze, the commonest first."""
    counts: dict[str, int] = {}
    for _, reason in frozen:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:6])


@contextmanager
def _limited(cpu: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTimeError

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _exact(
    model: nn.Module, result: nw.Pruned, inputs: structure.Inputs, limit: float, row: dict[str, Any]
) -> None:
    dtype = torch.float64 if row["parameters"] <= limit else torch.float32
    found = structure.check(
        model, result.net, result.keep, result.model, dtype=dtype, scales=result.scales, kept=result.kept
    )
    row["error"], row["change"] = float(f"{found.error:.3g}"), float(f"{found.change:.3g}")
    row["precision"] = "float64" if dtype == torch.float64 else "float32"
    if row["error"] == float("inf"):
        row["error"] = 1e30
    if not found.error <= TOLERANCE[row["precision"]]:
        raise FailedError("inexact", f"it differs from the masked dense network by {found.error:.2g}")
    if not found.change > _CHANGE:
        raise FailedError("vacuous", f"the removal changed the outputs by {found.change:.2g} only")


def _trains(small: nn.Module, inputs: structure.Inputs) -> None:
    """One step in training mode: gradients arrive, parameters move, values stay finite."""
    small.train()
    trainable = [p for p in small.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    optimiser = torch.optim.SGD(trainable, lr=1e-3)
    outputs = [x for x in tensors(inputs.call(small)) if x.is_floating_point() and x.requires_grad]
    if not outputs:
        raise FailedError("training", "no output takes a gradient")
    loss = torch.stack([(x - 0.1).square().mean() for x in outputs]).sum()
    loss.backward()
    nn.utils.clip_grad_norm_(trainable, 1.0)
    optimiser.step()
    if not any(not torch.equal(a, b) for a, b in zip(before, trainable, strict=True)):
        raise FailedError("training", "no parameter moved")
    if not all(bool(torch.isfinite(p).all()) for p in trainable):
        raise FailedError("training", "the parameters are not finite after a step")
    optimiser.zero_grad(set_to_none=True)
    small.eval()


def _comes_back(model: nn.Module, result: nw.Pruned, inputs: structure.Inputs) -> None:
    """Saved after the step and loaded into the architecture, it gives the same values."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        nw.save(result, folder)
        again = nw.load(folder, model).eval()
        torch.manual_seed(1)  # for those that draw noise
        ours = tensors(inputs.call(result.model))
        torch.manual_seed(1)
        for a, b in zip(tensors(inputs.call(again)), ours, strict=True):
            if a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()):
                raise FailedError("file", "it computes something else after saving and loading")
