import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from netwright import pruning
from netwright.errors import ArtefactError, BudgetError, ModelError, UsageError
from netwright.models import ResNetCifar
from netwright.pruning import load, prune, save_pruned

X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ResNetCifar(8, widths=(8, 16, 32)).eval()


class TestPrune:
    @pytest.mark.parametrize("repair", pruning.list_repairs())
    def test_the_given_model_is_untouched(self, model, repair):
        model.train()
        model.fc.weight.grad = torch.ones_like(model.fc.weight)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        small = prune(model, X[:2], "macs=0.5", repair=repair, data=X).model
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert [n for n, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]
        assert all(m.training for m in model.modules())
        assert all(m.training for m in small.modules())
        mine = {p.data_ptr() for p in model.parameters()}
        assert not mine & {p.data_ptr() for p in small.parameters()}

    def test_the_result_says_what_was_done(self, model):
        found = prune(model, X[:2], "params=0.7", exclude=["layer3.0.conv1"], check=True)
        assert found.after.params <= 0.7 * found.before.params
        assert found.after.params == sum(p.numel() for p in found.model.parameters())
        assert found.before.params == sum(p.numel() for p in model.parameters())
        assert found.error is not None and found.error < 1e-12
        assert len(found.kept["conv1.weight"][0]) == found.model.conv1.out_channels
        assert any("excluded" in reason for _, reason in found.frozen)
        text = str(found)
        assert "params" in text and "conv1" in text and "excluded" in text

    def test_repair_follows_the_data(self, model):
        assert not any("refitted" in n for n in prune(model, X[:2], "macs=0.5").notes)
        assert any("refitted" in n for n in prune(model, X[:2], "macs=0.5", data=X).notes)

    def test_same_seed_same_network(self, model):
        one, two = (prune(model, X[:2], "macs=0.5", importance="random", seed=3).model for _ in range(2))
        other = prune(model, X[:2], "macs=0.5", importance="random", seed=4).model
        with torch.no_grad():
            assert torch.equal(one(X), two(X))
            assert not torch.equal(one(X), other(X))

    def test_a_bare_number_is_a_share_of_the_units(self, model):
        small = prune(model, X[:2], 0.5, allocation="uniform").model
        assert small.conv1.out_channels == 4

    def test_size_is_that_of_the_weights(self, model):
        found = prune(model, X[:2], "size=150kB")
        assert 4 * found.after.params < 150_000

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"budget": "macs=2"}, BudgetError, "cannot be met"),
            ({"budget": "speed=2"}, BudgetError, "speed"),
            ({"importance": "nonesuch"}, UsageError, "choose from"),
            ({"allocation": "nonesuch"}, UsageError, "choose from"),
            ({"repair": "nonesuch"}, UsageError, "choose from"),
            ({"repair": "bn"}, UsageError, "looks at data"),
            ({"importance": "taylor", "data": X}, UsageError, "needs labels"),
            ({"exclude": "layer1"}, UsageError, "list of names"),
            ({"round_to": -1}, UsageError, "not a step"),
            ({"example": torch.zeros(2, 4, 8, 8)}, ModelError, "rejects"),
            ({"data": torch.zeros(8, 4, 8, 8)}, ModelError, "rejects"),
        ],
    )
    def test_what_is_refused(self, model, change, error, words):
        arguments = {"example": X[:2], "budget": "macs=0.5", **change}
        with pytest.raises(error, match=words):
            prune(model, **arguments)


class TestSaving:
    @pytest.fixture
    def folder(self, model, tmp_path):
        self.pruned = prune(model, X[:2], "macs=0.5", data=X)
        return save_pruned(self.pruned, tmp_path / "small")

    def test_round_trip(self, model, folder):
        assert sorted(p.name for p in folder.iterdir()) == ["kept.json", "model.safetensors"]
        again = load(folder, model)
        with torch.no_grad():
            assert torch.equal(again(X), self.pruned.model(X))
        assert again.conv1.out_channels == self.pruned.model.conv1.out_channels
        assert model.conv1.out_channels == 8

    def test_trained_further(self, model, folder):
        with torch.no_grad():
            self.pruned.model.fc.bias.add_(1)
        save_pruned(replace(self.pruned, notes=["trained"]), folder)
        with torch.no_grad():
            assert torch.equal(load(folder, model)(X), self.pruned.model(X))

    def test_attention_with_a_free_inner_width(self, tmp_path):
        torch.manual_seed(0)
        model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
        x = torch.randn(4, 5, 32)
        pruned = prune(model, x, "macs=0.5")
        assert pruned.adopted == ["self_attn"]
        with torch.no_grad():
            assert torch.equal(load(save_pruned(pruned, tmp_path), model)(x), pruned.model(x))

    def test_tied_weights_are_written_once(self, tmp_path):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
                self.b.weight = self.a.weight
                self.inner = nn.Linear(8, 32)
                self.outer = nn.Linear(32, 8)

            def forward(self, x):
                return self.b(self.outer(torch.relu(self.inner(self.a(x)))))

        model, x = Tied(), torch.randn(4, 8)
        pruned = prune(model, x, "macs=0.6")
        again = load(save_pruned(pruned, tmp_path), model)
        assert again.a.weight is again.b.weight
        assert json.loads((tmp_path / "kept.json").read_text())["aliases"] == {"b.weight": "a.weight"}
        with torch.no_grad():
            assert torch.equal(again(x), pruned.model(x))

    @pytest.mark.parametrize("name", ["kept.json", "model.safetensors"])
    @pytest.mark.parametrize("content", [None, b"", b"{}", b'{"format": "netwright-pruned", "version": 99}'])
    def test_wrong_files_are_refused_in_one_line(self, model, folder, name, content):
        path = folder / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ArtefactError, match=name) as error:
            load(folder, model)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "change",
        [
            {"kept": {"conv1.weight": {"0": [0, 99]}}},
            {"kept": {"conv1.weight": {"0": ["a"]}}},
            {"kept": {"nonesuch": {"0": [0]}}},
            {"kept": []},
            {"attributes": {"conv1": {"forward": "x"}}},
            {"attributes": {"conv1": {"nonesuch": 3}}},
            {"attributes": {"nonesuch": {"out_channels": 3}}},
            {"adopted": ["nonesuch"]},
            {"adopted": None},
        ],
    )
    def test_recipes_that_do_not_fit_are_refused(self, model, folder, change):
        recipe = json.loads((folder / "kept.json").read_text())
        (folder / "kept.json").write_text(json.dumps({**recipe, **change}))
        with pytest.raises(ArtefactError):
            load(folder, model)

    def test_another_architecture_is_refused(self, folder):
        for other in (
            ResNetCifar(8, widths=(8, 16, 16)),
            ResNetCifar(14, widths=(8, 16, 32)),
            nn.Linear(2, 2),
        ):
            with pytest.raises(ArtefactError, match="fit"):
                load(folder, other)


class TestLatency:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Time in proportion to the number of parameters, so that the tests time nothing."""
        from types import SimpleNamespace

        from netwright.pruning.allocations import latency

        seen = []

        def export(model, example, path, **_):
            return SimpleNamespace(path=sum(p.numel() for p in model.parameters()))

        def measure(files, example, **_):
            before, after = files["before"] / 1e4, files["after"] / 1e4
            seen.append(after / before)
            return {
                "before": SimpleNamespace(median_ms=before, ratio=1.0),
                "after": SimpleNamespace(median_ms=after, ratio=after / before),
            }

        monkeypatch.setattr(latency, "export_onnx", export)
        monkeypatch.setattr(latency, "latencies", measure)
        return seen

    def test_measured_below_the_limit_and_close(self, model, clock):
        found = prune(model, X[:2], "latency=0.5")
        assert 0.4 < found.latency["after"] / found.latency["before"] <= 0.5
        assert len(clock) <= 8
        assert "latency" in str(found)

    def test_unmeetable(self, model, clock):
        with pytest.raises(BudgetError, match="smallest network measured"):
            prune(model, X[:2], "latency=0.001ms")
