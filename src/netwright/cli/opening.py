"""What several commands begin with: a network and an example for it, and a look at where the result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netwright.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from netwright.data import Splits
    from netwright.models import Loaded
    from netwright.structure import Inputs

_ONNX, _SAFETENSORS = ".onnx", ".safetensors"
#: Endings of files that are not written: a folder of such a name would only confuse.
_OTHER_FILES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npz", ".h5", ".pb", ".tflite", ".json", ".zip")
SHAPE_HINT = "say the shape of one example with --input-shape, for instance 3,32,32"


@dataclass(frozen=True)
class Opened:
    """A network, an example for it, and the data that both were fitted to."""

    loaded: Loaded
    example: Tensor | Inputs
    splits: Splits | None


def check_output(path: Path, option: str) -> str:
    """Find out what is to be written, and refuse early what cannot be: the work before may take long.

    Returns:
        "onnx", "safetensors", "folder" or, for any other file, "page".
    """
    page = option == "--html"
    suffix = path.suffix.lower()
    file = page or suffix in (_ONNX, _SAFETENSORS)
    if not page and suffix in _OTHER_FILES:
        raise UsageError(
            f"a {suffix} file is not written", f"{option} takes NET.onnx, WEIGHTS.safetensors or a folder"
        )
    if file and path.is_dir():
        raise UsageError(f"{path} is a folder", f"give the name of a file with {option}")
    if not file and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file", f"{option} takes NET.onnx, WEIGHTS.safetensors or a folder")
    folder = path.absolute().parent if file else path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ArtefactError(f"{path} cannot be written: {folder} is not a folder", f"change {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArtefactError(f"{path} cannot be written: no permission in {folder}", f"change {option}")
    return "page" if page else {_ONNX: "onnx", _SAFETENSORS: "safetensors"}.get(suffix, "folder")


def open_model(
    spec: str,
    data: str | None,
    shape: Sequence[int] | None,
    weights: Path | None,
    pretrained: bool,
    num_classes: int | None,
    trust: bool,
    seed: int,
) -> Opened:
    """Build the model for the data or the shape, and a batch of two examples for it."""
    import torch

    from netwright import data as datasets
    from netwright import models

    splits = None if data is None else datasets.load(data, seed=seed, trust=trust)
    if spec.lower().endswith(_ONNX):
        for option, given in (
            ("--weights", weights),
            ("--pretrained", pretrained),
            ("--num-classes", num_classes),
        ):
            if given:
                raise UsageError(f"{option} is no option for an ONNX graph", "its weights are in the file")
        return _open_onnx(spec, splits, shape, seed)
    if splits is not None:
        shape = splits.shape
        num_classes = splits.num_classes if num_classes is None and splits.labelled else num_classes
    square = shape is not None and len(shape) == 3 and shape[1] == shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = models.load(
            spec,
            num_classes=num_classes,
            in_channels=3 if shape is None else models.input_channels(tuple(shape)),
            pretrained=pretrained,
            weights=weights,
            trust=trust,
            image_size=shape[1] if shape is not None and square else None,
        )
    if splits is not None and data is not None:
        if loaded.pretrained and loaded.statistics is not None:
            splits = datasets.load(data, seed=seed, trust=trust, statistics=loaded.statistics)
        return Opened(loaded, splits.example(2), splits)
    return Opened(loaded, models.natural_example(loaded, 2, shape, seed), None)


def _open_onnx(path: str, splits: Splits | None, shape: Sequence[int] | None, seed: int) -> Opened:
    """Read an ONNX graph, and make an example of the sizes that it states, or that the data have."""
    from netwright import models
    from netwright.pruning.onnx_files import assumed_sizes
    from netwright.structure.onnx import read_onnx

    network = read_onnx(path)
    shape = splits.shape if splits is not None else shape
    example = network.example(shape=shape, seed=seed)
    notes = tuple(assumed_sizes(network, shape))
    return Opened(models.Loaded(network, Path(path).name, "file", notes=notes), example, splits)
