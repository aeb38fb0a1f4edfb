"""What takes the place of each block that can be skipped, and which blocks follow each other in a stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from netwright.structure.branches import Found
from netwright.structure.depth import Skip, _skip
from netwright.structure.tracing import Structure


@dataclass(frozen=True)
class Stage:
    """Blocks that follow each other, each of which returns its input once its branches are zero.

    The blocks of a stage that was asked for by its name return their input normalised then.

    Attributes:
        name: Path of the parent, or of the first block where the parent has several stages.
        blocks: Paths of the blocks that can be skipped, in order of execution; they follow each other.
        fixed: 1 where a block of the same class that cannot be skipped leads them, else 0.
        skips: Block -> what takes its place.
        plain: Blocks that take one tensor and return one: `nn.Identity` can stand for them, too.
    """

    name: str
    blocks: tuple[str, ...]
    fixed: int
    skips: dict[str, Skip]
    plain: frozenset[str]


def stages(model: nn.Module, net: Structure, named: Iterable[str] = ()) -> list[Stage]:
    """The blocks of a network that can be skipped, by stage, in order of execution.

    A block within another block goes with it and is not listed. A block that normalises its sums (post-norm,
    as in BERT) is another function without its branches; such blocks are listed where they are asked for.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        named: Patterns of paths of modules whose children are post-normalised blocks.
    """
    found = Found(model, net)
    every = sorted(found.blocks, key=lambda path: min(found.within[path]))
    outer = [p for p in every if p and not any(p.startswith(f"{q}.") for q in every if q and q != p)]
    runs = _runs(model, outer)
    for path, module in model.named_modules() if named else ():
        if any(fnmatchcase(path, n) for n in named) and not any(p.startswith(f"{path}.") for p in outer):
            children = [f"{path}.{name}" for name in module._modules]
            runs += _runs(model, [p for p in children if found.normalised(p)])
    return [_stage(model, found, run) for run in sorted(runs, key=lambda run: min(found.within[run[0]]))]


def _runs(model: nn.Module, blocks: list[str]) -> list[list[str]]:
    """Blocks that follow each other directly among the modules of their parent."""
    runs: list[list[str]] = []
    for path in blocks:
        parent, _, name = path.rpartition(".")
        names = list(model.get_submodule(parent)._modules)
        at = names.index(name)
        before = f"{parent}.{names[at - 1]}" if parent else names[at - 1]
        if runs and at and runs[-1][-1] == before:
            runs[-1].append(path)
        else:
            runs.append([path])
    return runs


def _stage(model: nn.Module, found: Found, blocks: list[str]) -> Stage:
    parent, _, first = blocks[0].rpartition(".")
    siblings = list(model.get_submodule(parent)._modules.items())
    at = [name for name, _ in siblings].index(first)
    led = at > 0 and type(siblings[at - 1][1]) is type(siblings[at][1])
    other = {f"{parent}.{name}".lstrip(".") for name, _ in siblings} & set(found.blocks)
    alone = not other - set(blocks)
    skips, plain = {}, set()
    for path in blocks:
        call = found.once(path)
        assert call is not None
        skips[path] = _skip(model, call)
        if skips[path].tree is None and call.alone:
            plain.add(path)
    return Stage(parent if alone and parent else blocks[0], tuple(blocks), int(led), skips, frozenset(plain))
