"""The few networks that torchvision and timm lack; each can be built by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from netwright.errors import ModelError
from netwright.models.zoo.attention import SelfAttention, TransformerBlock
from netwright.models.zoo.bert import Bert, BertBlock
from netwright.models.zoo.bignas import BigNas, MBStage, bignas
from netwright.models.zoo.bossnet import BossNet, ResAtt, ResConv, bossnet
from netwright.models.zoo.cell_net import CellNet, cell_edges, cell_net, cell_op, cell_paths
from netwright.models.zoo.char_lm import CharLM, char_lm
from netwright.models.zoo.conv_macro import MACRO_SPACES, ConvMacro, MacroSpace, conv_macro
from netwright.models.zoo.drop_path import DropPath
from netwright.models.zoo.encoder_decoder import EncoderDecoder
from netwright.models.zoo.graph_rnn import GraphRNN
from netwright.models.zoo.mixed import (
    ClassHead,
    KeypointHead,
    MixedNet,
    MultiResolution,
    SegmentationHead,
)
from netwright.models.zoo.phonemes import GraphemeToPhoneme
from netwright.models.zoo.pooled_resnet import (
    POOLING_SPACES,
    PooledResNet,
    PoolingSpace,
    pool_positions,
    pooled_resnet,
)
from netwright.models.zoo.recurrent import RecurrentClassifier, TokenClassifier, recurrent
from netwright.models.zoo.residual import Residual
from netwright.models.zoo.resnet_cifar import ResNetCifar, ShapedResNet
from netwright.models.zoo.super_resolution import EDSR, RCAN
from netwright.models.zoo.swinir import SwinIR
from netwright.models.zoo.unet import UNet
from netwright.models.zoo.vit_res import VitRes, vit_res
from netwright.models.zoo.vit_res_definitions import VIT_RES, VitStage

#: Networks that make images larger, at their published sizes.
_LARGER: dict[str, Callable[..., nn.Module]] = {
    "edsr": partial(EDSR, width=64, blocks=16, share=1.0),
    "edsr_large": EDSR,
    "rcan": RCAN,
    "swinir_light": SwinIR,
}


def _enlarging(
    kind: Callable[..., nn.Module], scale: int, in_channels: int = 3, num_classes: int | None = None
) -> nn.Module:
    if num_classes is not None:
        raise ModelError("a network that makes images larger has no classes", "leave num_classes out")
    return kind(scale, in_channels)


def _language_model(num_classes: int = 128, in_channels: int = 3) -> CharLM:
    """A decoder of three transformer blocks on 64 symbols; the classes are its vocabulary."""
    del in_channels  # symbols have none
    return char_lm(num_classes)


#: Networks that supernets contain or choose from, at their published sizes and those of small tables.
_SEARCHED: dict[str, Callable[..., nn.Module]] = {
    **{f"vit_res_{name.replace('-', '_')}": partial(vit_res, name) for name in VIT_RES},
    "bossnet_t0": bossnet,
    "bossnet_t0_plain": partial(bossnet, se=False, act="relu"),
    "bossnet_t1": partial(bossnet, last_stride=1),
    "bignas_largest": partial(bignas, "largest"),
    "bignas_smallest": partial(bignas, "smallest"),
    **{f"pooled_{name}": partial(pooled_resnet, None, name) for name in ("resnet20", "resnet18", "resnet50")},
    "pool_15": partial(pooled_resnet, None, "pool-15"),
    "cell_64": cell_net,
    "nb201": partial(cell_net, None, "nb201"),
    "macro_81": partial(conv_macro, space="macro-81"),
    "convmacro": partial(conv_macro, space="convmacro"),
    "convmacro_tanglenas": partial(conv_macro, space="tanglenas"),
    "char_lm": _language_model,
}


#: Name -> builder, called with `num_classes` and `in_channels`.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNetCifar, depth) for depth in (8, 20, 32, 44, 56, 110)},
    "unet": UNet,
    "mixed": MixedNet,
    "gru": partial(RecurrentClassifier, "gru"),
    "lstm": partial(RecurrentClassifier, "lstm"),
    **_SEARCHED,
    **{
        f"{name}_x{scale}": partial(_enlarging, kind, scale)
        for name, kind in _LARGER.items()
        for scale in (2, 3, 4)
    },
}

__all__ = [
    "BUILDERS",
    "EDSR",
    "MACRO_SPACES",
    "POOLING_SPACES",
    "RCAN",
    "VIT_RES",
    "Bert",
    "BertBlock",
    "BigNas",
    "BossNet",
    "CellNet",
    "CharLM",
    "ClassHead",
    "ConvMacro",
    "DropPath",
    "EncoderDecoder",
    "GraphRNN",
    "GraphemeToPhoneme",
    "KeypointHead",
    "MBStage",
    "MacroSpace",
    "MixedNet",
    "MultiResolution",
    "PooledResNet",
    "PoolingSpace",
    "RecurrentClassifier",
    "ResAtt",
    "ResConv",
    "ResNetCifar",
    "Residual",
    "SegmentationHead",
    "SelfAttention",
    "ShapedResNet",
    "SwinIR",
    "TokenClassifier",
    "TransformerBlock",
    "UNet",
    "VitRes",
    "VitStage",
    "bignas",
    "bossnet",
    "cell_edges",
    "cell_net",
    "cell_op",
    "cell_paths",
    "char_lm",
    "conv_macro",
    "pool_positions",
    "pooled_resnet",
    "recurrent",
    "vit_res",
]
