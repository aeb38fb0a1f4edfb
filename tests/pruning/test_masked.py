"""Networks with masks are pruned, traced, saved, loaded and exported as the networks that they compute."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import netwright as nw
from netwright import structure
from netwright.errors import ArtefactError, UsageError
from netwright.models import ResNetCifar
from netwright.pruning import MaskState, bake, bare, carry_masks
from netwright.structure.masks import mask_of

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HARD_AND_SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])


class Tied(nn.Module):
    """A convolution used twice, a grouped one, and a head of normalised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.again = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.again.weight = self.twice.weight
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.again(torch.relu(self.twice(x))))
        x = torch.relu(self.norm(self.grouped(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Encoder(nn.Module):
    """One block of attention, whose attribute `num_heads` is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, dropout=0.0)
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.block(x).mean(1))


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 10)
    )


NETWORKS = {
    "resnet": lambda: ResNetCifar(8, widths=(8, 16, 32)),
    "tied": Tied,
    "attention": Encoder,
    "sequential": sequential,
}


def masked(name: str, soft: bool, keep: float = 0.4) -> nn.Module:
    """A network of that name with random masks."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    generator = torch.Generator().manual_seed(1)
    parameters = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    masks = {n: torch.rand(p.shape, generator=generator) < keep for n, p in parameters.items()}
    # Attention reads its parts directly; hard masks reach them.
    if soft:
        masks = {n: m for n, m in masks.items() if "self_attn" not in n and "block" not in n}
    MaskState(model, masks, soft=soft)
    return model


def answer(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


class TestPrune:
    @HARD_AND_SOFT
    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_small_network_is_the_masked_dense_one(self, name, soft):
        model = masked(name, soft)
        state, before = MaskState.of(model), answer(model)
        found = nw.prune(model, X[:2], 0.6, allocation="uniform", round_to=1, check=True)
        small = MaskState.of(found.model)
        assert small is not None and small.soft == soft
        assert found.error < 1e-12
        assert found.after.params < found.before.params
        for mask_name, mask in small.masks.items():
            dims, dense = found.kept.get(mask_name, {}), state.masks[mask_name]
            assert small.parameter(mask_name).shape == mask.shape
            if all(index.dim() == 1 for index in dims.values()):
                for dim, index in dims.items():
                    dense = dense.index_select(dim, index)
                assert torch.equal(mask, dense)
        assert 0.2 < small.density < 0.6

        # Against the definition: the masked dense network, its removed units silent.
        net = found.net
        wanted = structure.check(bare(model), net, found.keep, bake(found.model)).error
        assert wanted < 1e-12
        assert torch.equal(answer(model), before) and MaskState.of(model).kept == state.kept

    @HARD_AND_SOFT
    def test_removing_units_whose_weights_are_all_masked_changes_nothing(self, soft):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 10)).eval()
        masks = {n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters() if p.dim() > 1}
        masks["0.weight"][3:9] = False
        masks["3.weight"].view(10, 12, 36)[:, 3:9] = False
        MaskState(model, masks, soft=soft)
        before = answer(model)
        found = nw.prune(model, X[:2], 0.5, round_to=1)
        assert found.kept["0.weight"][0].tolist() == [0, 1, 2, 9, 10, 11]
        assert torch.allclose(answer(found.model), before, atol=1e-6)

    def test_soft_weights_keep_their_values_beneath(self):
        model = masked("resnet", soft=True)
        found = nw.prune(model, X[:2], 0.6, round_to=1)
        dense, small = MaskState.of(model), MaskState.of(found.model)
        for name in small.masks:
            want = dense.parameter(name).detach()
            for dim, index in found.kept.get(name, {}).items():
                want = want.index_select(dim, index)
            assert torch.equal(small.parameter(name), want)
        small.set_({n: torch.ones_like(m) for n, m in small.masks.items()})
        assert not torch.equal(answer(found.model), answer(bake(model)))

    def test_training_goes_on_with_the_small_masks(self):
        found = nw.prune(masked("resnet", soft=False), X[:2], 0.6).model
        optimizer = torch.optim.Adam(found.parameters(), lr=0.01)
        state = MaskState.of(found)
        state.hold(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            found.train()(X).square().mean().backward()
            optimizer.step()
        for name, mask in state.masks.items():
            assert not state.parameter(name)[~mask].any()
            assert not optimizer.state[state.parameter(name)]["exp_avg_sq"][~mask].any()

    @pytest.mark.parametrize("reinit", [False, True])
    def test_fine_tuning_holds_them(self, reinit):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        model = nw.sparsify(model, keep=0.3).model
        data, recipe = nw.data.load("digits"), nw.train.Recipe(epochs=1, limit=256, precision="fp32")
        found = nw.prune(
            model, torch.randn(2, 1, 8, 8), 0.5, data=data, recipe=recipe, reinit=reinit, device="cpu"
        )
        state = MaskState.of(found.model)
        assert found.history and state.density < 1
        assert not any(state.parameter(n)[~m].any() for n, m in state.masks.items())

    def test_repairs_leave_zeros_alone(self):
        model = masked("resnet", soft=False)
        found = nw.prune(model, X[:2], 0.6, data=X)
        assert any("batch norms were recomputed" in note for note in found.notes)
        state = MaskState.of(found.model)
        assert not any(state.parameter(n)[~m].any() for n, m in state.masks.items())
        with pytest.raises(UsageError, match="would fill in"):
            nw.prune(model, X[:2], 0.6, data=X, repair="obs")

    @HARD_AND_SOFT
    def test_a_graph_is_masked_as_well(self, soft):
        model = masked("attention", soft)
        found = nw.prune(model, X[:2], 0.6, heads="width", check=True)
        net = nw.trace(bare(model), X[:2], heads="width")
        done = structure.shrink(bare(model), net, mask_of(net, found.kept), how="graph")
        state = carry_masks(model, done.model, done.kept, done.scales)
        assert done.how == "graph" and state.soft == soft
        assert torch.allclose(answer(done.model), answer(found.model), atol=1e-5)

    @HARD_AND_SOFT
    def test_other_index_maps_carry_masks_too(self, soft):
        model = masked("resnet", soft)
        net, generator = nw.trace(bare(model), X[:2]), torch.Generator().manual_seed(0)
        orders = {
            axis.name: torch.stack([torch.randperm(axis.size, generator=generator) for _ in axis.cells])
            for axis in net.prunable
        }
        axis = net.prunable[0]
        for done in (
            nw.permute(bare(model), net, nw.IndexMap(orders)),
            nw.widen(bare(model), net, {axis.name: 2 * axis.size}),
        ):
            state = carry_masks(model, done.model, done.kept)
            assert state.soft == soft
            assert torch.allclose(answer(done.model), answer(model), atol=1e-6)

    def test_shapes_that_differ_are_named(self):
        model = masked("resnet", soft=False)
        found = nw.prune(bake(model), X[:2], 0.6, round_to=1)
        wrong = copy.deepcopy(model)
        wrong.conv1.weight = nn.Parameter(wrong.conv1.weight[:4].detach())
        with pytest.raises(UsageError, match="carry_masks"):
            MaskState.of(wrong).apply_()
        with pytest.raises(UsageError, match="no masks"):
            carry_masks(bake(model), found.model, found.kept)


@HARD_AND_SOFT
@pytest.mark.parametrize("name", NETWORKS)
def test_traces_see_the_network_without_masks(name, soft):
    model = masked(name, soft)
    net, plain = nw.trace(model, X[:2]), nw.trace(bake(model), X[:2])
    assert net.macs == plain.macs and len(net.prunable) == len(plain.prunable)
    assert sorted(a.total for a in net.axes) == sorted(a.total for a in plain.axes)


class TestFiles:
    @HARD_AND_SOFT
    @pytest.mark.parametrize("name", NETWORKS)
    def test_masks_are_saved_and_loaded(self, name, soft, tmp_path):
        model = masked(name, soft)
        nw.save(model, tmp_path / "masked")
        other = NETWORKS[name]().eval()
        loaded = nw.load(tmp_path / "masked", other)
        assert MaskState.of(other) is None
        self.check_same(loaded, model)
        again = nw.load(tmp_path / "masked", model)  # an architecture with masks is as good
        self.check_same(again, model)

    @HARD_AND_SOFT
    @pytest.mark.parametrize("name", NETWORKS)
    def test_small_masked_networks_are_saved_and_loaded(self, name, soft, tmp_path):
        found = nw.prune(masked(name, soft), X[:2], 0.6, round_to=1)
        nw.save(found, tmp_path)
        self.check_same(nw.load(tmp_path, NETWORKS[name]().eval()), found.model)

    def check_same(self, one: nn.Module, other: nn.Module) -> None:
        mine, theirs = MaskState.of(one), MaskState.of(other)
        assert mine.soft == theirs.soft
        assert all(torch.equal(m, theirs.masks[n]) for n, m in mine.masks.items())
        state = other.state_dict()
        assert all(torch.equal(t, state[n]) for n, t in one.state_dict().items())
        assert one.state_dict().keys() == state.keys()
        assert torch.equal(answer(one), answer(other))

    def test_results_of_sparsify_are_saved(self, tmp_path):
        torch.manual_seed(0)
        model = ResNetCifar(8, widths=(8, 16, 32)).eval()
        found = nw.sparsify(model, keep=0.1)
        nw.save(found, tmp_path)
        self.check_same(nw.load(tmp_path, model), found.model)
        assert json.loads((tmp_path / "kept.json").read_text())["notes"] == found.notes

    def test_files_are_as_small_as_the_masks_say(self, tmp_path):
        model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 64, bias=False))
        found = nw.sparsify(model, keep=0.1)
        nw.save(found, tmp_path)
        weights = 256 * 512 + 512 * 64
        assert (tmp_path / "model.safetensors").stat().st_size < weights * (4 * 0.1 + 1 / 8) + 1024
        found = load_file(tmp_path / "model.safetensors")
        assert found["_nw_mask.0.weight"].numel() == 256 * 512 // 8

    @pytest.mark.parametrize("what", ["bits", "values", "names", "kind", "absent"])
    def test_damaged_masks_are_refused(self, what, tmp_path):
        model = masked("resnet", soft=False)
        nw.save(model, tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        recipe = json.loads((tmp_path / "kept.json").read_text())
        if what == "bits":
            weights["_nw_mask.fc.weight"] = weights["_nw_mask.fc.weight"][:-1].clone()
        if what == "values":
            weights["fc.weight"] = weights["fc.weight"][:-1].clone()
        if what == "names":
            recipe["masks"]["names"].append("nowhere")
        if what == "kind":
            recipe["masks"] = [1]
        if what == "absent":
            del recipe["masks"]
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "kept.json").write_text(json.dumps(recipe))
        with pytest.raises(ArtefactError):
            nw.load(tmp_path, ResNetCifar(8, widths=(8, 16, 32)))

    def test_a_network_that_nothing_is_known_of_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="does not say"):
            nw.save(ResNetCifar(8, widths=(8, 16, 32)), tmp_path)


class TestExport:
    @HARD_AND_SOFT
    @pytest.mark.parametrize(
        ("name", "exporter"),
        [
            ("resnet", "torchscript"),
            ("tied", "torchscript"),
            ("sequential", "torchscript"),
            ("sequential", "dynamo"),
        ],
    )
    def test_the_file_has_the_zeros_and_no_trace_of_masks(self, name, soft, exporter, tmp_path):
        import onnx
        from onnx import numpy_helper

        model = masked(name, soft)
        before = copy.deepcopy(model.state_dict())
        done = nw.export(model, X[:2], tmp_path / "net.onnx", exporter=exporter)
        plain = nw.export(bake(model), X[:2], tmp_path / "plain.onnx", exporter=exporter)
        assert done.max_abs_diff < 1e-4
        graph, want = onnx.load(done.path).graph, onnx.load(plain.path).graph
        assert [n.op_type for n in graph.node] == [n.op_type for n in want.node]
        assert done.bytes == pytest.approx(plain.bytes, rel=0.02)
        arrays = [numpy_helper.to_array(i) for i in graph.initializer]
        big = max(arrays, key=lambda a: a.size)
        assert 0.5 < (big == 0).mean() < 0.7
        assert all(a.dtype != bool for a in arrays)
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
