"""The further arms of SuperTickets: tickets on other pictures, and on the classes of pixels."""

from __future__ import annotations

import dataclasses

from torch import nn

from netwright.data import Splits, canvases, load
from netwright.metrics import mean_iou
from netwright.models import ClassHead, MultiResolution, SegmentationHead
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import digits, fashion, mean_deviation, paired
from netwright.papers.supertickets_small import INTERVAL, Setting
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.systems.joint import JointTraining
from netwright.pruning.systems.supertickets import SuperTicket, draw_ticket
from netwright.train import Recipe, evaluate, fit, recalibrated

KEEP = 0.1
WIDTHS = (8, 16)
TICKET, RANDOM, NATIVE = "ticket of another task", "random mask of its densities", "ticket of this task"


def measure(run: Run) -> None:
    """Measure every claim of the further arms."""
    scores: dict[str, dict[str, list[float]]] = {}
    with run.timed("training"), one_thread():
        pictures = {"Fashion-MNIST": _fashion(run), "digits": digits(run.quick)}
        for source, target in (("digits", "Fashion-MNIST"), ("Fashion-MNIST", "digits")):
            scores[f"{source} to {target}"] = _between(run, pictures[source], pictures[target])
        scores["Fashion-MNIST, classes of pictures to classes of pixels"] = _pixels(run)
    names = (
        "digits ticket on Fashion-MNIST above random mask",
        "Fashion-MNIST ticket on digits above random mask",
        "classification ticket on segmentation above random mask, mIoU",
    )
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for claim, (what, arms) in zip(names, scores.items(), strict=True):
        run.measure(claim, *paired(arms[TICKET], arms[RANDOM]))
        panel = Panel(what, "accuracy or mIoU, %")
        for arm, values in arms.items():
            mean, deviation = mean_deviation(values)
            rows.append((what, arm, 100 * mean, 100 * deviation))
            panel.bar(arm, 100 * mean, 100 * deviation)
        panels.append(panel)
    run.table(
        "Transfer of tickets of 90 % sparsity",
        ("transfer", "arm", "accuracy or mIoU, %", "deviation"),
        rows,
        "The features keep their weights, the head is new, the masks stay while all of it is trained.",
    )
    run.plot(figure("Transfer of SuperTickets", panels, columns=1, width=760, height=260))


def _fashion(run: Run) -> Splits:
    return fashion(200, 100, size=8) if run.quick else fashion(1_250, 1_000, size=8)


def _between(run: Run, source: Splits, target: Splits) -> dict[str, list[float]]:
    """Draw on one data set, retrain on another with the masks fixed."""
    scores: dict[str, list[float]] = {TICKET: [], RANDOM: [], NATIVE: []}
    one, other = (Setting(data, run.quick, run.device) for data in (source, target))
    epochs = 3 if run.quick else 8
    for seed in run.seeds():
        recipe = other.recipe(seed + 1_000, epochs)
        for name, setting in ((TICKET, one), (NATIVE, other)):
            training = setting.training(seed, epochs, KEEP).run()
            ticket = draw_ticket(training, setting.data)
            head = _head(ticket.model.head, target.num_classes, seed)  # type: ignore[arg-type]
            for arm, shuffle in ((name, False), *(((RANDOM, True),) if name == TICKET else ())):
                begin = ticket.transfer(head, seed=seed, shuffle=shuffle)
                fitted = fit(begin, target, recipe, device=run.device).model
                model = recalibrated(fitted, target.train.batches(128), limit=10)
                scores[arm].append(evaluate(model, target.test, device=run.device).accuracy)
        run.log(f"seed {seed}: {', '.join(f'{arm} {v[-1]:.3f}' for arm, v in scores.items())}")
    return scores


def _head(like: nn.Linear, classes: int, seed: int) -> nn.Module:
    return reinitialise_(nn.Linear(like.in_features, classes), seed)


def _pixels(run: Run) -> dict[str, list[float]]:
    """A ticket for the classes of pictures as one for the classes of pixels."""
    raw = load("fashion-mnist", statistics=((0.0,), (1.0,)))
    count = 100 if run.quick else 1_000
    garments = dataclasses.replace(raw, train=raw.train.head(count), val=raw.val.head(2))
    train, test = (32, 16) if run.quick else (384, 128)
    scenes = Splits(
        "garments on canvases",
        canvases(raw.train.head(5_000), train, seed=1),
        canvases(raw.train.head(8), 2, seed=2),
        canvases(raw.test, test, seed=3),
        ("background", *raw.classes),
    )
    scores: dict[str, list[float]] = {TICKET: [], RANDOM: [], NATIVE: []}
    epochs = 2 if run.quick else 6
    for seed in run.seeds():
        heads = ClassHead(WIDTHS, garments.num_classes), SegmentationHead(WIDTHS, scenes.num_classes)
        tickets = [_draw(run, h, d, seed, epochs) for h, d in zip(heads, (garments, scenes), strict=True)]
        recipe = _recipe(seed + 1_000, epochs)
        head = reinitialise_(SegmentationHead(WIDTHS, scenes.num_classes), seed)
        for arm, ticket in ((TICKET, tickets[0]), (RANDOM, tickets[0]), (NATIVE, tickets[1])):
            begin = ticket.transfer(head, seed=seed, shuffle=arm == RANDOM)
            fitted = fit(begin, scenes, recipe, device=run.device).model
            model = recalibrated(fitted, scenes.train.batches(32), limit=10)
            scores[arm].append(mean_iou(model, scenes.test))
        run.log(f"seed {seed}, pixels: {', '.join(f'{arm} {v[-1]:.3f}' for arm, v in scores.items())}")
    return scores


def _recipe(seed: int, epochs: int) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=32,
        lr=0.1,
        schedule="one-cycle",
        label_smoothing=0.1,
        ema=0.95,
        augment=False,
        precision="fp32",
        channels_last=True,
        seed=seed,
    )


def _draw(run: Run, head: nn.Module, data: Splits, seed: int, epochs: int) -> SuperTicket:
    """The ticket of one task on the two-branch network."""
    model = reinitialise_(MultiResolution(head, 1, WIDTHS), seed)
    training = JointTraining(
        model,
        data.example(),
        data,
        _recipe(seed, epochs),
        budget="macs=0.7",
        keep=KEEP,
        every=1 / epochs if run.quick else INTERVAL,
        size=0.9 / epochs if run.quick else 0.1,
        device=run.device,
    )
    return draw_ticket(training.run(), data)
