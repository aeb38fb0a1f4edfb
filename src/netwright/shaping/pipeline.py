"""One candidate: prune with an importance, repair, recover under the dense network's guidance, export, judge.

The network of a candidate (everything but the bits) is built once and kept in the cache under its key: its
int8 and fp32 files share the training, and a candidate that was finished before the process died is not
repeated.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netwright import _files, metrics, pruning, quantization, structure, train
from netwright.errors import ArtefactError
from netwright.shaping import cost, elastic_mode
from netwright.shaping.answers import Answers, judged
from netwright.shaping.audition import Chosen, Way, audition
from netwright.shaping.baseline import load_weights, recovery_recipe
from netwright.shaping.candidate import AUTO, Candidate, Outcome
from netwright.shaping.noise import share_difference
from netwright.shaping.source import Loaded, Source
from netwright.shaping.state import Folder
from netwright.structure.budget import Budget

if TYPE_CHECKING:
    from netwright.data import Part, Splits
    from netwright.train import Progress

#: Training examples (without their labels) that statistics, repair and calibration look at.
STATISTICS = 512


@dataclass(frozen=True)
class Settings:
    """What all candidates of a study have in common.

    Args:
        recipe: The baseline's recipe, as JSON.
        from_scratch: Whether the dense network was trained by it.
        metric: The predicted cost, one of `netwright.shaping.cost.COSTS`.
        threads: Threads of ONNX Runtime when a file is judged.
        exclude: Parameters whose axes are left alone.
        ways: Pairs of allocation and importance that are tried where a candidate leaves them open.
    """

    recipe: str
    from_scratch: bool
    metric: str = "latency"
    threads: int = 1
    exclude: tuple[str, ...] = field(default_factory=tuple)
    ways: tuple[Way, ...] = ()


class Pipeline:
    """Evaluates candidates of one study.

    Args:
        source: Model and data.
        settings: What all candidates have in common.
        out: The study's folder, with the dense network in its cache.
        loaded: Model and data, if they are loaded already.
        progress: Told how far a recovery is (in this process only).
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        out: Path,
        *,
        loaded: Loaded | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.source, self.settings, self.folder = source, settings, Folder(out)
        self.progress = progress
        loaded = loaded or source.load()
        self.splits: Splits = loaded.splits
        self.dense = load_weights(
            copy.deepcopy(loaded.model), self.folder.cache("dense") / "model.safetensors"
        ).eval()
        self.example = self.splits.example(2)
        self._reference: dict[str, Tensor] = {}
        self._answers: dict[Path, Answers | None] = {}

    def __call__(self, candidate: Candidate) -> Outcome:
        """Evaluate a candidate on the validation examples.

        Raises:
            NetwrightError: if it cannot be built.
        """
        folder = self.folder.cache(candidate.key)
        known = folder / f"outcome-{candidate.bits}.json"
        if known.exists():
            return replace(Outcome.from_json(_load(known)), seconds=0.0)
        begun = time.monotonic()
        rows, chosen = self._network(candidate, folder)
        file = self._export(candidate, folder)
        outcome = replace(
            self._judge(candidate, file, rows),
            seconds=round(time.monotonic() - begun, 3),
            allocation=chosen.get("allocation", ""),
            importance=chosen.get("importance", ""),
        )
        _files.write_json(known, outcome.to_json())
        return outcome

    def model(self, candidate: Candidate) -> nn.Module:
        """The PyTorch network of a candidate that was evaluated."""
        if candidate.dense:
            return copy.deepcopy(self.dense)
        return pruning.load(self.folder.cache(candidate.key), model=copy.deepcopy(self.dense)).eval()

    def _network(self, candidate: Candidate, folder: Path) -> tuple[list[cost.Row], dict[str, str]]:
        """Make the network of a candidate, or find it in the cache.

        Returns:
            Its operators, and the allocation and importance that an audition chose, if there was one.
        """
        layers = folder / "layers.json"
        if layers.exists():
            known = _load(layers)
            return [cost.Row(*row) for row in known["rows"]], known.get("chosen", {})
        folder.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, str] = {}
        if candidate.dense:
            model = self.dense
        elif candidate.choice:
            model = elastic_mode.cut_out(self, candidate, folder)
        else:
            model, taken = self._shrink(candidate, folder)
            if AUTO in (candidate.allocation, candidate.importance):
                chosen = {"allocation": taken.allocation, "importance": taken.importance}
        self._write_fp32(model, folder)
        rows = operators(model, self.example)
        # Written last: it says that everything of this network is complete.
        _files.write_json(layers, {"rows": [list(vars(row).values()) for row in rows], "chosen": chosen})
        return rows, chosen

    def _shrink(self, candidate: Candidate, folder: Path) -> tuple[nn.Module, Chosen]:
        """Prune, repair and recover."""
        chosen = self._prune(candidate)
        if candidate.schedule != "one-shot" and candidate.recovery > 1:
            named = replace(candidate, allocation=chosen.allocation, importance=chosen.importance)
            return self._in_stages(named, folder), chosen
        pruned = chosen.pruned
        if candidate.recovery > 0:
            recipe = recovery_recipe(
                pruned.model,
                train.Recipe.from_json(self.settings.recipe),
                candidate.recovery,
                candidate.distill,
                from_scratch=self.settings.from_scratch,
            )
            checkpoint = folder / "training.pt"
            fitted = train.fit(
                pruned.model,
                self.splits,
                recipe,
                teacher=self.dense if candidate.distill > 0 else None,
                device=self.source.device,
                checkpoint=checkpoint,
                progress=self.progress,
            )
            pruned = replace(pruned, model=fitted.model.cpu())
            checkpoint.unlink(missing_ok=True)
        pruned.model.eval()
        pruning.save_pruned(pruned, folder)
        return pruned.model, chosen

    def _prune(self, candidate: Candidate) -> Chosen:
        """Prune and repair, by the best of all ways where the candidate leaves them open."""
        statistics = self.statistics()

        def cut(allocation: str, importance: str) -> pruning.Pruned:
            return pruning.prune(
                self.dense,
                self.example,
                Budget(**{candidate.metric: candidate.share}),  # type: ignore[arg-type]
                importance=importance,
                allocation=allocation,
                repair=candidate.repair,
                data=statistics,
                seed=self.source.seed,
                exclude=self.settings.exclude,
            )

        ways = self.settings.ways
        if AUTO not in (candidate.allocation, candidate.importance):
            ways = ((candidate.allocation, candidate.importance),)
        return audition(ways, cut, self._held(), self._dense_logits("held"))

    def _held(self) -> Part:
        """Training examples that no repair looks at, or the same ones where there are too few."""
        return self.statistics(1) if len(self.splits.train) > STATISTICS else self.statistics()

    def _in_stages(self, candidate: Candidate, folder: Path) -> nn.Module:
        """Prune in two stages with half of the recovery after each."""
        recipe = recovery_recipe(
            self.dense,
            train.Recipe.from_json(self.settings.recipe),
            max(candidate.recovery // 2, 1),
            candidate.distill,
            from_scratch=self.settings.from_scratch,
        )
        pruned = pruning.prune(
            self.dense,
            self.example,
            Budget(**{candidate.metric: candidate.share}),  # type: ignore[arg-type]
            importance=candidate.importance,
            allocation=candidate.allocation,
            schedule=pruning.iterative(rounds=2),
            repair=candidate.repair,
            data=replace(self.splits, val=self.splits.val.head(0)),
            recipe=recipe,
            distill=candidate.distill > 0,
            seed=self.source.seed,
            exclude=self.settings.exclude,
            device=self.source.device,
        )
        pruned = replace(pruned, model=pruned.model.cpu().eval())
        pruning.save_pruned(pruned, folder)
        return pruned.model

    def statistics(self, block: int = 0) -> Part:
        """A few hundred training examples, the same in every run; every block is of others."""
        part = self.splits.train
        generator = torch.Generator().manual_seed(self.source.seed)
        order = torch.randperm(len(part), generator=generator)[block * STATISTICS : (block + 1) * STATISTICS]
        return part.subset(order.sort().values.tolist())

    def _write_fp32(self, model: nn.Module, folder: Path) -> None:
        quantization.export_onnx(model.eval(), self.example, folder / "fp32.onnx")

    def _export(self, candidate: Candidate, folder: Path) -> Path:
        """The file of a candidate in its precision."""
        source = folder / "fp32.onnx"
        if candidate.bits == 32:
            return source
        target = folder / "int8.onnx"
        if not target.exists():
            calibration = [x for x, _ in self.statistics().batches(64)]
            quantization.quantize_onnx(source, target, calibration)
        return target

    def _judge(self, candidate: Candidate, file: Path, rows: list[cost.Row]) -> Outcome:
        """Quality of a file on the validation examples, and its predicted cost; keeps its answers."""
        quality, answers = self.quality(file, self.splits.val, self._dense_logits("val"))
        answers.save(self._answers_file(candidate))
        accuracy, agreement = quality["accuracy"], quality["agreement"]
        return Outcome(
            error=round(1 - (agreement if accuracy is None else accuracy), 9),
            cost=cost.predict(self.settings.metric, rows, candidate.bits),
            agreement=agreement,
            accuracy=accuracy,
            macs=sum(r.macs for r in rows),
            params=sum(r.params for r in rows),
            size=metrics.file_bytes(file),
            file=str(file.relative_to(self.folder.path)),
            layers=[[r.name, r.kind, r.macs, r.params] for r in rows],
        )

    def answers(self, candidate: Candidate) -> Answers | None:
        """The answers of an evaluated candidate to the validation examples; None if they were not kept."""
        file = self._answers_file(candidate)
        if file not in self._answers:
            self._answers[file] = Answers.load(file)
        return self._answers[file]

    def _answers_file(self, candidate: Candidate) -> Path:
        return self.folder.cache(candidate.key) / f"answers-{candidate.bits}.safetensors"

    def _dense_logits(self, split: str) -> Tensor:
        """The dense network's answers to the examples of a split or to those held back, (N, K)."""
        if split not in self._reference:
            part = self._held() if split == "held" else getattr(self.splits, split)
            self._reference[split] = train.logits(self.dense, part, device="cpu")
        return self._reference[split]

    def quality(self, file: Path, part: Part, reference: Tensor) -> tuple[dict[str, Any], Answers]:
        """Accuracy and agreement of a file's own answers.

        Args:
            file: An ONNX file.
            part: The examples.
            reference: The dense network's answers to them, (N, K).

        Returns:
            ``accuracy`` (None without labels), ``agreement``, ``count`` and ``change`` (the accuracy's
            difference from the reference's with the ends of its paired interval; None without labels), and
            the answers one by one.
        """
        logits = metrics.onnx_logits(file, part, threads=self.settings.threads)
        agreement = metrics.agreement(reference, logits)
        labels = torch.cat([y for _, y in part.batches(1024)]) if part.labelled else None
        answers = judged(logits, reference, labels)
        change = None
        if labels is not None:
            found = share_difference(answers.right, reference.argmax(dim=1) == labels)
            change = {"difference": found.value, "low": found.low, "high": found.high}
        quality = {
            "accuracy": None if labels is None else answers.quality,
            "agreement": agreement.top1,
            "count": len(logits),
            "change": change,
        }
        return quality, answers

    def test(self, file: Path) -> dict[str, Any]:
        """Quality of a file on the test examples."""
        return self.quality(file, self.splits.test, self._dense_logits("test"))[0]

    def measure(self, files: Mapping[str, Path], baseline: str) -> dict[str, dict[str, Any]]:
        """Latency of files for one example, in turn, each against the baseline."""
        measured = metrics.latencies(
            files, self.splits.example(1), baseline=baseline, threads=self.settings.threads
        )
        return {name: latency.to_dict() for name, latency in measured.items()}


@dataclass(frozen=True)
class Factory:
    """Makes the evaluator of a worker process."""

    source: Source
    settings: Settings
    out: Path

    def __call__(self) -> Pipeline:
        """Make it."""
        return Pipeline(self.source, self.settings, self.out)


def operators(model: nn.Module, example: Tensor) -> list[cost.Row]:
    """The operators of a network that cost something, for one example."""
    rows = []
    for op in structure.trace(model, example).operators:
        if op.macs or op.params:
            rows.append(cost.Row(op.module, op.kind, op.macs, op.params, op.activation_bytes))
    return rows


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(
            f"{path} is corrupt", f"delete {path.parent} and run the same command again"
        ) from error
