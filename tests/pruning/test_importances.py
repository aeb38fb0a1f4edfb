import pytest
import torch
from torch import nn

from netwright import pruning, structure
from netwright.errors import UsageError
from netwright.models import ResNetCifar
from netwright.pruning import Examples, score
from netwright.testing.importances import EquivariantImportanceConformance, ImportanceConformance


@pytest.mark.parametrize(
    "importance", [n for n in pruning.list_importances() if n not in ("random", "movement", "learned")]
)
class TestImportance(EquivariantImportanceConformance):
    pass


@pytest.mark.parametrize(
    "importance",
    ["random", lambda net, model, data: torch.rand(net.count, generator=torch.Generator().manual_seed(0))],
)
class TestUnrelated(ImportanceConformance):
    pass


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = ResNetCifar(8, widths=(4, 6, 8)).eval()
    return model, structure.trace(model, torch.zeros(2, 3, 8, 8))


def naive(net, model, p):
    """Every parameter element adds |w|^p to the class of each of its dimensions, one at a time."""
    total = [0.0] * net.count
    for name, weight in model.named_parameters():
        for labels in net.layers.get(name, {}).values():
            wide = labels.expand(weight.shape).reshape(-1).tolist()
            for c, w in zip(wide, weight.detach().reshape(-1).double().tolist(), strict=True):
                total[c] += abs(w) ** p
    return torch.tensor(total, dtype=torch.float64)


@pytest.mark.parametrize(("name", "p"), [("magnitude-l1", 1), ("magnitude-l2", 2)])
def test_magnitude_is_the_group_norm(small, name, p):
    model, net = small
    expected = pruning.normalise(net, naive(net, model, p) ** (1 / p))
    found = score(net, model, name)
    for axis in net.prunable:
        torch.testing.assert_close(found[axis.cells], expected[axis.cells], rtol=1e-5, atol=0)


def test_magnitude_of_grouped_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    net = structure.trace(model, torch.zeros(1, 3, 5, 5))
    expected = pruning.normalise(net, naive(net, model, 1))
    found = score(net, model, "magnitude-l1")
    for axis in net.prunable:
        torch.testing.assert_close(found[axis.cells], expected[axis.cells], rtol=1e-5, atol=0)


def test_magnitude_is_another_name_of_l2(small):
    model, net = small
    assert torch.equal(score(net, model, "magnitude"), score(net, model, "magnitude-l2"))


def test_normalised_scores_do_not_see_the_scale_of_the_weights(small):
    model, net = small
    before = score(net, model, "magnitude")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(7)
    after = score(net, model, "magnitude")
    for axis in net.prunable:
        torch.testing.assert_close(before[axis.cells], after[axis.cells], rtol=1e-5, atol=0)
        assert float(after[axis.cells].mean()) == pytest.approx(1)


def test_random_depends_on_the_seed_only(small):
    model, net = small
    x = torch.zeros(2, 3, 8, 8)
    first, same, other = (score(net, model, "random", Examples(None, x, seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_taylor_is_weight_times_gradient(small):
    model, net = small
    x, y = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
    found = score(net, model, "taylor", Examples((x, y), x))
    nn.functional.cross_entropy(model(x), y).backward()
    expected = torch.zeros(net.count, dtype=torch.float64)
    for name, p in model.named_parameters():
        for labels in net.layers.get(name, {}).values():
            wide = labels.expand(p.shape).reshape(-1)
            expected.index_add_(0, wide, (p * p.grad).detach().abs().reshape(-1).double())
    expected = pruning.normalise(net, expected)
    for axis in net.prunable:
        torch.testing.assert_close(found[axis.cells], expected[axis.cells], rtol=1e-4, atol=1e-7)


def test_obs_gives_nothing_for_a_copy_of_another_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[5] = model[0].weight[0]
        model[0].bias[5] = model[0].bias[0]
    x = torch.randn(256, 4)
    net = structure.trace(model, x[:2])
    (axis,) = net.prunable
    scores = score(net, model, "obs", Examples(x, x[:2]))[axis.cells[0]]
    assert float(scores[[0, 5]].max()) < 0.05 * float(scores[1:5].min())


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("nonesuch", None, "choose from"),
        ("taylor", None, "looks at data"),
        ("taylor", torch.zeros(4, 3, 8, 8), "needs labels"),
        ("obs", None, "looks at data"),
        (3, None, "not understood"),
        (lambda net, model, data: torch.zeros(3), None, "one score for each"),
        (lambda net, model, data: torch.full((net.count,), float("nan")), None, "not finite"),
    ],
)
def test_what_is_refused(small, name, data, words):
    model, net = small
    with pytest.raises(UsageError, match=words):
        score(net, model, name, Examples(data, torch.zeros(2, 3, 8, 8)))


def test_bn_scale_needs_a_normalisation():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net = structure.trace(model, torch.zeros(1, 4))
    with pytest.raises(UsageError, match="no normalisation layer"):
        score(net, model, "bn-scale")


def test_names_are_unique_and_kebab_case():
    with pytest.raises(UsageError, match="already"):
        pruning.register_importance("magnitude")(lambda net, model, data: torch.zeros(1))
    with pytest.raises(UsageError, match="kebab"):
        pruning.register_importance("My_Score")
