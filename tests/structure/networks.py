"""Small networks of every common kind, with an example each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, Any]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a projection where the width changes."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.pad = o - i

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.pad:  # option A: drop positions, pad channels with zeros
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.pad))
        return (x + y).relu()


class ResNet20(nn.Module):
    """He et al., 2016, for 32x32 images, with parameter-free shortcuts."""

    def __init__(self, width: int = 16, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, i = [], width
        for stage in range(3):
            for k in range(depth):
                o = width * 2**stage
                blocks.append(ResidualBlock(i, o, 2 if stage and not k else 1))
                i = o
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    """Two levels down and up, with skip connections."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def double(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(
                *(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()),
                *(nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()),
            )

        self.down1, self.down2, self.middle = (
            double(3, width),
            double(width, 2 * width),
            double(2 * width, 4 * width),
        )
        self.up2, self.up1 = (
            nn.ConvTranspose2d(4 * width, 2 * width, 2, 2),
            nn.ConvTranspose2d(2 * width, width, 2, 2),
        )
        self.join2, self.join1 = double(4 * width, 2 * width), double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        a = self.join1(torch.cat([self.up1(b), a], 1))
        return self.head(a)


class Recurrent(nn.Module):
    """A recurrent classifier of the last (or mean) state."""

    def __init__(self, kind: type[nn.RNNBase], pool: str = "last", **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 10, batch_first=True, **options)
        self.head = nn.Linear(20 if self.rnn.bidirectional else 10, 4)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y[:, -1] if self.pool == "last" else y.mean(1))


class Cells(nn.Module):
    """A recurrence that is unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class Encoder(nn.Module):
    """torch's own transformer encoder, with an embedding of tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(13, 16), nn.Parameter(torch.zeros(1, 7, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


class Translator(nn.Module):
    """torch's encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.net(source, target))


def _images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size)


def _vision(name: str, size: int = 32, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import torchvision

        return getattr(torchvision.models, name)(num_classes=10, **options), _images(size)

    return make


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import timm

        return timm.create_model(name, num_classes=10, **options), _images(size)

    return make


def _small_dense() -> Made:
    from torchvision.models.densenet import DenseNet

    return DenseNet(8, (2, 3, 2), 16, num_classes=10), _images(64)


def _small_vgg() -> Made:
    from torchvision.models.vgg import VGG, make_layers

    model = VGG(make_layers([8, "M", 16, 16, "M", 24, "M"], batch_norm=True), num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(96, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    return model, _images(32)


def _small_convnext() -> Made:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 2)], num_classes=10), _images(32)


def _small_vit(**options: Any) -> Made:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(32, 8, 2, 6, 48, 64, num_classes=10, **options), _images(32)


def _series(batch: int = 3) -> Tensor:
    return torch.randn(batch, 5, 6)


#: Name -> a function that makes the network and its example.
SMALL: dict[str, Callable[[], Made]] = {
    "resnet18": _vision("resnet18"),
    "resnet20 for cifar": lambda: (ResNet20(), _images(16)),
    "mobilenet v2": _vision("mobilenet_v2"),
    "mobilenet v3": _vision("mobilenet_v3_small"),
    "efficientnet b0": _vision("efficientnet_b0"),
    "densenet": _small_dense,
    "shufflenet v2": _vision("shufflenet_v2_x0_5"),
    "regnet": _vision("regnet_y_400mf"),
    "convnext": _small_convnext,
    "vgg": _small_vgg,
    "googlenet": _vision("googlenet", 64, init_weights=False),
    "vision transformer": _small_vit,
    "gru": lambda: (Recurrent(nn.GRU), _series()),
    "gru, both directions, stacked": lambda: (
        Recurrent(nn.GRU, "mean", bidirectional=True, num_layers=2),
        _series(),
    ),
    "lstm": lambda: (Recurrent(nn.LSTM), _series()),
    "lstm, both directions, stacked": lambda: (
        Recurrent(nn.LSTM, "mean", bidirectional=True, num_layers=2),
        _series(),
    ),
    "lstm without bias": lambda: (Recurrent(nn.LSTM, bias=False), _series()),
    "plain recurrence": lambda: (Recurrent(nn.RNN), _series()),
    "a cell": lambda: (Cells(), _series()),
    "u-net": lambda: (UNet(), _images(16)),
    "transformer encoder": lambda: (Encoder(), torch.randint(0, 13, (3, 7))),
    "transformer encoder, norm first": lambda: (
        Encoder(norm_first=True, activation="gelu"),
        torch.randint(0, 13, (3, 7)),
    ),
    "encoder and decoder": lambda: (Translator(), (torch.randn(2, 5, 16), torch.randn(2, 6, 16))),
    "timm vit": _timm("test_vit", 160),
    "timm convnext": _timm("test_convnext"),
    "timm efficientnet": _timm("test_efficientnet"),
    "timm mambaout": _timm("test_mambaout"),
    "timm norm-free": _timm("test_nfnet"),
    "timm byobnet": _timm("test_byobnet"),
}

#: The published sizes.
LARGE: dict[str, Callable[[], Made]] = {
    "resnet50": _vision("resnet50", 64),
    "densenet121": _vision("densenet121", 64),
    "convnext tiny": _vision("convnext_tiny", 64),
    "inception v3": _vision("inception_v3", 96, init_weights=False, aux_logits=False),
    "vgg16": _vision("vgg16_bn", 32),
    "vit b 16": _vision("vit_b_16", 224),
    "mobilenet v3 large": _vision("mobilenet_v3_large", 64),
}
