"""A stand-in for the pipeline, to test the study's machinery alone: outcomes computed from candidates."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from netwright.errors import StructureError
from netwright.shaping.candidate import Candidate, Outcome, Space

SPACE = Space(
    importance=("magnitude", "taylor"),
    recovery=(3,),
    distill=(0.7, 0.4),
    repair=("auto", "bn"),
)


def outcome(candidate: Candidate) -> Outcome:
    digest = hashlib.sha256(repr(candidate).encode()).digest()[0] / 255
    error = 0.08 + 0.25 * (1 - candidate.share) ** 3 + 0.01 * digest + (0.004 if candidate.bits == 8 else 0.0)
    cost = candidate.share * (0.4 if candidate.bits == 8 else 1.0)
    return Outcome(
        error=round(error, 6),
        cost=cost,
        accuracy=1 - error,
        agreement=1 - error / 2,
        macs=int(41e6 * candidate.share),
        params=int(270e3 * candidate.share),
        size=int(1.1e6 * candidate.share * candidate.bits / 32),
        file=f"cache/{candidate.key}/{candidate.bits}.onnx",
        layers=[
            [
                f"layer{i // 4}.{i % 4}.conv",
                "convolution",
                int(2e6 * candidate.share),
                int(13e3 * candidate.share),
            ]
            for i in range(16)
        ],
    )


@dataclass(frozen=True)
class StandIn:
    """Evaluates in a little while and notes each evaluation in a file."""

    log: Path
    seconds: float = 0.0
    fail_below: float = 0.0
    die_once: bool = False

    def __call__(self, candidate: Candidate) -> Outcome:
        marker = self.log.with_suffix(".died")
        if self.die_once and candidate.share == 0.25 and not marker.exists():
            marker.touch()
            os._exit(9)
        time.sleep(self.seconds)
        if candidate.share < self.fail_below:
            raise StructureError("too small", "keep more")
        with self.log.open("a") as file:
            file.write(f"{candidate.key}-{candidate.bits}\n")
        return outcome(candidate)


@dataclass(frozen=True)
class Make:
    """Makes the stand-in in a worker process."""

    evaluator: StandIn

    def __call__(self) -> StandIn:
        return self.evaluator
