"""From a name, a file or an object to a module."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from netwright._imports import available, require
from netwright.data import import_callable, is_callable_spec, is_fetched, one_line
from netwright.data import path as data_path
from netwright.errors import ModelError, NetwrightError
from netwright.models import torchvision_models as vision
from netwright.models.weights import adapt_channels, put_weights, read_weights
from netwright.models.zoo import BUILDERS

ModelSource = Literal["zoo", "torchvision", "timm", "file", "object"]

#: Names under which the one set of pretrained weights in the catalogue is known. The weights were trained
#: with TensorFlow's padding, so only the tf_ variant computes what they mean.
_LITE0 = ("efficientnet-lite0", "efficientnet_lite0", "tf_efficientnet_lite0")
_LITE0_FILE = "efficientnet-lite0-57934424.pth"
#: Of (x - 127) / 128 on 0..255.
_LITE0_STATISTICS = ((127 / 255,) * 3, (128 / 255,) * 3)


@dataclass(frozen=True)
class Loaded:
    """A model and where it came from.

    Attributes:
        model: In eval mode, on the CPU.
        name: For people and reports.
        source: Which collection built it.
        statistics: Mean and deviation by channel that the collection's own weights expect; None where it has
            none, or does not say.
        notes: What was done besides, one line each.
        pretrained: Whether it has weights from a file.
    """

    model: nn.Module
    name: str
    source: ModelSource
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()
    pretrained: bool = False


def load(
    spec: str | Path | nn.Module,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    trust: bool = False,
    image_size: int | None = None,
) -> Loaded:
    """Build a model; nothing is ever downloaded.

    Args:
        spec: A name (our own few networks first, then torchvision, then timm; ``torchvision:`` or ``timm:``
            before it forces one), ``file.py:callable``, or a module, which is taken as it is.
        num_classes: Classes of the answer; None keeps the architecture's own number.
        in_channels: Channels of the images, or features of each step of a sequence.
        pretrained: Use the fetched weights; only EfficientNet-Lite0 has some in the catalogue.
        weights: A .safetensors, .pt or .pth file with the state dict.
        trust: Whether the weights may be a pickle, which can run code.
        image_size: Height and width of the images, for architectures that are built for one size.

    Raises:
        ModelError: if the model is unknown or cannot be built, or the weights do not fit it.
        ArtefactError: if the weights are missing, damaged, or a pickle that is not trusted.
        MissingExtraError: if only torchvision or timm would have it, and is not installed.
    """
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"a classifier cannot have {num_classes} classes", "give num_classes of at least 1")
    if in_channels < 1:
        raise ModelError(f"a model cannot take {in_channels} channels", "give in_channels of at least 1")
    if pretrained and weights is not None:
        raise ModelError("both pretrained weights and a weights file are asked for", "choose one of them")
    if pretrained:
        return _pretrained(spec, num_classes, in_channels, image_size)
    loaded = _build(spec, num_classes, in_channels, image_size)
    if weights is None:
        return loaded
    file = Path(weights)
    tensors = vision.without_auxiliaries(loaded.model, read_weights(file, trust=trust))
    fresh = num_classes is not None
    notes = put_weights(loaded.model, tensors, where=str(file), name=loaded.name, fresh_head=fresh)
    return Loaded(loaded.model, loaded.name, loaded.source, loaded.statistics, notes, True)


def _build(
    spec: str | Path | nn.Module, num_classes: int | None, in_channels: int, size: int | None
) -> Loaded:
    if isinstance(spec, nn.Module):
        return Loaded(spec, type(spec).__name__, "object")
    text = str(spec)
    if is_callable_spec(text):
        return _from_file(text, num_classes, in_channels)
    if text.lower().endswith(".onnx"):
        raise ModelError(
            f"{text} is an ONNX graph; a PyTorch model is needed here", "give a name or file.py:callable"
        )
    prefix, _, rest = text.rpartition(":")
    if not rest.strip():
        raise ModelError("no model is named", "give a name or file.py:callable")
    if prefix not in ("", "timm", "torchvision"):
        raise ModelError(f"unknown collection {prefix!r} in {text!r}", "prefixes are timm: and torchvision:")
    if not prefix and rest in BUILDERS:
        own = {} if num_classes is None else {"num_classes": num_classes}
        if size is not None and "image_size" in inspect.signature(BUILDERS[rest]).parameters:
            own["image_size"] = size  # of transformers, which are built for one size
        return Loaded(BUILDERS[rest](in_channels=in_channels, **own).eval(), rest, "zoo")
    if prefix == "torchvision":
        require("torchvision", extra="vision")
    if prefix == "timm":
        require("timm", extra="vision")
    name = "tf_efficientnet_lite0" if rest == "efficientnet-lite0" else rest
    if prefix != "timm" and name in vision.names():
        return _from_torchvision(name, num_classes, in_channels, size)
    if prefix != "torchvision" and _is_timm(name):
        return _from_timm(name, num_classes, in_channels, size)
    if not (available("timm") and available("torchvision")):
        require("timm", extra="vision")
        require("torchvision", extra="vision")
    raise ModelError(f"there is no model named {text!r}", _nearest(rest))


def _is_timm(name: str) -> bool:
    return available("timm") and bool(require("timm", extra="vision").is_model(name))


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, list_models(), n=3, cutoff=0.6)
    return (
        f"did you mean {', '.join(close)}?"
        if close
        else "see netwright.models.list_models(), or give file.py:callable"
    )


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that can be built, sorted: our own, torchvision's and timm's, where installed.

    Args:
        pattern: Shell-style wildcards, such as ``"resnet*"``.
    """
    import fnmatch

    names = set(BUILDERS) | vision.names()
    if available("timm"):
        names |= set(require("timm", extra="vision").list_models())
    return sorted(n for n in names if fnmatch.fnmatch(n, pattern))


def _from_timm(name: str, num_classes: int | None, in_channels: int, size: int | None) -> Loaded:
    timm = require("timm", extra="vision")
    options: dict[str, Any] = {"in_chans": in_channels}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if size is not None:
        # Only architectures that are built for one size have the argument.
        try:
            model = timm.create_model(name, pretrained=False, img_size=size, **options)
        except TypeError:
            model = _built(lambda: timm.create_model(name, pretrained=False, **options), name)
        except Exception as error:
            raise ModelError(f"{name} cannot be built for images of {size}: {one_line(error)}") from error
    else:
        model = _built(lambda: timm.create_model(name, pretrained=False, **options), name)
    config: Any = model.default_cfg
    statistics = (tuple(config["mean"]), tuple(config["std"])) if config.get("mean") else None
    return Loaded(model.eval(), name, "timm", statistics)


def _from_torchvision(name: str, num_classes: int | None, in_channels: int, size: int | None) -> Loaded:
    model = _built(lambda: vision.build(name, num_classes, size), name)
    if in_channels != 3:
        _adapt_stem(model, in_channels, name)
    return Loaded(model.eval(), name, "torchvision", vision.STATISTICS)


def _adapt_stem(model: nn.Module, channels: int, name: str) -> None:
    """Put a first convolution for another number of channels into a model, with its weights adapted."""
    for path, old in model.named_modules():
        if isinstance(old, nn.Conv2d) and old.in_channels == 3 and old.groups == 1:
            new = nn.Conv2d(
                channels,
                old.out_channels,
                old.kernel_size,  # type: ignore[arg-type]
                old.stride,  # type: ignore[arg-type]
                old.padding,  # type: ignore[arg-type]
                old.dilation,  # type: ignore[arg-type]
                bias=old.bias is not None,
                padding_mode=old.padding_mode,
            )
            new.weight.data.copy_(adapt_channels(old.weight.data, channels))
            if old.bias is not None and new.bias is not None:
                new.bias.data.copy_(old.bias.data)
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)
            return
    raise ModelError(
        f"{name} has no first convolution to adapt to {channels} channels", "give 3-channel images"
    )


def _built(build: Callable[[], Any], name: str) -> nn.Module:
    try:
        model = build()
    except NetwrightError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot be built: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name} returned {type(model).__name__}, not a torch.nn.Module",
            "return the model from the callable",
        )
    return model


def _from_file(spec: str, num_classes: int | None, in_channels: int) -> Loaded:
    """Call ``file.py:callable``, with the arguments that it has."""
    function = import_callable(spec, error=ModelError)
    try:
        accepted = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        accepted = set()
    options = {"num_classes": num_classes, "in_channels": in_channels}
    given = {k: v for k, v in options.items() if k in accepted and v is not None}
    model = _built(lambda: function(**given), spec)
    return Loaded(model.eval(), spec.rpartition(":")[2], "file")


def _pretrained(
    spec: str | Path | nn.Module, num_classes: int | None, in_channels: int, size: int | None
) -> Loaded:
    """Build EfficientNet-Lite0 with the fetched ImageNet weights."""
    name = "" if isinstance(spec, nn.Module) else str(spec).removeprefix("timm:")
    if name not in _LITE0:
        shown = name or type(spec).__name__
        raise ModelError(
            f"there are no pretrained weights for {shown} in the catalogue, and none are downloaded",
            "give the file of the weights with --weights FILE",
        )
    if not is_fetched("efficientnet-lite0"):
        raise ModelError(
            "the weights of efficientnet-lite0 have not been fetched",
            "run: netwright data fetch efficientnet-lite0",
        )
    loaded = _from_timm("tf_efficientnet_lite0", num_classes, in_channels, size)
    file = data_path("efficientnet-lite0") / _LITE0_FILE
    tensors = read_weights(file)
    own = [k for k in loaded.model.state_dict() if "num_batches" not in k]
    theirs = [k for k in tensors if "num_batches" not in k]
    if len(own) != len(theirs):
        raise ModelError(
            f"{file} has {len(theirs)} tensors, the model {len(own)}", "is timm another version?"
        )
    # The companion code names its tensors otherwise but lists them in the same order.
    renamed = {mine: tensors[other] for mine, other in zip(own, theirs, strict=True)}
    fresh = num_classes is not None
    notes = put_weights(loaded.model, renamed, where=str(file), name=loaded.name, fresh_head=fresh)
    return Loaded(loaded.model, loaded.name, "timm", _LITE0_STATISTICS, notes, True)
