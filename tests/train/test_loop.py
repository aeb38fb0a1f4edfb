from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.errors import ArtefactError, DataError, ModelError, TrainingError, UsageError
from netwright.train import Callback, Progress, Recipe, Snapshots, State, build_optimizer, evaluate, fit
from netwright.train.launch import FabricDevices

FAST = Recipe(epochs=2, batch_size=64, lr=0.1, precision="fp32", limit=320)


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_training_learns_and_leaves_the_given_model_alone(net: nn.Module, digits: Splits) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    seen: list[Progress] = []
    recipe = Recipe(epochs=4, batch_size=32, lr=0.2, precision="fp32", schedule="one-cycle")
    fitted = fit(net, digits, recipe, device="cpu", progress=seen.append)
    assert evaluate(fitted.model, digits.test, device="cpu").accuracy > 0.8
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [r["epoch"] for r in fitted.history] == [1, 2, 3, 4]
    assert fitted.best_accuracy == max(r["accuracy"] for r in fitted.history)
    assert fitted.accuracy == pytest.approx(evaluate(fitted.model, digits.val, device="cpu").accuracy)
    assert seen[-1].epoch == 4
    assert seen[-1].step == seen[-1].steps
    assert seen[-1].eta_seconds == 0
    assert all(p.requires_grad and p.grad is None for p in fitted.model.parameters())


def test_same_seed_same_weights(net: nn.Module, digits: Splits) -> None:
    recipe = dataclasses.replace(FAST, mixup=0.2, cutmix=0.5)
    first = fit(net, digits, recipe, device="cpu").model
    torch.manual_seed(123)
    assert _same(first, fit(net, digits, recipe, device="cpu").model)
    assert not _same(first, fit(net, digits, dataclasses.replace(recipe, seed=1), device="cpu").model)


class _Stop(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("interruption", [_Stop, KeyboardInterrupt])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_training_is_bit_identical(
    net: nn.Module, digits: Splits, tmp_path: Path, interruption: type[BaseException], optimizer: str
) -> None:
    lr = 0.1 if optimizer == "sgd" else 0.002
    recipe = dataclasses.replace(
        FAST, epochs=4, optimizer=optimizer, lr=lr, ema=0.9, mixup=0.2, warmup_epochs=0.5
    )
    whole = fit(net, digits, recipe, device="cpu")
    file = tmp_path / "run" / "checkpoint.pt"

    def stop(progress: Progress) -> None:
        if progress.epoch == 3:
            raise interruption

    with pytest.raises(interruption):
        fit(net, digits, recipe, device="cpu", checkpoint=file, progress=stop)
    assert torch.load(file, weights_only=True)["epoch"] == 2
    resumed = fit(net, digits, recipe, device="cpu", checkpoint=file)
    assert _same(whole.model, resumed.model)
    assert [r["loss"] for r in whole.history] == [r["loss"] for r in resumed.history]
    again = fit(net, digits, recipe, device="cpu", checkpoint=file)
    assert _same(whole.model, again.model)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_interrupted_in_the_first_epoch_leaves_a_checkpoint(
    net: nn.Module, digits: Splits, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(net, digits, FAST, device="cpu", checkpoint=file, progress=stop)
    resumed = fit(net, digits, FAST, device="cpu", checkpoint=file).model
    assert _same(resumed, fit(net, digits, FAST, device="cpu").model)


def test_checkpoint_of_another_training_is_refused(net: nn.Module, digits: Splits, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    fit(net, digits, FAST, device="cpu", checkpoint=file)
    with pytest.raises(TrainingError, match="another training"):
        fit(net, digits, dataclasses.replace(FAST, lr=0.2), device="cpu", checkpoint=file)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign"])
def test_damaged_checkpoint_is_refused(net: nn.Module, digits: Splits, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "checkpoint.pt"
    fit(net, digits, dataclasses.replace(FAST, epochs=0), device="cpu", checkpoint=file)
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        torch.save(net.state_dict(), file)
    else:
        file.write_bytes(b"hello" if damage == "text" else b"")
    left = file.read_bytes()
    with pytest.raises(ArtefactError, match="checkpoint"):
        fit(net, digits, FAST, device="cpu", checkpoint=file)
    assert file.read_bytes() == left


def test_loss_that_is_not_finite(net: nn.Module, digits: Splits) -> None:
    with pytest.raises(
        TrainingError, match=r"epoch 1, step \d+ of 5, at learning rate .*lower the learning rate"
    ):
        fit(net, digits, dataclasses.replace(FAST, lr=1e30, momentum=0.0), device="cpu")


def test_model_that_rejects_the_batch(digits: Splits) -> None:
    with pytest.raises(ModelError, match=r"1, 8, 8.*7, 64|7, 64.*1, 8, 8|\(10, 70\)"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(70, 10)), digits, FAST, device="cpu")


def test_last_batch_of_one(net: nn.Module, digits: Splits) -> None:
    small = dataclasses.replace(digits, train=digits.train.head(33))
    pooled = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    recipe = dataclasses.replace(FAST, batch_size=32, limit=None)
    assert len(fit(pooled, small, recipe, device="cpu").history) == 2
    with pytest.raises(DataError, match="at least 2"):
        fit(net, dataclasses.replace(digits, train=digits.train.head(1)), recipe, device="cpu")


def test_decay_spares_norms_and_biases(net: nn.Module) -> None:
    groups = build_optimizer(net, Recipe(weight_decay=0.1)).param_groups
    decayed = {id(p) for p in groups[0]["params"]}
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0
    assert decayed == {id(p) for p in (net.conv1.weight, net.conv2.weight, net.fc.weight)}


def test_only_what_is_named_is_trained(net: nn.Module, digits: Splits) -> None:
    fitted = fit(net, digits, FAST, device="cpu", trainable=["fc"])
    changed = {k for k, v in fitted.model.state_dict().items() if not torch.equal(v, net.state_dict()[k])}
    assert changed == {"fc.weight", "fc.bias"}
    assert all(p.requires_grad for p in fitted.model.parameters())
    with pytest.raises(UsageError, match="names no parameter"):
        fit(net, digits, FAST, device="cpu", trainable=["head"])


def test_labels_can_be_replaced_by_a_teacher(net: nn.Module, digits: Splits, unlabelled: Splits) -> None:
    with pytest.raises(DataError, match="needs labels"):
        fit(net, unlabelled, FAST, device="cpu")
    with pytest.raises(UsageError, match="teacher"):
        fit(net, digits, dataclasses.replace(FAST, distill_weight=0.5), device="cpu")
    teacher = fit(net, digits, Recipe(epochs=6, batch_size=32, lr=0.2, precision="fp32"), device="cpu").model
    student = fit(
        net,
        unlabelled,
        Recipe(epochs=6, batch_size=32, lr=0.1, precision="fp32"),
        teacher=teacher,
        device="cpu",
    )
    assert student.best_accuracy is None
    assert evaluate(student.model, digits.test, device="cpu").accuracy > 0.7


def test_bf16_falls_back_where_the_model_cannot(digits: Splits) -> None:
    class Fp32Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            answer = self.fc(x.flatten(1))
            if answer.dtype != torch.float32:
                raise RuntimeError("no bfloat16 here")
            return answer

    recipe = dataclasses.replace(FAST, epochs=1, precision="auto")
    assert len(fit(Fp32Only(), digits, recipe, device="cpu").history) == 1
    with pytest.raises(ModelError, match="no bfloat16 here"):
        fit(Fp32Only(), digits, dataclasses.replace(recipe, precision="bf16"), device="cpu")


def test_bf16_and_channels_last_train_and_return_plain_weights(net: nn.Module, digits: Splits) -> None:
    recipe = Recipe(epochs=3, batch_size=32, lr=0.2, precision="bf16", channels_last=True, clip_norm=5.0)
    model = fit(net, digits, recipe, device="cpu").model
    assert evaluate(model, digits.test, device="cpu").accuracy > 0.6
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in model.parameters())


def test_two_processes_share_the_work(net: nn.Module, digits: Splits) -> None:
    pytest.importorskip("lightning_fabric")
    seen: list[Progress] = []
    recipe = Recipe(epochs=2, batch_size=32, lr=0.2, precision="fp32", ema=0.9)
    fitted = fit(net, digits, recipe, device="cpu", devices=2, progress=seen.append)
    assert evaluate(fitted.model, digits.test, device="cpu").accuracy > 0.5
    assert seen[-1].epoch == 2
    assert seen[-1].steps == len(digits.train) // 2 // 16 + (len(digits.train) // 2 % 16 > 1)


def test_one_process_of_fabric_gives_the_plain_result(net: nn.Module, digits: Splits) -> None:
    fabric_module = pytest.importorskip("lightning_fabric")
    from netwright.train import loop

    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    job = loop.Job(net, digits, FAST, None, None, None, loop._objective(FAST, labelled=True, teacher=False))
    through = loop._work(FabricDevices(fabric), job, None)
    assert _same(through.model, fit(net, digits, FAST, device="cpu").model)


class _Steps(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def begin(self, state: State) -> None:
        self.seen.append(("begin", state.step))

    def before_step(self, state: State) -> None:
        assert all(p.grad is not None for p in state.model.parameters())
        self.seen.append(("before", state.step))

    def after_step(self, state: State) -> None:
        self.seen.append(("after", state.step))


def test_callbacks_are_called_around_every_step(net: nn.Module, digits: Splits) -> None:
    watch = _Steps()
    recipe = Recipe(epochs=2, batch_size=64, lr=0.1, precision="fp32", limit=256)
    fit(net, digits, recipe, device="cpu", callbacks=[watch])
    expected = [("begin", 0)] + [(k, s + (k == "after")) for s in range(8) for k in ("before", "after")]
    assert watch.seen == expected


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_training_goes_on_from_any_step(net: nn.Module, digits: Splits, step: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.2), net)
    recipe = Recipe(epochs=2, batch_size=64, lr=0.1, precision="fp32", limit=256, mixup=0.2)
    snapshots = Snapshots([step], optimizer=True)
    whole = fit(net, digits, recipe, device="cpu", callbacks=[snapshots])
    net.load_state_dict(snapshots.taken[step])
    rest = fit(net, digits, recipe, device="cpu", start=step, optimizer=snapshots.optimizers[step])
    assert _same(whole.model, rest.model)
    assert whole.history[-1]["lr"] == rest.history[-1]["lr"]


def test_a_callback_resumes_with_the_checkpoint(net: nn.Module, digits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=64, lr=0.1, precision="fp32", limit=256)

    class Stop(Callback):
        def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    path = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(net, digits, recipe, device="cpu", checkpoint=path, callbacks=[Snapshots([1, 7]), Stop()])
    again = Snapshots([1, 7])
    fit(net, digits, recipe, device="cpu", checkpoint=path, callbacks=[again, Callback()])
    assert sorted(again.taken) == [1, 7]
