"""Taking rims of kernels, whole blocks, and all but one candidate out of a network that is one's own.

What a sub-network of a supernet lacks besides channels, and what is done again when it is read from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from netwright.errors import StructureError
from netwright.structure.skipping import Stage


def middle(weight: Tensor, size: int) -> Tensor:
    """The middle of a kernel, a view.

    Args:
        weight: (out, in, k, ...) of a convolution.
        size: Odd, at most k.
    """
    for dim in range(2, weight.dim()):
        weight = weight.narrow(dim, (weight.shape[dim] - size) // 2, size)
    return weight


def crop_(model: nn.Module, kernels: Mapping[str, int]) -> None:
    """Give convolutions the middle of their kernels, in place; the sizes of their outputs stay.

    Args:
        model: The network.
        kernels: Path of a convolution -> odd size, no larger than its own.

    Raises:
        StructureError: if there is no such convolution, or its kernel is smaller.
    """
    for path, size in kernels.items():
        module = _module(model, path)
        if not isinstance(module, nn.modules.conv._ConvNd):
            raise StructureError(f"{path} is a {type(module).__name__}, no convolution")
        full = module.kernel_size[0]
        if not 1 <= size <= full or (full - size) % 2:
            raise StructureError(f"{path} has a kernel of {full}, of which {size} is no middle")
        weight = middle(module.weight.detach(), size).clone()
        module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
        module.kernel_size = (size,) * (weight.dim() - 2)
        if not isinstance(module.padding, str):
            less = (full - size) // 2
            module.padding = tuple(p - d * less for p, d in zip(module.padding, module.dilation, strict=True))
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]


def leave_out_(model: nn.Module, stages: Iterable[Stage], blocks: Iterable[str]) -> None:
    """Take blocks out, in place: what stands for them hands its input on.

    Blocks at the end of a sequence are not even named any more.

    Args:
        model: The network.
        stages: Of the network with all blocks.
        blocks: Paths of those that go.

    Raises:
        StructureError: if a block is not one that can be skipped.
    """
    homes = {path: stage for stage in stages for path in stage.blocks}
    gone = list(blocks)
    for path in gone:
        if path not in homes:
            raise StructureError(f"the network has no block {path!r} that can be left out")
        put_(model, path, nn.Identity() if path in homes[path].plain else homes[path].skips[path])
    for parent in {path.rpartition(".")[0] for path in gone}:
        sequence = model.get_submodule(parent)
        if type(sequence) is not nn.Sequential:
            continue
        names = list(sequence._modules)
        while len(names) > 1 and f"{parent}.{names[-1]}".lstrip(".") in gone:
            del sequence._modules[names.pop()]


def take_(model: nn.Module, parts: Mapping[str, str]) -> None:
    """Let parts of modules stand for the whole, in place.

    Args:
        model: The network.
        parts: Path of a module -> path of the part inside it.

    Raises:
        StructureError: if there is no such module or part.
    """
    for path, part in parts.items():
        put_(model, path, _module(model, f"{path}.{part}"))


def put_(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let a module stand at a path, in place.

    Args:
        model: The network.
        path: Of a module.
        module: What takes its place; its mode becomes the network's.
    """
    parent, _, key = path.rpartition(".")
    _module(model, parent)._modules[key] = module.train(model.training)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise StructureError(f"the network has no module {path!r}") from error
