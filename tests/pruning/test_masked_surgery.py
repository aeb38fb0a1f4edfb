"""Surgeries on a network with masks: the masks go with the weights they lie on, whoever cuts."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import netwright as nw
from netwright import structure
from netwright.errors import StructureError
from netwright.models import ResNetCifar
from netwright.pruning import MaskState, bake, bare
from netwright.structure.maps import interchangeable, width
from netwright.structure.sizes import take

HARD_AND_SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])


class Mixed(nn.Module):
    """A weight used twice, a grouped convolution, and a normalised one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.twice = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.again = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.again.weight = self.twice.weight
        self.grouped = nn.Conv2d(12, 16, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(16)
        self.wide = weight_norm(nn.Conv2d(16, 8, 1))
        self.head = nn.Linear(8 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.again(torch.relu(self.twice(x))))
        x = torch.relu(self.wide(torch.relu(self.norm(self.grouped(x)))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Reader(nn.Module):
    """Two layers of an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(5, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    """A block of attention, whose module is replaced when it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


PICTURES, ROWS = (3, 8, 8), (6, 5)
NETWORKS = {
    "resnet": (lambda: ResNetCifar(8, widths=(4, 8, 12)), PICTURES),
    "mixed": (Mixed, PICTURES),
    "inside": (lambda: nn.Sequential(ResNetCifar(8, widths=(4, 4, 8)), nn.Linear(10, 6)), PICTURES),
    "lstm": (Reader, ROWS),
    "attention": (Attention, (6, 16)),
}
NAMED = pytest.mark.parametrize("name", NETWORKS)


def masked(name: str, soft: bool) -> tuple[nn.Module, MaskState, Tensor]:
    """A network of that name, the masks of it or (for "inside") of its first part, and an example."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, x = make().eval(), torch.randn(4, *shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    # Soft masks do not reach what a module reads by itself.
    direct = ("original", "self_attn") if soft else ("original0",)
    inner = model[0] if name == "inside" else model
    weights = {n: p for n, p in inner.named_parameters() if p.dim() > 1 and not any(d in n for d in direct)}
    return model, MaskState(inner, {n: torch.rand(p.shape) < 0.6 for n, p in weights.items()}, soft=soft), x


def masks_of(model: nn.Module, name: str) -> MaskState:
    found = MaskState.of(model.get_submodule("0") if name == "inside" else model)
    assert found is not None
    return found


def check(done: structure.Shrunk, before: MaskState, name: str) -> MaskState:
    """The masks are those of before, indexed as the weights, and the weights beneath are masked."""
    after = masks_of(done.model, name)
    assert after.soft == before.soft and after.masks.keys() == before.masks.keys()
    prefix = "0." if name == "inside" else ""
    for mask_name, mask in after.masks.items():
        stored = mask_name
        if before.soft:
            owner, _, leaf = mask_name.rpartition(".")
            stored = f"{owner}.parametrizations.{leaf}.original"
        assert torch.equal(mask, take(before.masks[mask_name], done.kept.get(prefix + stored, {})))
        assert mask.data_ptr() != before.masks[mask_name].data_ptr(), "the given network keeps its own"
        if not before.soft:
            assert not bool(after.parameter(mask_name)[~mask].any())
    return after


def trains_on(model: nn.Module, state: MaskState, x: Tensor) -> None:
    """Twenty steps of Adam leave what is masked at zero, and move the rest."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    handle = state.hold(optimizer)
    before = {n: state.parameter(n).detach().clone() for n in state.masks}
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    handle.remove()
    for name, mask in state.masks.items():
        weight = state.parameter(name)
        assert not torch.equal(weight, before[name])
        assert state.soft or not bool(weight[~mask].any())
    model.eval()
    seen = bake(state.model)
    assert all(not bool(seen.get_parameter(n)[~m].any()) for n, m in state.masks.items())


def shuffled(net: structure.Structure) -> structure.IndexMap:
    """A random permutation of the members of every axis, among those that can change places."""
    generator, kinds, tables = torch.Generator().manual_seed(3), interchangeable(net), {}
    for axis in net.prunable:
        rows = []
        for cell in axis.cells:
            row = torch.arange(width(axis))
            for kind in kinds[cell].unique():
                places = (kinds[cell] == kind).nonzero().reshape(-1)
                row[places] = places[torch.randperm(len(places), generator=generator)]
            rows.append(row)
        tables[axis.name] = torch.stack(rows)
    return structure.IndexMap(tables)


def halved(net: structure.Structure) -> Tensor:
    """Every axis without two members of every cell, or one where there are only two."""
    keep = torch.ones(net.count, dtype=torch.bool)
    for axis in net.prunable:
        keep[axis.cells[:, :: max(2, axis.cells.shape[1] // 2)].reshape(-1)] = False
    return keep


@NAMED
@HARD_AND_SOFT
class TestSurgeries:
    def test_permuting_keeps_the_function_and_moves_the_masks(self, name, soft):
        model, before, x = masked(name, soft)
        wanted = model(x)
        net = nw.trace(model, x)
        done = nw.permute(model, net, shuffled(net))
        after = check(done, before, name)
        assert any(not torch.equal(after.masks[n], m) for n, m in before.masks.items())
        assert done.error < 1e-12 and torch.allclose(done.model(x), wanted, atol=1e-5)
        trains_on(done.model, after, x)

    @pytest.mark.parametrize("noise", [0.0, 0.1])
    def test_widening_keeps_the_function_and_repeats_the_masks(self, name, soft, noise):
        model, before, x = masked(name, soft)
        wanted = model(x)
        generator = torch.Generator().manual_seed(5)
        done = nw.widen(model, nw.trace(model, x), 2, generator=generator, noise=noise)
        after = check(done, before, name)
        assert sum(m.numel() for m in after.masks.values()) > sum(m.numel() for m in before.masks.values())
        assert noise or torch.allclose(done.model(x), wanted, atol=1e-5)
        trains_on(done.model, after, x)

    @pytest.mark.parametrize("how", ["in place", "graph"])
    def test_shrinking_cuts_the_masks(self, name, soft, how):
        model, before, x = masked(name, soft)
        if soft and how == "graph":
            with pytest.raises(StructureError, match="soft masks"):
                structure.shrink(model, net := nw.trace(model, x), halved(net), how=how)
            return
        net = nw.trace(model, x)
        keep = halved(net)
        done = structure.shrink(model, net, keep, how=how)
        after = check(done, before, name)
        # The same cut through the network that it computes, without masks.
        plain = bake(model) if name != "inside" else nn.Sequential(bake(model[0]), model[1])
        wanted = structure.shrink(plain, nw.trace(plain, x), keep).model(x)
        assert torch.allclose(done.model(x), wanted, atol=1e-5)
        masks = {n: torch.zeros_like(m) for n, m in after.masks.items() if "original1" not in n}
        changed = done.model(x)
        trains_on(done.model, after, x)
        after.set_(masks)
        assert not torch.equal(done.model(x), changed), "the masks are live"


def test_a_surgery_is_replayed_with_masks() -> None:
    model, before, x = masked("resnet", False)
    net = nw.trace(model, x)
    done = nw.permute(model, net, shuffled(net))
    again = structure.replay(model, done.kept, done.attributes, done.adopted)
    check(structure.Shrunk(again, done.kept), before, "resnet")
    assert "_nw_mask" not in " ".join(done.kept), "what was kept is told of parameters"
    assert torch.allclose(again(x), bare(model)(x), atol=1e-5)


@HARD_AND_SOFT
class TestDepth:
    def test_an_inserted_block_has_the_masks_of_its_twin(self, soft):
        torch.manual_seed(0)
        model, x = ResNetCifar(14, widths=(4, 8, 12)).eval(), torch.randn(4, *PICTURES)
        weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
        before = MaskState(model, {n: torch.rand(p.shape) < 0.6 for n, p in weights.items()}, soft=soft)
        net = nw.trace(model, x)
        block = next(b for b in structure.branches(model, net) if b.block.endswith(".0"))
        deep = structure.insert(model, net, [block.name]).model
        after = MaskState.of(deep)
        stage = block.block.removesuffix("0")
        assert after.soft == soft and len(after.masks) > len(before.masks)
        for name, mask in after.masks.items():
            inside, _, rest = name.removeprefix(stage).partition(".")
            number = int(inside) if name.startswith(stage) else 0
            origin = f"{stage}{number - 1}.{rest}" if number else name
            assert torch.equal(mask, before.masks[origin]), f"{name} was {origin}"
        assert torch.allclose(deep(x), model(x), atol=1e-5)
        trains_on(deep, after, x)
        assert MaskState.load(copy.deepcopy(deep), deep.state_dict()) is not None

    def test_what_is_left_out_takes_its_masks_along(self, soft):
        model, before, x = masked("resnet", soft)
        net = nw.trace(model, x)
        # An identity shortcut: the whole block goes.
        block = next(b for b in structure.branches(model, net) if b.block)
        done = structure.drop(model, net, [block.name])
        after = MaskState.of(done.model)
        gone = {n for n in before.masks if n not in after.masks}
        assert gone and all(any(n.startswith(f"{p}.") for p in done.replaced) for n in gone)
        assert all(torch.equal(m, before.masks[n]) for n, m in after.masks.items())
        trains_on(done.model, after, x)


@HARD_AND_SOFT
def test_a_shared_weight_keeps_one_mask_where_a_block_is_left_out(soft: bool) -> None:
    model, before, x = masked("mixed", soft)
    net = nw.trace(model, x)
    (branch,) = structure.branches(model, net)
    done = structure.drop(model, net, [branch.name])
    after = MaskState.of(done.model)
    assert after is not None
    assert all(torch.equal(m, before.masks[n]) for n, m in after.masks.items())
    after.set_({n: torch.ones_like(m) for n, m in after.masks.items()})
    trains_on(done.model, after, x)
