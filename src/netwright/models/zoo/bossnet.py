"""BossNets: residual blocks of convolutions or of attention, in an order that was searched.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, section 4 and table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import ModelError
from netwright.models.zoo.drop_path import DropPath, rising_rates
from netwright.models.zoo.squeeze import SqueezeExcitation

#: Blocks of the four stages of BossNet-T0 and T1: c a convolution, a attention.
BOSSNET_T: tuple[str, ...] = ("c", "c", "cccac", "aaacaaaaa")
#: A block puts out this many times the channels that it computes with.
EXPANSION = 4
_HEAD_DIM, _SQUEEZE = 64, 16
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU}


class ResConv(nn.Module):
    """A bottleneck of 1x1, depthwise 3x3 (which encodes positions), 3x3 and 1x1 convolutions.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        inner: Channels between.
        stride: Of the depthwise convolution and of the shortcut.
        act: "silu" or "relu".
        se: Whether channels are scaled by squeeze and excitation, with a sixteenth of them squeezed.
        shortcut: What changes the shape: "pool" is a mean over 2x2 pixels and a 1x1 convolution, as the found
            networks were trained; "conv" one convolution with an activation, as in the search.
        drop_path: Rate at which examples skip the block while training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        inner: int,
        stride: int = 1,
        act: str = "relu",
        se: bool = False,
        shortcut: str = "pool",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = activation(act)
        self.shortcut = _shortcut(inputs, outputs, stride, act, shortcut)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.peg = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs, max(8, outputs // _SQUEEZE)) if se else nn.Identity()
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.act(self.bn1(self.peg(self.conv1(x))))
        y = self.se(self.bn3(self.conv3(self.act(self.bn2(self.conv2(y))))))
        return self.act(self.drop_path(y) + self.shortcut(x))


class ImageAttention(nn.Module):
    """Multi-head self-attention of the pixels of an image, without biases of any kind.

    Args:
        inputs: Channels that come in.
        heads: How many; heads x head_dim channels go out.
        head_dim: Channels of a head.
    """

    def __init__(self, inputs: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Conv2d(inputs, 3 * heads * head_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, heads x head_dim, H, W)."""
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, -1, self.head_dim))
        q, k, v = qkv.transpose(-2, -1).unbind(1)  # (B, heads, H W, head_dim)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(-2, -1).flatten(1, 2).unflatten(-1, x.shape[-2:])


class ResAtt(nn.Module):
    """A bottleneck with self-attention in the middle and a depthwise convolution that encodes positions.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        heads: Of the attention.
        head_dim: Channels of a head; heads x head_dim channels are between.
        stride: Of the depthwise convolution and of the shortcut.
        act: "silu" or "relu".
        shortcut: "pool" or "conv", see `ResConv`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        heads: int,
        head_dim: int = _HEAD_DIM,
        stride: int = 1,
        act: str = "relu",
        shortcut: str = "pool",
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.act = activation(act)
        self.shortcut = _shortcut(inputs, outputs, stride, act, shortcut)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.peg = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.attn = ImageAttention(inner, heads, head_dim)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.attn(self.act(self.bn1(self.peg(self.conv1(x)))))
        return self.act(self.bn3(self.conv2(self.act(self.bn2(y)))) + self.shortcut(x))


class BossNet(nn.Module):
    """A stem of stride 4, stages of residual blocks, the mean over the image, a linear head.

    Args:
        encoding: One text a stage, a letter a block: "c" for `ResConv`, "a" for `ResAtt`. A stage without
            blocks is one 3x3 convolution of stride 2.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        se: Whether the convolutional blocks have squeeze and excitation.
        act: "silu" or "relu"; that of the stem, too.
        last_stride: Stride of the fourth stage.
        inner: Inner channels of the blocks of every stage; a multiple of `head_dim` where there is attention.
        head_dim: Channels of a head.
        shortcut: "pool" or "conv", see `ResConv`.
        drop_path: Rate of stochastic depth of the last block, rising from 0; for convolutional blocks.

    Raises:
        ModelError: if the encoding is not understood or does not fit the inner channels.
    """

    #: Height and width of the images of the paper; any others are taken, too.
    image_size = 224

    def __init__(
        self,
        encoding: Sequence[str] = BOSSNET_T,
        num_classes: int = 1000,
        in_channels: int = 3,
        se: bool = True,
        act: str = "silu",
        last_stride: int = 2,
        inner: Sequence[int] = (64, 128, 256, 512),
        head_dim: int = _HEAD_DIM,
        shortcut: str = "pool",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _check(encoding, inner, head_dim)
        width = inner[0]
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = activation(act)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        rates = iter(rising_rates(drop_path, sum(map(len, encoding))))
        stages: list[nn.Module] = []
        for number, (blocks, planes) in enumerate(zip(encoding, inner, strict=False)):
            stride, outputs = (1, 2, 2, last_stride)[min(number, 3)], EXPANSION * planes
            stage: list[nn.Module] = [] if blocks else [_halved(width, outputs, act)]
            for k, kind in enumerate(blocks):
                step, rate, inputs = (1 if k else stride), next(rates), outputs if k else width
                if kind == "c":
                    stage.append(ResConv(inputs, outputs, planes, step, act, se, shortcut, rate))
                else:
                    stage.append(ResAtt(inputs, outputs, planes // head_dim, head_dim, step, act, shortcut))
            width = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        return self.fc(torch.mean(self.stages(x), (2, 3)))


def bossnet(
    encoding: Sequence[str] = BOSSNET_T,
    se: bool = True,
    act: str = "silu",
    last_stride: int = 2,
    num_classes: int = 1000,
    in_channels: int = 3,
    **options: Any,
) -> BossNet:
    """Build a BossNet: T0 as it is, T1 with ``last_stride=1``, their plain form with se=False, act="relu".

    Args:
        encoding: One text a stage, a letter a block, see `BossNet`.
        se: Whether the convolutional blocks have squeeze and excitation.
        act: "silu" or "relu".
        last_stride: Stride of the fourth stage.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        options: Others of `BossNet`: ``inner``, ``head_dim``, ``shortcut``, ``drop_path``.

    Raises:
        ModelError: if the encoding is not understood or does not fit the inner channels.
    """
    return BossNet(encoding, num_classes, in_channels, se, act, last_stride, **options)


def activation(name: str) -> nn.Module:
    """An activation of a name.

    Raises:
        ModelError: if there is none.
    """
    if name not in _ACTIVATIONS:
        raise ModelError(f"there is no activation {name!r}", f"choose from {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def _shortcut(inputs: int, outputs: int, stride: int, act: str, kind: str) -> nn.Module:
    if kind not in ("pool", "conv"):
        raise ModelError(f"there is no shortcut {kind!r}", "choose from pool, conv")
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "conv":
        if stride > 1:
            return _halved(inputs, outputs, act)
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), activation(act)
        )
    pool = [nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
    return nn.Sequential(*pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _halved(inputs: int, outputs: int, act: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), activation(act)
    )


def _check(encoding: Sequence[str], inner: Sequence[int], head_dim: int) -> None:
    if isinstance(encoding, str) or not encoding or any(set(blocks) - {"c", "a"} for blocks in encoding):
        raise ModelError(
            f"the encoding {encoding!r} is not understood", 'give one text a stage, such as ("c", "cca")'
        )
    if len(inner) < len(encoding):
        raise ModelError(
            f"{len(encoding)} stages have inner channels for {len(inner)}", "give `inner` for every stage"
        )
    for blocks, planes in zip(encoding, inner, strict=False):
        if "a" in blocks and planes % head_dim:
            raise ModelError(
                f"{planes} channels are not split into heads of {head_dim}", "give a multiple in `inner`"
            )
