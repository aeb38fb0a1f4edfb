"""Where and in which precision a network runs, and how its answer is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import ModelError, UsageError


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device asked for; ``"auto"`` is the first of CUDA, MPS and CPU that is there.

    Raises:
        UsageError: if the device is unknown or not on this machine.
    """
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {device!r} cannot be used: {reason}", "try --device cpu") from error
    return found


def native_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def _even_widths(model: nn.Module) -> bool:
    """Whether every 2-D convolution of a model makes a multiple of 8 channels.

    Processors have no fast channels-last kernels for other widths, such as pruned ones: a training step of
    ResNet-20 with 10 and 25 channels took 1.7 times as long channels last as in the ordinary layout, with 6
    and 12 channels 2.7 times. For the dense network channels last is the faster one, by 1.3.
    """
    return all(m.out_channels % 8 == 0 for m in model.modules() if isinstance(m, nn.Conv2d))


class Runtime:
    """Device, precision and memory format of one run; moves batches and opens the autocast region.

    Args:
        device: Where to run.
        bf16: Whether to run under bfloat16 autocast.
        channels_last: Whether 4-D inputs and weights are laid out channels last.
    """

    def __init__(self, device: torch.device, *, bf16: bool, channels_last: bool) -> None:
        self.device = device
        self.bf16 = bf16
        self.channels_last = channels_last

    @classmethod
    def choose(
        cls,
        device: torch.device,
        example: Tensor,
        *,
        precision: str = "auto",
        channels_last: bool | Literal["auto"] = "auto",
        model: nn.Module | None = None,
    ) -> Runtime:
        """Resolve the ``"auto"`` of precision and memory format for one device, example batch and model."""
        bf16 = native_bf16(device) if precision == "auto" else precision == "bf16"
        images = example.dim() == 4
        last = (
            images and (device.type == "cuda" or (bf16 and (model is None or _even_widths(model))))
            if channels_last == "auto"
            else images and channels_last
        )
        return cls(device, bf16=bf16, channels_last=last)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the forward pass runs."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and memory format, in place; returns it."""
        model.to(self.device)
        # Weights that lie channels last draw the activations after them, so the other layout is set as well.
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.to(memory_format=layout)  # type: ignore[call-overload]
        return model

    def move(self, x: Tensor) -> Tensor:
        """Move a batch to the device and memory format."""
        x = x.to(self.device, non_blocking=True)
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return a model's logits in fp32 for a batch that was moved.

        Raises:
            ModelError: if the model rejects the batch, naming both shapes.
        """
        try:
            with self.autocast():
                answer = main_output(model(x))
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
            raise _rejected(model, x, error) from error
        return answer.float()


def main_output(answer: Any) -> Tensor:
    """Return the logits of an answer: a tensor, the first of a tuple, ``logits``/``out`` of a mapping.

    Raises:
        ModelError: if there is no tensor in the answer.
    """
    if isinstance(answer, Tensor):
        return answer
    if isinstance(getattr(answer, "logits", None), Tensor):
        return answer.logits
    if isinstance(answer, Mapping) and answer:
        return main_output(
            next((answer[k] for k in ("logits", "out") if k in answer), next(iter(answer.values())))
        )
    if isinstance(answer, tuple | list) and answer:
        return main_output(answer[0])
    raise ModelError(f"the model returned {type(answer).__name__}, not a tensor of logits")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and restore every module's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _rejected(model: nn.Module, x: Tensor, error: Exception) -> ModelError:
    """Say which batch a model rejected and what its first layer takes."""
    if isinstance(error, torch.OutOfMemoryError):
        return ModelError(f"out of memory on a batch of shape {tuple(x.shape)}", "use a smaller batch size")
    layers = ((n, list(m.parameters(recurse=False))) for n, m in model.named_modules())
    name, weights = next(((n, w) for n, w in layers if w), ("", []))
    takes = f"; its first layer {name} has a weight of shape {tuple(weights[0].shape)}" if weights else ""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"the model rejects a batch of shape {tuple(x.shape)}{takes} ({reason})",
        "choose a model built for this input (channels, image size), or other data",
    )
