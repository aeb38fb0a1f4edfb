"""Sparse trainings of `fit`: averaged, stopped and resumed, and in several processes."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from netwright.data import Splits, load
from netwright.pruning import ElementImportance, MaskState, Sparsity
from netwright.pruning.schedules.schedule import Steps, granet
from netwright.train import Callback, Recipe, State, fit

RECIPE = Recipe(epochs=4, batch_size=64, lr=0.1, precision="fp32", limit=512)


class Small(nn.Module):
    """For 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Dies(Callback):
    """Ends a training as a kill would."""

    def __init__(self, step: int) -> None:
        self.at = step

    def after_step(self, state: State) -> None:
        if state.step == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits")


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(t, theirs[n]) for n, t in mine.items())


def sparse(name: str) -> Sparsity:
    schedule = {"granet": granet(every=3), "reactivating": Steps(0.15, 0.2), "one-shot": "one-shot"}[name]
    return Sparsity(0.2, schedule=schedule, seed=3)


@pytest.mark.parametrize("name", ["granet", "reactivating"])
def test_a_training_resumed_in_the_middle_is_bit_identical(small, digits, tmp_path, name):
    recipe = Recipe(**{**RECIPE.__dict__, "ema": 0.9})
    callback = sparse(name)
    whole = fit(small, digits, recipe, device="cpu", callbacks=[callback])
    path = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(small, digits, recipe, device="cpu", checkpoint=path, callbacks=[sparse(name), Dies(21)])
    again = sparse(name)
    # Whoever stops it is not part of the training.
    rest = fit(small, digits, recipe, device="cpu", checkpoint=path, callbacks=[again, Dies(10**9)])
    assert same(whole.model, rest.model)
    assert again.changes == callback.changes and len(again.changes) > 4
    assert [h["loss"] for h in rest.history] == [h["loss"] for h in whole.history]


@pytest.mark.parametrize("name", ["granet", "one-shot"])
def test_the_average_that_fit_gives_back_is_masked(small, digits, name):
    recipe = Recipe(**{**RECIPE.__dict__, "ema": 0.9, "epochs": 2})
    model = fit(small, digits, recipe, device="cpu", callbacks=[sparse(name)]).model
    state = MaskState.of(model)
    assert state.density == pytest.approx(0.2, abs=1e-3)
    for mask_name, mask in state.masks.items():
        assert not state.parameter(mask_name)[~mask].any()


def test_two_devices_give_a_masked_network_and_the_record(small, digits):
    pytest.importorskip("lightning_fabric")
    callback = sparse("reactivating")
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 2})
    fitted = fit(small, digits, recipe, device="cpu", devices=2, callbacks=[callback])
    state = MaskState.of(fitted.model)
    assert state.density == pytest.approx(0.2, abs=1e-3) and state.soft
    assert callback.changes[-1].keep == pytest.approx(0.2, abs=1e-3)
    assert fitted.accuracy > 0.3


def by_rank(model: nn.Module, names: list[str], context: object) -> dict[str, Tensor]:
    """Scores that differ in every process, as those of different examples do."""
    generator = torch.Generator().manual_seed(dist.get_rank() if dist.is_initialized() else 0)
    shapes = {n: model.get_parameter(n).shape for n in names}
    return {n: torch.rand(shape, generator=generator) for n, shape in shapes.items()}


def one_of_two(rank: int, folder: str) -> None:
    """Train in one of two processes, each on data of its own, and write down what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for importance in ("magnitude", "by-rank"):
            torch.save(trained(rank, importance), Path(folder) / f"{importance}-{rank}.pt")
    finally:
        dist.destroy_process_group()


def trained(rank: int, importance: str) -> dict[str, object]:
    torch.manual_seed(rank)  # the networks begin differently too: DDP sends round that of rank 0
    model = DistributedDataParallel(Small())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    # As an object: what is registered is there for all tests of the process.
    given = ElementImportance("by rank", by_rank) if importance == "by-rank" else importance
    sparsity = Sparsity(0.2, importance=given, schedule=granet(every=2), seed=rank)
    sparsity.attach(model, optimizer, 20)
    generator = torch.Generator().manual_seed(100 + rank)
    for _ in range(20):
        x, y = torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        sparsity.step()
    slots = {n: optimizer.state[p]["exp_avg_sq"] for n, p in model.module.named_parameters()}
    return {"state": model.module.state_dict(), "slots": slots, "grown": sparsity.changes[3].grown}


def test_two_processes_of_ddp_agree_on_weights_masks_and_slots(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    for importance in ("magnitude", "by-rank"):
        one, other = (torch.load(tmp_path / f"{importance}-{rank}.pt") for rank in (0, 1))
        learned = {n for n in one["state"] if "running" not in n}  # each has the statistics of its data
        assert all(torch.equal(one["state"][n], other["state"][n]) for n in learned)
        assert all(torch.equal(t, other["slots"][n]) for n, t in one["slots"].items())
        masks = {n.removeprefix("_nw_mask."): t for n, t in one["state"].items() if "_nw_mask." in n}
        kept, total = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
        assert kept == round(0.2 * total)
        for name, mask in masks.items():
            assert not one["state"][name][~mask].any() and not one["slots"][name][~mask].any()
        assert one["grown"] > 0


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_masked_network_is_held_in_any_training(small, digits, soft):
    ones = {n: p.abs() > p.abs().median() for n, p in small.named_parameters() if p.dim() > 1}
    state = MaskState(small, ones, soft=soft)
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 1, "ema": 0.9})
    found = MaskState.of(fit(small, digits, recipe, device="cpu").model)
    assert found.soft == soft and found.kept == state.kept
    for name, mask in found.masks.items():
        weight, before = found.parameter(name), state.parameter(name)
        assert not torch.equal(weight[mask], before[mask])
        # Beneath soft masks weight decay alone acts.
        assert not weight[~mask].any() or soft


def test_the_given_network_gets_no_masks(small, digits):
    before = copy.deepcopy(small.state_dict())
    fit(small, digits, Recipe(**{**RECIPE.__dict__, "epochs": 1}), device="cpu", callbacks=[sparse("granet")])
    assert MaskState.of(small) is None
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
