"""Models by name or file: our own few, torchvision's and timm's, and the weights that are put into them."""

from netwright.models.blocks import MixedBlock, branch_paths, without
from netwright.models.loading import Loaded, list_models, load
from netwright.models.shapes import input_channels, natural_shape
from netwright.models.weights import put_weights, read_weights
from netwright.models.wiring import Wiring, wire
from netwright.models.zoo import (
    EDSR,
    RCAN,
    ClassHead,
    GraphemeToPhoneme,
    GraphRNN,
    KeypointHead,
    MixedNet,
    MultiResolution,
    RecurrentClassifier,
    ResNetCifar,
    SegmentationHead,
    SwinIR,
    TokenClassifier,
    UNet,
    recurrent,
)

__all__ = [
    "EDSR",
    "RCAN",
    "ClassHead",
    "GraphRNN",
    "GraphemeToPhoneme",
    "KeypointHead",
    "Loaded",
    "MixedBlock",
    "MixedNet",
    "MultiResolution",
    "RecurrentClassifier",
    "ResNetCifar",
    "SegmentationHead",
    "SwinIR",
    "TokenClassifier",
    "UNet",
    "Wiring",
    "branch_paths",
    "input_channels",
    "list_models",
    "load",
    "natural_shape",
    "put_weights",
    "read_weights",
    "recurrent",
    "wire",
    "without",
]
