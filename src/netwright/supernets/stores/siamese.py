"""Siamese supernets: one that learns and one that follows it as a moving average, with their projections.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, section 3.2; heads as of BYOL (J.-B.
Grill et al., 2020).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import UsageError


class Siamese(nn.Module):
    """A network that learns and a copy that follows.

    Args:
        online: The network that learns; it is used, not copied.

    Attributes:
        online: That network.
        target: The copy, without gradients.
    """

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.online = online
        self.target = copy.deepcopy(online).requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float, only: Iterable[str] | None = None) -> None:
        """Move the copy: ``target = momentum * target + (1 - momentum) * online``, parameters alone.

        Args:
            momentum: In 0..1.
            only: Names of parameters; all when None.

        Raises:
            UsageError: if the momentum is out of its range.
        """
        if not 0 <= momentum <= 1:
            raise UsageError(f"momentum={momentum} is not in 0..1", "give 0.99 or so")
        wanted = None if only is None else set(only)
        pairs = zip(self.online.named_parameters(), self.target.parameters(), strict=True)
        for (name, online), target in pairs:
            if wanted is None or name in wanted:
                target.mul_(momentum).add_(online.detach(), alpha=1 - momentum)


def rising(base: float, step: int, steps: int) -> float:
    """The momentum of a step: from `base` to 1 along half a cosine (BYOL, section 3.3).

    Args:
        base: In the beginning.
        step: From 0.
        steps: Of the whole training.
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / max(steps, 1)) + 1) / 2


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """``-2 cos`` of two batches of vectors, averaged: from -2 to 2.

    Args:
        prediction: (B, D).
        target: (B, D); no gradient reaches it.
    """
    return -2 * F.cosine_similarity(prediction, target.detach(), dim=1).mean()


class Neck(nn.Module):
    """From what a block puts out to a vector: channels made alike, the mean over the image, two layers.

    Args:
        channels: Numbers of channels that may come; see `Alignment`.
        hidden: Width of the hidden layer.
        outputs: Of the vector.
        batch_norm: Whether the hidden layer is normalised.
    """

    def __init__(self, channels: Iterable[int], hidden: int, outputs: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.align = Alignment(channels)
        norm: list[nn.Module] = [nn.BatchNorm1d(hidden)] if batch_norm else []
        self.layers = nn.Sequential(
            nn.Linear(self.align.outputs, hidden), *norm, nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C) -> (B, outputs)."""
        return self.layers(self.align(x))


class Alignment(nn.Module):
    """Makes the outputs of candidates alike: a convolution and norm by their channels, then the mean.

    Args:
        channels: Numbers of channels that may come, each but a single one with a 1x1 convolution of its own;
            a single one is left as it is. As a mapping, with the height of the images that have them: larger
            images than the smallest are brought to its size by a depthwise convolution before.

    Attributes:
        outputs: The most of these, which all become.
    """

    def __init__(self, channels: Iterable[int]) -> None:
        super().__init__()
        found = sorted(set(channels))
        heights = channels if isinstance(channels, Mapping) else dict.fromkeys(found, 1)
        least = min(heights.values())
        self.outputs = found[-1]
        self.fixes = nn.ModuleDict()
        for count in found if len(found) > 1 else ():
            step = heights[count] // least
            layers = [nn.Conv2d(count, count, step, step, groups=count, bias=False)] if step > 1 else []
            point = nn.Conv2d(count, self.outputs, 1, bias=False)
            self.fixes[str(count)] = nn.Sequential(*layers, point, nn.BatchNorm2d(self.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C) -> (B, outputs)."""
        image = x.reshape(*x.shape, *[1] * (4 - x.dim()))
        if len(self.fixes):
            image = self.fixes[str(image.shape[1])](image)
        return image.mean(dim=(2, 3))


def predictor(vector: int, hidden: int) -> nn.Module:
    """The layers by which one branch foresees the other.

    Args:
        vector: Width of what comes in and goes out.
        hidden: Width between.
    """
    return nn.Sequential(
        nn.Linear(vector, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, vector)
    )
