"""TangleNAS: mixtures in weight space equal those of outputs, and architecture parameters learn from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright import supernets
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models.zoo import char_lm, conv_macro
from netwright.nas import search
from netwright.supernets import Elastic
from netwright.supernets.samplers.gradient import METHODS, GradientAlpha, concentration
from netwright.supernets.samplers.relaxations import dirichlet, gumbel_one_hot, sparsemax
from netwright.supernets.spaces.autoformer import autoformer, autoformer_choice
from netwright.supernets.training.bilevel import held_batch
from netwright.train import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, augment=False, precision="fp32")


def _alphas(sup: Elastic, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        d.name: torch.randn(len(list(d.each())), generator=generator, dtype=torch.float64).requires_grad_()
        for d in sup.space.dims
    }


def _weights(alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: alpha.softmax(0) for name, alpha in alphas.items()}


def _one_hot(sup: Elastic, choice: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        d.name: F.one_hot(torch.tensor(list(d.each()).index(choice[d.name])), len(list(d.each()))).double()
        for d in sup.space.dims
    }


def _compare(got: Tensor, wanted: Tensor, alphas: Mapping[str, Tensor]) -> None:
    """Outputs and gradients with respect to the architecture parameters."""
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(alphas.values()), retain_graph=True) for y in (got, wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_convolutions_mixed_in_weights_equal_the_explicit_mixture() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.Conv2d(8, 5, 1)).double()
    sup = supernets.elastic(model, torch.randn(2, 3, 9, 9).double(), width=[2, 4, 8], kernel=[3, 5, 7])
    alphas = _alphas(sup)
    weights = _weights(alphas)
    first, second = sup.network[0], sup.network[1]  # type: ignore[index]
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    hidden = torch.zeros(2, 8, 9, 9, dtype=torch.float64)
    for (i, c), (j, k) in itertools.product(enumerate((2, 4, 8)), enumerate((3, 5, 7))):
        edge = (7 - k) // 2
        kernel = first.weight[:c, :, edge : 7 - edge, edge : 7 - edge]  # the middle, not a corner
        out = F.conv2d(x, kernel, first.bias[:c], padding=k // 2)
        hidden = hidden + weights["width:0"][i] * weights["kernel:0"][j] * F.pad(out, (0, 0, 0, 0, 0, 8 - c))
    wanted = second.bias.reshape(1, -1, 1, 1) + sum(
        weights["width:0"][i] * F.conv2d(hidden[:, :c], second.weight[:, :c]) for i, c in enumerate((2, 4, 8))
    )
    _compare(sup.set_mixture(weights)(x), wanted, alphas)


def test_linear_layers_mixed_in_weights_equal_the_explicit_mixture() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)).double()
    sup = supernets.elastic(model, torch.randn(2, 6).double(), width=[2, 4, 8])
    alphas = _alphas(sup)
    weights = _weights(alphas)
    a = weights["width:0"]
    first, second = sup.network[0], sup.network[1]  # type: ignore[index]
    x = torch.randn(3, 6, dtype=torch.float64)
    hidden = sum(
        a[i] * F.pad(F.linear(x, first.weight[:c], first.bias[:c]), (0, 8 - c))
        for i, c in enumerate((2, 4, 8))
    )
    wanted = second.bias + sum(
        a[i] * F.linear(hidden[:, :c], second.weight[:, :c])  # type: ignore[index,misc]
        for i, c in enumerate((2, 4, 8))
    )
    _compare(sup.set_mixture(weights)(x), wanted, alphas)


def _supernets() -> dict[str, tuple[Elastic, Tensor]]:
    torch.manual_seed(0)
    conv = conv_macro(in_channels=1, space="convmacro").double().eval()
    image = torch.randn(2, 1, 14, 14, dtype=torch.float64)
    text = torch.randint(0, 16, (2, 8))
    lm = char_lm(16, 8, 12, 2, 2.0, 2, head_dim=4).double().eval()
    return {
        "convolutions": (supernets.elastic(conv, image, width=[0.25, 0.5, 1.0], kernel=[3, 5, 7]), image),
        "transformer": (supernets.elastic(lm, text, width=[0.5, 1.0], heads=[1, 2], depth=True), text),
    }


@pytest.mark.parametrize("name", ["convolutions", "transformer"])
def test_one_hot_mixtures_are_slices_even_without_the_short_cut(name: str) -> None:
    sup, x = _supernets()[name]
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(4):
        choice = sup.space.sample(rng)
        wanted = sup.set(choice)(x)
        one = _one_hot(sup, choice)
        torch.testing.assert_close(sup.set_mixture(one)(x), wanted, atol=1e-12, rtol=0)
        mixing = sup._mixing
        assert mixing is not None
        given = mixing.check(one)
        whole = sup.lay(sup.blueprint.full, lambda m=mixing, g=given: m.laid(g))(x)  # type: ignore[misc]
        torch.testing.assert_close(whole, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["outputs", "affine"])
def test_layer_norms_of_a_soft_mixture(norm: str) -> None:
    """The mean of the slices' norms, each over its own channels; or, as released, of their affine weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double()
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    x = torch.randn(5, 4, dtype=torch.float64)
    values, a = (2, 4, 8), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    sup = supernets.elastic(net, x, width=list(values))
    (name,) = (d.name for d in sup.space.free)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    sup.network[1].register_forward_hook(lambda m, given, got: seen.append((given[0], got)))
    sup.set_mixture({name: a}, norm=norm)(x)
    ((given, got),) = seen
    gamma, beta = net[1].weight, net[1].bias

    def padded(t: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(t, (0, 8 - t.shape[-1]))

    if norm == "affine":
        mixed = [sum(w * padded(t[:c]) for w, c in zip(a, values, strict=True)) for t in (gamma, beta)]
        wanted = nn.functional.layer_norm(given, (8,), *mixed)
    else:
        slices = [nn.functional.layer_norm(given[:, :c], (c,), gamma[:c], beta[:c]) for c in values]
        wanted = sum(w * padded(t) for w, t in zip(a, slices, strict=True))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_the_released_way_to_mix_norms_is_not_the_slice() -> None:
    sup, x = _supernets()["transformer"]
    wanted = sup.set(sup.space.min())(x)
    one = _one_hot(sup, sup.space.min())
    sup.set_mixture(one, norm="affine")
    mixing = sup._mixing
    assert mixing is not None
    given = mixing.check(one)
    got = sup.lay(sup.blueprint.full, lambda: mixing.laid(given))(x)
    assert not torch.allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_every_method_are_weights(method: str) -> None:
    sup, _ = _supernets()["convolutions"]
    sampler = GradientAlpha(method, seed=3)
    sampler.attach(sup)
    weights = sampler.weights(torch.Generator().manual_seed(0))
    joint = torch.ones(())
    for name in ("width:layers.0.0", "width:layers.1.0", "kernel:layers.1.0"):
        joint = (joint[..., None] * weights[name]).flatten()
    assert len(joint) == 27
    torch.testing.assert_close(joint.sum(), torch.ones(()))
    for weight in weights.values():
        assert bool((weight >= 0).all())
        torch.testing.assert_close(weight.sum(), torch.ones(()))


def test_gdas_is_exactly_one_hot_forward_and_a_softmax_backward() -> None:
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tau, factors = 0.7, torch.arange(5.0)
    drawn = gumbel_one_hot(logits, tau, torch.Generator().manual_seed(4))
    assert sorted(drawn.tolist()) == [0.0, 0.0, 0.0, 0.0, 1.0]
    (got,) = torch.autograd.grad((drawn * factors).sum(), logits)
    noise = torch.empty(5).exponential_(generator=torch.Generator().manual_seed(4))
    soft = ((logits.log_softmax(0) - noise.log()) / tau).softmax(0)
    (wanted,) = torch.autograd.grad((soft * factors).sum(), logits)
    torch.testing.assert_close(got, wanted)
    assert int(drawn.argmax()) == int(soft.argmax())


def _projection(z: Tensor) -> Tensor:
    """The nearest point of the simplex, row by row: the closed form over all sizes of support."""
    rows = []
    for row in z:
        falling = sorted(row.tolist(), reverse=True)
        k = max(k for k in range(1, len(falling) + 1) if 1 + k * falling[k - 1] > sum(falling[:k]))
        rows.append((row - (sum(falling[:k]) - 1) / k).clamp(min=0))
    return torch.stack(rows)


def test_sparsemax_is_the_projection_on_the_simplex() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    z = z * torch.logspace(-2, 1, 200, dtype=torch.float64)[:, None]
    p = sparsemax(z)
    torch.testing.assert_close(p, _projection(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(p.sum(-1), torch.ones(200, dtype=torch.float64))
    zeros = (p == 0).sum(-1)
    assert {int(n) for n in zeros} == set(range(6))  # of every size of support
    others = torch.rand(500, 6, generator=generator, dtype=torch.float64)
    others = others / others.sum(-1, keepdim=True)
    assert bool((torch.cdist(z, others).min(1).values >= (z - p).norm(dim=-1) - 1e-12).all())
    torch.testing.assert_close(
        sparsemax(z.T.reshape(2, 3, 200) * 0), torch.full((2, 3, 200), 1 / 200.0).double()
    )
    torch.testing.assert_close(sparsemax(torch.tensor([2.0, 2.0, 0.0])), torch.tensor([0.5, 0.5, 0.0]))
    leaf = z[::10].clone().requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, leaf)
    support = (p[::10] > 0).double()
    (slope,) = torch.autograd.grad((sparsemax(leaf) * others[:20]).sum(), leaf)
    mean = (others[:20] * support).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
    torch.testing.assert_close(slope, support * (others[:20] - mean))


def test_gdas_draws_by_the_softmax_and_drnas_by_its_concentration() -> None:
    alpha = torch.tensor([0.8, -0.5, 0.1], dtype=torch.float64).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    drawn = gumbel_one_hot(alpha.expand(20_000, 3), 10.0, generator)
    torch.testing.assert_close(drawn.mean(0), alpha.softmax(0), atol=0.015, rtol=0)
    wanted = (F.elu(alpha) + 1) / (F.elu(alpha) + 1).sum()
    mean = dirichlet(concentration(alpha).expand(40_000, 3), generator).mean(0)
    torch.testing.assert_close(mean, wanted, atol=0.01, rtol=0)
    (got,) = torch.autograd.grad(mean[0], alpha)
    (slope,) = torch.autograd.grad(wanted[0], alpha)
    torch.testing.assert_close(got, slope, atol=0.02, rtol=0)


def test_the_papers_toy_space_has_6561_networks() -> None:
    sup = supernets.elastic(
        conv_macro(space="tanglenas"),
        torch.zeros(1, 3, 32, 32),
        width={f"layers.{i}.0": [0.25, 0.5, 1.0] for i in range(4)},
        kernel={f"layers.{i}.0": [3, 5, 7] for i in range(4)},
    )
    assert sup.space.size() == 3**8 == 6561


def test_one_slice_tells_gdas_nothing_behind_batch_normalisations_and_gates_do() -> None:
    sup, x = _supernets()["convolutions"]
    found: dict[bool, list[float]] = {}
    for gates in (False, True):
        sampler = GradientAlpha("gdas", gates=gates)
        sampler.attach(sup.train())
        for step in range(3):
            sampler.to_learn(step).apply(sup, 2)
            F.cross_entropy(sup(x), torch.tensor([0, 1])).backward()
            for alpha in sampler.alphas.values():
                found.setdefault(gates, []).append(
                    0.0 if alpha.grad is None else float(alpha.grad.abs().max())
                )
    first = [max(found[gates][0::8]) for gates in (False, True)]
    assert first[0] < 1e-5 < 1e-3 < first[1]


class _Nothing(nn.Module):
    """Hides everything."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def _signs(count: int = 96) -> Splits:
    """Labels are the sign of the first of four numbers."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    part = Part.from_tensors(x, (x[:, 0] > 0).long())
    return Splits("signs", part, part.head(2), part, ("-", "+"))


def _choosing() -> Elastic:
    torch.manual_seed(0)
    place = supernets.OneOf({"nothing": _Nothing(), "all": nn.Identity()})
    return supernets.elastic(nn.Sequential(place, nn.Linear(4, 2)), torch.randn(2, 4))


@pytest.mark.parametrize("method", ["drnas", "darts", "darts-v2", "gdas"])
def test_the_parameters_find_the_candidate_that_lets_information_through(method: str) -> None:
    strategy = supernets.Differentiable(method, lr=0.05)
    recipe = Recipe(epochs=12, batch_size=16, lr=0.1, augment=False, precision="fp32")
    found = strategy.train(_choosing(), _signs(), recipe)
    assert found.choice["op:0"] == "all"
    assert len(found.history) == 12
    assert (
        search(found.sup.space, [lambda c: 0.0], strategy=strategy, trials=1).best.candidate == found.choice
    )


def test_spos_takes_the_best_of_random_paths_and_moves_no_parameter() -> None:
    strategy = supernets.Differentiable("spos", evaluations=6)
    found = strategy.train(_choosing(), _signs(), Recipe(epochs=8, batch_size=16, augment=False))
    before = GradientAlpha("spos")
    before.attach(_choosing())
    assert found.choice["op:0"] == "all"
    torch.testing.assert_close(found.sampler.alphas["op:0"], before.alphas["op:0"])


def test_each_step_moves_parameters_on_held_examples_and_weights_on_others() -> None:
    seen: list[Tensor] = []
    strategy = supernets.Differentiable("darts", share=0.5)
    sup, data = _choosing(), _signs()
    weight = sup.network[1].weight.detach().clone()  # type: ignore[index]
    frozen = Recipe(epochs=1, batch_size=16, lr=1e-30, weight_decay=0.0, augment=False)
    found = strategy.train(sup, data, frozen)
    torch.testing.assert_close(found.sup.network[1].weight, weight)  # type: ignore[index]
    assert float(found.sampler.alphas["op:0"].detach().abs().max()) > 2e-4  # moved although weights did not
    assert found.paths.held is not None
    held = set(found.paths.held.indices.tolist())
    assert len(held) == 48 and held < set(range(96))
    for step in range(3):
        seen.append(held_batch(found.paths.held, 16, step, 0)[0])
    assert len(torch.cat(seen).unique(dim=0)) == 48  # all of them, each once, before any comes again


def test_parameters_are_saved_and_taken_back() -> None:
    sampler, again = GradientAlpha("drnas", 1), GradientAlpha("drnas", 2)
    for one in (sampler, again):
        one.attach(_choosing())
    sampler.to_learn(0)
    for alpha in sampler.alphas.values():
        alpha.grad = torch.ones_like(alpha)
    sampler.learn()
    again.load_state_dict(sampler.state_dict())
    torch.testing.assert_close(sampler.alphas["op:0"], again.alphas["op:0"])


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UsageError, match="method"):
        GradientAlpha("magic")
    with pytest.raises(UsageError, match="share"):
        supernets.Differentiable(share=1.0)
    with pytest.raises(UsageError, match="not trained"):
        search(_choosing().space, [lambda c: 0.0], strategy=supernets.Differentiable(), trials=1)
    with pytest.raises(UsageError, match="no AutoFormer space"):
        autoformer("huge")


def test_autoformer_tiny_counts_as_by_hand_and_mixes() -> None:
    sup = autoformer("tiny", image=16, patch=8, num_classes=10).eval()
    width, depth, heads, ratios = 216, 12, [3, 4] * 6, [3.5, 4.0, 4.0] * 4
    wanted = width * 3 * 64 + 2 * width + 5 * width + 2 * width + 10 * width + 10
    for n, ratio in zip(heads, ratios, strict=True):
        inner, attention = int(width * ratio), 64 * n
        wanted += 4 * width + 3 * attention * (width + 1) + width * (attention + 1)
        wanted += inner * (width + 1) + width * (inner + 1)
    choice = autoformer_choice(sup, width, depth, heads, ratios)
    assert sup.cost(choice).params == wanted
    assert sum(p.numel() for p in sup.extract(choice).parameters()) == wanted
    x = torch.randn(2, 3, 16, 16)
    expected = sup.set(choice)(x)
    sampler = GradientAlpha("drnas")
    sampler.attach(sup)
    sampler.to_learn(0).apply(sup, 2)
    sup(x).square().sum().backward()
    assert all(a.grad is not None and bool(a.grad.isfinite().all()) for a in sampler.alphas.values())
    torch.testing.assert_close(sup.set_mixture(_one_hot(sup, choice))(x), expected, atol=1e-6, rtol=0)


def test_an_entangled_pass_stores_what_one_network_stores() -> None:
    sup, x = _supernets()["convolutions"]
    kept = {}
    for name, weights in (("one", {}), ("mixed", _weights(_alphas(sup)))):
        own = {p.untyped_storage().data_ptr() for p in sup.parameters()}
        stored: dict[int, int] = {}

        def pack(t: Tensor, own: set[int] = own, stored: dict[int, int] = stored) -> Tensor:
            if t.untyped_storage().data_ptr() not in own:
                stored[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            batch = x.repeat(32, 1, 1, 1)
            out = sup.set_mixture(weights)(batch) if weights else sup.set(sup.space.max())(batch)
        kept[name] = sum(stored.values())
        del out
    assert kept["mixed"] <= 1.3 * kept["one"]
