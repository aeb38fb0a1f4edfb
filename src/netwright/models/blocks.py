"""Blocks of parallel branches: what a search chooses from by taking some of them away.

Y. Fu, W. Chen, H. Wang et al., SuperTickets, ECCV 2022, and before it HR-NAS (M. Ding et al., CVPR 2021) and
AtomNAS (J. Mei et al., ICLR 2020): an inverted residual whose hidden channels are split over kernel sizes, so
that removing channels is choosing kernels, and a kernel without channels is none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from netwright.errors import ModelError

#: Where a block keeps its branches.
BRANCHES = "branches"


class Branched(Protocol):
    """A block that adds up its branches, and computes without any of them as well."""

    branches: nn.ModuleDict


class MixedBlock(nn.Module):
    """An inverted residual whose hidden channels are split over depthwise kernels.

    ``shortcut(x) + norm(sum_k project_k(relu(norm(depthwise_k(relu(norm(expand_k(x))))))))``; a branch may be
    taken away (see `without`), and without any the shortcut is left.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernels: Sizes of the depthwise kernels.
        hidden: Channels of every branch; one number for all.
        stride: Of the depthwise convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernels: Sequence[int] = (3, 5, 7),
        hidden: int | Sequence[int] = 16,
        stride: int = 1,
    ) -> None:
        super().__init__()
        counts = [hidden] * len(kernels) if isinstance(hidden, int) else list(hidden)
        if len(counts) != len(kernels) or any(k % 2 == 0 for k in kernels):
            raise ModelError(
                f"kernels {tuple(kernels)} with {tuple(counts)} hidden channels make no block",
                "give odd kernels, and as many counts",
            )
        self.branches = nn.ModuleDict(
            {
                f"k{k}": _branch(inputs, outputs, k, count, stride)
                for k, count in zip(kernels, counts, strict=True)
            }
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        beside: Tensor = self.shortcut(x)
        if not len(self.branches):
            return beside
        return beside + self.norm(reduce(torch.add, [branch(x) for branch in self.branches.values()]))


def _branch(inputs: int, outputs: int, kernel: int, hidden: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
    )


def is_branched(module: object) -> TypeGuard[Branched]:
    """Whether a module has branches that can be taken away."""
    return isinstance(module, nn.Module) and isinstance(module._modules.get(BRANCHES), nn.ModuleDict)


def branch_paths(model: nn.Module) -> list[str]:
    """Paths of all branches of a network, in order of definition."""
    found = []
    for path, module in model.named_modules():
        if is_branched(module):
            found += [f"{path}.{BRANCHES}.{k}" if path else f"{BRANCHES}.{k}" for k in module.branches]
    return found


def without(model: nn.Module, branches: Iterable[str]) -> nn.Module:
    """A copy of a network without some branches; the parameters that are left keep their names.

    Args:
        model: The network.
        branches: Their paths, as of `branch_paths`.

    Raises:
        ModelError: if a path is none of a branch.
    """
    twin = copy.deepcopy(model)
    for path in branches:
        block, _, name = path.rpartition(f"{BRANCHES}.")
        try:
            owner: nn.Module | None = twin.get_submodule(block.removesuffix("."))
        except AttributeError:
            owner = None
        if not is_branched(owner) or name not in owner.branches:
            raise ModelError(f"the model has no branch {path}", f"its branches: {branch_paths(model)[:3]}")
        del owner.branches[name]
    return twin
