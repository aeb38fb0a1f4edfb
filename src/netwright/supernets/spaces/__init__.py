"""Search spaces of the literature as supernets."""

from netwright.supernets.spaces.autoformer import autoformer, autoformer_choice
from netwright.supernets.spaces.bignas import bignas_supernet
from netwright.supernets.spaces.hytra import HybridShape, HyTra, train_hytra
from netwright.supernets.spaces.vit_resnas import VitStageSpace, vit_resnas

__all__ = [
    "HyTra",
    "HybridShape",
    "VitStageSpace",
    "autoformer",
    "autoformer_choice",
    "bignas_supernet",
    "train_hytra",
    "vit_resnas",
]
