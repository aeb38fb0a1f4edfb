"""The coverage battery: about 250 networks, each a function that makes the model and an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from . import huggingface, others, timm_nets, torchvision_nets
from .case import Case, cases

_SETS: dict[str, Callable[[], Iterable[tuple[str, Callable[[], tuple[nn.Module, Any]]]]]] = {
    "classification": torchvision_nets.classification,
    "segmentation": torchvision_nets.segmentation,
    "detection": torchvision_nets.detection,
    "video": torchvision_nets.video,
    "flow": torchvision_nets.flow,
    "timm": timm_nets.smallest,
    "timm-larger": timm_nets.larger,
    "huggingface": huggingface.architectures,
    "others": others.networks,
}
SETS = tuple(_SETS)


def battery(names: Iterable[str] = SETS) -> list[Case]:
    """The networks of some sets, in order.

    Args:
        names: Of the sets.
    """
    return [case for name in names for case in cases(name, _SETS[name]())]


__all__ = ["SETS", "Case", "battery"]
