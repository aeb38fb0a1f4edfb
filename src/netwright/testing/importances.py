"""What every importance must hold. Subclass it, give the importance as a fixture, pytest does the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from netwright import pruning, structure
from netwright.pruning import Examples, Importance


class ImportanceConformance:
    """Tests for an importance: one finite score for every class, and nothing of the model changes.

    A subclass defines the fixture `importance`, a name or a function of (structure, model, examples).
    """

    @pytest.fixture
    def importance(self) -> str | Importance:
        """The importance under test."""
        raise NotImplementedError("define the fixture `importance`")

    @pytest.fixture
    def model(self) -> nn.Module:
        """A small residual network with batch norm, in training mode as a user may leave it."""
        torch.manual_seed(0)
        return _Small().train()

    @pytest.fixture
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Three labelled batches: x (8, 3, 8, 8), y (8,)."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(24, 3, 8, 8, generator=generator)
        y = torch.randint(0, 5, (24,), generator=generator)
        return list(zip(x.split(8), y.split(8), strict=True))

    def test_one_finite_score_for_every_class(
        self, importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Scores have the shape (count,), are finite, and differ between units of an axis."""
        net, scores = _score(importance, model, batches)
        assert scores.shape == (net.count,)
        assert bool(scores.isfinite().all())
        assert all(len(scores[axis.cells].unique()) > 1 for axis in net.prunable)

    def test_repeatable(
        self, importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """The same model, data and seed give the same scores, whatever the global random state."""
        _, first = _score(importance, model, batches)
        torch.manual_seed(99)
        _, second = _score(importance, model, batches)
        assert torch.equal(first, second)

    def test_model_is_untouched(
        self, importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Parameters, buffers, gradients and modes are as before."""
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.stem.weight.grad = torch.ones_like(model.stem.weight)  # type: ignore[union-attr, arg-type]
        modes = [m.training for m in model.modules()]
        _score(importance, model, batches)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert [m.training for m in model.modules()] == modes
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert list(grads) == ["stem.weight"]
        assert bool((grads["stem.weight"] == 1).all())

    def test_serves_to_prune(
        self, importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """A network pruned by it fits its budget and runs."""
        pruned = pruning.prune(
            model, batches[0][0][:2], "macs=0.5", importance=importance, data=batches, repair="none"
        )
        assert pruned.after.macs <= 0.5 * pruned.before.macs
        assert pruned.model.eval()(batches[0][0]).shape == (8, 5)


class EquivariantImportanceConformance(ImportanceConformance):
    """The same for a function of weights and data alone: it follows a permutation of channels."""

    def test_follows_a_permutation(
        self, importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Channels in another order get the same scores in that order."""
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        twin = _Small().train()
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            for tensor in (twin.inner.weight, twin.norm.weight, twin.norm.bias):
                tensor.copy_(tensor[order])
            twin.outer.weight.copy_(twin.outer.weight[:, order])
        net, first = _score(importance, model, batches)
        _, second = _score(importance, twin, batches)
        axis = next(a for a in net.prunable if a.name == "inner")
        classes = axis.cells.reshape(-1)
        torch.testing.assert_close(second[classes], first[classes][order], rtol=2e-3, atol=1e-6)


def _score(
    importance: str | Importance, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[structure.Structure, Tensor]:
    example = batches[0][0][:2]
    net = structure.trace(model, example)
    return net, pruning.score(net, model, importance, Examples(batches, example, seed=5))


class _Small(nn.Module):
    """A stem, one residual block, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 1)
        self.last = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for norm in (self.norm, self.last):
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 5)."""
        y = torch.relu(self.stem(x))
        y = y + self.last(self.outer(torch.relu(self.norm(self.inner(y)))))
        return self.head(torch.relu(y).mean(dim=(2, 3)))
