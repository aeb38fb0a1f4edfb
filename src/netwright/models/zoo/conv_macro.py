"""Plain convolutional networks of four layers whose widths and kernels are what a search decides.

R. S. Sukthanker, A. Krishnakumar, M. Safari and F. Hutter, Weight-Entanglement Meets Gradient-Based Neural
Architecture Search, AutoML 2024, the toy space of convolutions; and smaller ones for exhaustive tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError


@dataclass(frozen=True)
class MacroSpace:
    """What is chosen from: for each layer some widths and some kernels.

    Args:
        widths: Channels that each layer may have, ascending.
        kernels: Sides of the kernel that each layer may have, ascending, odd.
    """

    widths: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def largest(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths and kernels of the largest network, which contains all others."""
        return tuple(max(w) for w in self.widths), tuple(max(k) for k in self.kernels)

    @property
    def paths(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """All (widths, kernels)."""
        return list(product(product(*self.widths), product(*self.kernels)))


_SMALL = ((4, 8, 16), (4, 8, 16), (8, 16, 32), (8, 16, 32))

#: Name -> space: 81 nets of four widths, 6 561 of widths and kernels, and the paper's, as many, wider.
MACRO_SPACES: Mapping[str, MacroSpace] = {
    "macro-81": MacroSpace(_SMALL, ((3,),) * 4),
    "convmacro": MacroSpace(_SMALL, ((3, 5, 7),) * 4),
    "tanglenas": MacroSpace(((8, 16, 32), (16, 32, 64), (32, 64, 128), (64, 128, 256)), ((3, 5, 7),) * 4),
}


class ConvMacro(nn.Module):
    """Four convolutions, 2x2 max poolings after the second and the last, and a linear head.

    Args:
        widths: Channels of every layer.
        kernels: Sides of their kernels, odd.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        norm: Whether convolutions are followed by batch normalisation, and have no bias then.
        pools: Numbers of the layers, from 1, that are followed by a pooling.

    Raises:
        ModelError: if there are not as many kernels as widths, or one is even.
    """

    def __init__(
        self,
        widths: Sequence[int],
        kernels: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        norm: bool = True,
        pools: Sequence[int] = (2, 4),
    ) -> None:
        super().__init__()
        if len(widths) != len(kernels) or not widths or any(k % 2 == 0 for k in kernels):
            raise ModelError(
                f"kernels {list(kernels)} are none for widths {list(widths)}", "give one odd side a layer"
            )
        layers, inputs = [], in_channels
        for number, (outputs, kernel) in enumerate(zip(widths, kernels, strict=True), start=1):
            layers.append(_layer(inputs, outputs, kernel, norm, number in pools))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.fc(torch.mean(self.layers(x), (2, 3)))


class TangleMacro(nn.Module):
    """The paper's network: four convolutions without norm, a fifth of 256 channels, four linear layers.

    Args:
        widths: Channels of the four layers.
        kernels: Sides of their kernels, odd.
        num_classes: Classes of the answer.
        in_channels: Channels of the images, of 32 x 32 pixels.

    Raises:
        ModelError: if there are not four widths and four odd kernels.
    """

    def __init__(
        self, widths: Sequence[int], kernels: Sequence[int], num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ModelError(f"the network has four layers, not {len(widths)}", "give four widths")
        body = ConvMacro(widths, kernels, num_classes, in_channels, norm=False)
        self.layers = body.layers
        self.last = nn.Conv2d(widths[-1], 256, 7, padding=2)
        self.dropout = nn.Dropout2d(0.5)
        self.head = nn.Sequential(
            nn.Linear(256 * 36, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
            nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 32, 32) -> (B, num_classes)."""
        x = self.dropout(torch.relu(self.last(self.layers(x))))
        return self.head(x.flatten(1))


def conv_macro(
    widths: Sequence[int] | None = None,
    kernels: Sequence[int] | None = None,
    space: str = "macro-81",
    num_classes: int = 10,
    in_channels: int = 3,
    **options: Any,
) -> ConvMacro | TangleMacro:
    """Build a network of a macro space.

    Args:
        widths: Channels of every layer; None are the largest of the space.
        kernels: Sides of the kernels; None are the largest of the space.
        space: A name of `MACRO_SPACES`; "tanglenas" builds the paper's own network.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        options: Others of `ConvMacro`: ``norm``, ``pools``.

    Raises:
        ModelError: if there is no such space, or widths and kernels do not fit.
    """
    if space not in MACRO_SPACES:
        raise ModelError(f"there is no macro space {space!r}", f"choose from {', '.join(MACRO_SPACES)}")
    wide, long = MACRO_SPACES[space].largest
    kind = TangleMacro if space == "tanglenas" else ConvMacro
    return kind(widths or wide, kernels or long, num_classes, in_channels, **options)


def _layer(inputs: int, outputs: int, kernel: int, norm: bool, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.ReLU())
    if pooled:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
