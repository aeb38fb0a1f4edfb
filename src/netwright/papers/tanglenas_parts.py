"""What TangleNAS' recipe measures mixtures by: the same with separate operations, bytes and times."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.models.zoo import MACRO_SPACES, ConvMacro, conv_macro
from netwright.papers.run import drawing
from netwright.supernets import Elastic, elastic
from netwright.supernets.samplers.gradient import GradientAlpha


def macro_supernet(space: str, seed: int) -> Elastic:
    """The supernet of a macro space, for grey pictures of 14 x 14.

    Args:
        space: A name of `MACRO_SPACES`.
        seed: Of its weights.
    """
    with drawing(seed):
        model = conv_macro(in_channels=1, space=space)
    widths = {f"layers.{k}.0": list(v) for k, v in enumerate(MACRO_SPACES[space].widths)}
    kernels = {f"layers.{k}.0": list(v) for k, v in enumerate(MACRO_SPACES[space].kernels) if len(v) > 1}
    return elastic(model, torch.zeros(2, 1, 14, 14), width=widths, kernel=kernels or None)


class Separate(nn.Module):
    """The same mixture with every operation run by itself: what weights that are not entangled cost.

    Each combination of input width, output width and kernel of a layer is a convolution of its own; their
    outputs are weighted and added. So are the outputs of normalised slices.

    Args:
        space: A name of `MACRO_SPACES`.
        sup: The supernet whose weights are used.
    """

    def __init__(self, space: str, sup: Elastic) -> None:
        super().__init__()
        self.space = MACRO_SPACES[space]
        assert isinstance(sup.network, ConvMacro)
        self.body = sup.network
        self.weights: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 14, 14) -> (B, classes)."""
        before: tuple[int, ...] = (x.shape[1],)
        entering = torch.ones(1)
        for number, block in enumerate(self.body.layers.children()):
            conv, norm, *rest = block.children()
            assert isinstance(conv, nn.Conv2d)
            widths, kernels = self.space.widths[number], self.space.kernels[number]
            leaving = self.weights[f"width:layers.{number}.0"]
            sizes = self.weights.get(f"kernel:layers.{number}.0", torch.ones(1))
            joint = torch.einsum("i,o,k->iok", entering, leaving, sizes).flatten()
            ways = itertools.product(before, widths, kernels)
            x = _total(x, conv.weight, joint, list(ways), max(widths))
            holds = torch.tensor([[float(c < w) for c in range(max(widths))] for w in widths]).to(leaving)
            x = norm(x) * (leaving @ holds)[:, None, None]  # normalised slices, weighted
            for layer in rest:
                x = layer(x)
            before, entering = widths, leaving
        pooled = x.mean((2, 3))
        head = self.body.fc
        parts = [
            w * F.linear(pooled[:, :c], head.weight[:, :c]) for w, c in zip(entering, before, strict=True)
        ]
        return torch.stack(parts).sum(0) + head.bias


def _total(x: Tensor, weight: Tensor, joint: Tensor, ways: list[tuple[int, int, int]], most: int) -> Tensor:
    """The weighted sum of the outputs of all operations of a layer."""
    full = weight.shape[-1]
    total: Tensor | None = None
    for share, (i, o, k) in zip(joint, ways, strict=True):
        rim = (full - k) // 2
        kernel = weight[:o, :i, rim : full - rim, rim : full - rim].clone()  # its own, as in a cell of DARTS
        out = share * F.conv2d(x[:, :i], kernel, padding=k // 2)
        out = F.pad(out, (0, 0, 0, 0, 0, most - o))
        total = out if total is None else total + out
    assert total is not None
    return total


def stored_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, the model's own parameters left out.

    Args:
        model: Whose parameters do not count.
        forward: Runs the pass.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(storage.nbytes() for storage in held.values())
    del output
    return total


def seconds(step: Callable[[], Tensor], repeats: int) -> float:
    """Processor time of a forward and a backward pass, the median.

    Args:
        step: Runs the forward pass and gives what the backward pass begins from.
        repeats: How often; one more is not counted.
    """
    times = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        step().square().mean().backward()
        times.append(time.process_time() - begun)
    return median(times[1:])


def costs(space: str, batch: int, repeats: int) -> dict[str, tuple[int, float]]:
    """Stored bytes and seconds of one network, of a mixture in weight space, and of separate operations.

    Args:
        space: A name of `MACRO_SPACES`.
        batch: Pictures of a pass.
        repeats: Passes that are timed.
    """
    sup = macro_supernet(space, 0).train()
    sampler = GradientAlpha("drnas")
    sampler.attach(sup)
    x = torch.randn(batch, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    separate = Separate(space, sup)

    def one() -> Tensor:
        out: Tensor = sup.set(sup.blueprint.full)(x)
        return out

    def mixed() -> Tensor:
        sampler.to_learn(0).apply(sup, batch)
        out: Tensor = sup(x)
        return out

    def apart() -> Tensor:
        separate.weights = sampler.weights(torch.Generator().manual_seed(0))
        out: Tensor = separate(x)
        return out

    return {
        name: (stored_bytes(sup, run), seconds(run, repeats))
        for name, run in (("one network", one), ("mixture", mixed), ("separate operations", apart))
    }


def agreement(space: str) -> float:
    """Greatest difference between the two mixtures' outputs: they compute the same.

    Args:
        space: A name of `MACRO_SPACES`.
    """
    sup = macro_supernet(space, 0).double().train()
    sampler = GradientAlpha("darts")
    sampler.attach(sup)
    x = torch.randn(4, 1, 14, 14, generator=torch.Generator().manual_seed(0)).double()
    separate = Separate(space, sup)
    separate.weights = {n: w.double() for n, w in sampler.weights(torch.Generator()).items()}
    sup.set_mixture(separate.weights)
    return float((sup(x) - separate(x)).detach().abs().max())
