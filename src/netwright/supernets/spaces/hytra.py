"""The HyTra space as a supernet: convolution or attention, and where images are halved, layer by layer.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, section 4.2. As in the authors' code
a layer that halves its images has its own way in and shares the rest with the one that does not. Every scale
has channels of its own, so a path is not a choice of an elastic network.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models.zoo.bossnet import EXPANSION, ResAtt, ResConv
from netwright.nas.hytra import OPERATIONS, hytra_paths, letters, scale_of, scales_after
from netwright.supernets.training.blocks import Feed, PathBlock
from netwright.supernets.training.blockwise import Trained, train_stages
from netwright.supernets.training.bootstrapping import BlockLoss
from netwright.train import Recipe, recalibrate_

#: A path through a block, codes of `nas.hytra`, one a layer.
Path = tuple[int, ...]
#: What a layer that halves images shares with the one of its operation that does not.
_SHARED = ("conv2", "bn2", "conv3", "bn3", "attn")


@dataclass(frozen=True)
class HybridShape:
    """Sizes of the networks of a space.

    Args:
        inner: Channels inside the layers of every scale, the coarsest first; four times as many go out. Those
            of the two coarsest, which may have attention, are multiples of `head_dim`.
        layers: Of a block.
        blocks: How many.
        stem: Channels of the first convolution, which has stride 1: its images are those of the finest scale.
        head_dim: Channels of a head of attention.
        in_channels: Of the images.

    Raises:
        UsageError: if the numbers make no space.
    """

    inner: tuple[int, ...] = (64, 32, 16)
    layers: int = 3
    blocks: int = 2
    stem: int = 16
    head_dim: int = 16
    in_channels: int = 3

    def __post_init__(self) -> None:
        if not 1 <= len(self.inner) <= len(OPERATIONS) or min(self.layers, self.blocks) < 1:
            raise UsageError(f"{self} is no space", "give channels of 1 to 4 scales, layers and blocks")
        if len(set(self.inner)) < len(self.inner):
            raise UsageError(f"channels {self.inner} do not tell scales apart", "give every scale its own")
        if any(channels % self.head_dim for channels in self.inner[:2]):
            raise UsageError(
                f"channels {self.inner[:2]} are no heads of {self.head_dim}", "give multiples of head_dim"
            )

    def outputs(self, scale: int) -> int:
        """Channels of the images of a scale, 0 the coarsest."""
        return EXPANSION * self.inner[scale]

    def layer(self, code: int, inputs: int, stride: int = 1, shortcut: str = "conv") -> nn.Module:
        """One layer.

        Args:
            code: Of its operation.
            inputs: Channels that come in.
            stride: 2 where it halves its images.
            shortcut: Of `models.zoo.bossnet.ResConv`: "conv" in the search, "pool" in what is trained alone.
        """
        inner, outputs = self.inner[scale_of(code)], self.outputs(scale_of(code))
        if letters([code]) == "a":
            heads = inner // self.head_dim
            return ResAtt(inputs, outputs, heads, self.head_dim, stride, shortcut=shortcut)
        return ResConv(inputs, outputs, inner, stride, shortcut=shortcut)

    def first(self) -> nn.Module:
        """The stem."""
        conv = nn.Conv2d(self.in_channels, self.stem, 3, 1, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(self.stem), nn.ReLU())

    def entry(self, scale: int) -> nn.Module:
        """From the stem to the first layer, which may be of any scale."""
        step, inner = 2 ** (len(self.inner) - 1 - scale), self.inner[scale]
        down = [nn.Conv2d(self.stem, self.stem, step, step, groups=self.stem, bias=False)]
        point = nn.Conv2d(self.stem, inner, 1, bias=False)
        return nn.Sequential(*(down if step > 1 else []), point, nn.BatchNorm2d(inner))


class HybridLayer(nn.Module):
    """All operations that a layer can be.

    Args:
        shape: Sizes of the network.
        first: Whether it is the first of all, which the stem's entries feed.
    """

    def __init__(self, shape: HybridShape, first: bool) -> None:
        super().__init__()
        self.stay, self.halve = nn.ModuleDict(), nn.ModuleDict()
        for scale in range(len(shape.inner)):
            for code in OPERATIONS[scale]:
                inputs = shape.inner[scale] if first else shape.outputs(scale)
                self.stay[str(code)] = same = shape.layer(code, inputs)
                if not first and scale + 1 < len(shape.inner):
                    down = shape.layer(code, shape.outputs(scale + 1), 2)
                    for name in _SHARED:
                        if hasattr(same, name):
                            setattr(down, name, getattr(same, name))
                    self.halve[str(code)] = down

    def forward(self, x: Tensor, code: int, halve: bool) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2) where it halves its images."""
        found: Tensor = (self.halve if halve else self.stay)[str(code)](x)
        return found


class HyTra(nn.Module):
    """The supernet: a stem, entries of every scale, blocks of layers with all their operations; no head.

    Args:
        shape: Its sizes.
    """

    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = shape.first()
        self.entries = nn.ModuleList(shape.entry(scale) for scale in range(len(shape.inner)))
        self.blocks = nn.ModuleList(
            nn.ModuleList(HybridLayer(shape, not block and not k) for k in range(shape.layers))
            for block in range(shape.blocks)
        )

    def run(self, number: int, path: Path, x: Tensor) -> Tensor:
        """One block on its own.

        Args:
            number: Of the block.
            path: Its path.
            x: Images for the first block, else what the block before it gives.
        """
        layers = self.blocks[number]
        assert isinstance(layers, nn.ModuleList)
        if not number:
            x = self.entries[scale_of(path[0])](self.stem(x))
        for k, (layer, code) in enumerate(zip(layers, path, strict=True)):
            x = layer(x, code, bool(number or k) and x.shape[1] != self.shape.outputs(scale_of(code)))
        return x


class _Beginning(nn.Module):
    """The first blocks of a supernet as they have become."""

    def __init__(self, sup: HyTra, paths: Sequence[Path]) -> None:
        super().__init__()
        self.sup, self.paths = copy.deepcopy(sup), list(paths)

    def forward(self, x: Tensor) -> Tensor:
        for number, path in enumerate(self.paths):
            x = self.sup.run(number, path, x)
        return x


class HyTraBlock:
    """One block with its paths; see `training.blocks.PathBlock`.

    Args:
        sup: The supernet.
        number: Of the block.
        paths: Its paths.
    """

    def __init__(self, sup: HyTra, number: int, paths: Sequence[Path]) -> None:
        self.sup, self.number = sup, number
        self.paths: list[Path] = list(paths)
        self.keys: list[Path] = self.paths

    def run(self, sup: HyTra, path: Path, x: Tensor) -> Tensor:
        """What a path makes of what comes into the block."""
        return sup.run(self.number, path, x)

    def names(self) -> list[str]:
        """Names of the parameters that are trained with the block."""
        mine = (f"blocks.{self.number}.", *(() if self.number else ("stem.", "entries.")))
        return [name for name, _ in self.sup.named_parameters() if name.startswith(mine)]

    def parts(self, sup: HyTra) -> list[nn.Module]:
        """The modules that run with the block."""
        return [sup.blocks[self.number], *([] if self.number else [sup.stem, sup.entries])]

    def fair(self, rng: np.random.Generator) -> list[Path]:
        """There are no such paths.

        Raises:
            UsageError: always: scales that only fall leave no step with every operation once.
        """
        raise UsageError("paths whose scale only falls cannot be drawn fairly", "leave fair out")


class HyTraStages:
    """Blocks whose scales begin where the one before them ended; see `training.blockwise.Stages`.

    Args:
        sup: The supernet.

    Attributes:
        kept: Paths of the blocks that were kept.
    """

    def __init__(self, sup: HyTra) -> None:
        self.sup, self.count = sup, sup.shape.blocks
        self.kept: list[Path] = []

    def block(self, number: int) -> HyTraBlock:
        """A block behind those that were kept, with the authors' restricted list of paths."""
        return HyTraBlock(self.sup, number, next_paths(self.sup.shape, self.kept))

    def keep(self, block: PathBlock, path: Path) -> None:
        """A path becomes what the block is from now on."""
        self.kept.append(path)

    def feeder(self, number: int, train: Part) -> Feed:
        """Images themselves, or what the blocks that were kept make of them."""
        if not number:
            return lambda x: x
        network = _Beginning(self.sup, self.kept)
        recalibrate_(network, train.batches(256, limit=2_048))
        network.eval().requires_grad_(False)
        return torch.no_grad()(network)


def next_paths(shape: HybridShape, before: Sequence[Path]) -> list[Path]:
    """The paths of the block that follows some: as many scales as the last one left.

    Args:
        shape: Sizes of the networks.
        before: Paths of the blocks before it.
    """
    scales = scales_after(before[-1]) if before else len(shape.inner)
    return hytra_paths(scales, shape.layers, restricted=True)


def train_hytra(
    sup: HyTra,
    data: Splits,
    *,
    loss: BlockLoss | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[HyTra, Trained]:
    """Train a copy of a supernet block by block; see `training.blockwise.train_stages` for the arguments.

    Returns:
        The trained supernet; and what was found, whose ``best`` are the paths of the blocks.
    """
    work = copy.deepcopy(sup).train()
    found = train_stages(HyTraStages(work), data, loss=loss, recipe=recipe, seed=seed, progress=progress)
    return work, found


class HybridNet(nn.Module):
    """A network of the space by itself, with a linear head behind the mean over the image.

    Args:
        shape: Its sizes.
        paths: Of its blocks.
        num_classes: Classes of the answer.

    Raises:
        UsageError: if a layer is finer than the one before, or coarser by more than one scale.
    """

    def __init__(self, shape: HybridShape, paths: Sequence[Path], num_classes: int) -> None:
        super().__init__()
        codes = [code for path in paths for code in path]
        scales = [scale_of(code) for code in codes]
        steps = [a - b for a, b in itertools.pairwise(scales)]
        if not codes or max(scales) >= len(shape.inner) or not set(steps) <= {0, 1}:
            raise UsageError(
                f"{list(paths)} are no paths of {len(shape.inner)} scales", "see nas.hytra_paths"
            )
        self.stem, self.entry = shape.first(), shape.entry(scales[0])
        layers = [shape.layer(codes[0], shape.inner[scales[0]], shortcut="pool")]
        for code, before, step in zip(codes[1:], scales, steps, strict=False):
            layers.append(shape.layer(code, shape.outputs(before), 1 + step, "pool"))
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(shape.outputs(scales[-1]), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.fc(self.layers(self.entry(self.stem(x))).mean(dim=(2, 3)))
