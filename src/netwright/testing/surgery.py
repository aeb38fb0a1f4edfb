"""What must hold of every surgery: the smaller network is the larger one with the removed units at zero.

`SurgerySuite(model, example)` traces the model, draws a choice of what stays, shrinks, and offers one method
for each promise; `run` calls them all. A method returns nothing and raises `AssertionError` where the promise
is broken.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.structure import Inputs, Shrunk, Structure, check, replay, shrink, trace
from netwright.structure.sizes import take

#: Operators that take statistics; over a pruned axis they see what stays only, which zeroed weights do not
#: imitate.
_STATISTICS = frozenset(
    "native_layer_norm _fused_rms_norm native_group_norm native_batch_norm mean var std"
    " var_mean std_mean".split()
)
_COPIES = ("clone", "copy")
_SMALL = 1e-4


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give random values to what is constant after construction, in place; returns the model.

    Normalisation statistics of 0 and 1, scales of 1e-6 and heads of zeros would let a wrong surgery pass
    unseen.

    Args:
        model: Any module.
        seed: Of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            first = tensor.reshape(-1)[0]
            if not bool((tensor == first).all()):
                continue
            if name.endswith("running_var") or abs(float(first)) > 0.5:
                values = 0.5 + torch.rand(tensor.shape, generator=generator)
            elif 0 < abs(float(first)) < _SMALL:  # a layer scale
                values = 0.2 + 0.5 * torch.rand(tensor.shape, generator=generator)
            else:
                values = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values)
    return model


def draw_keep(net: Structure, seed: int = 0, low: float = 0.3, high: float = 0.8) -> Tensor:
    """Choose at random what stays: every axis its own count, every cell its own members.

    Args:
        net: The structure.
        seed: Of the choice.
        low: Smallest share of an axis that stays.
        high: Largest share of an axis that stays; something goes of every axis of more than one member.

    Returns:
        (count,) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    keep = net.everything.clone()
    for axis in net.prunable:
        share = low + (high - low) * float(torch.rand((), generator=generator))
        count = min(max(1, round(share * axis.size)), max(1, axis.size - 1))
        for part, stays in zip(axis.parts, axis.counts(count).tolist(), strict=True):
            order = torch.randperm(len(part), generator=generator)
            keep[part[order[stays:]]] = False
    return keep


def zero_removed(model: nn.Module, net: Structure, keep: Tensor) -> nn.Module:
    """A dense copy of the model in which every parameter element that goes is zero.

    Where no statistics are taken over a pruned axis, it computes the same function as the smaller network.

    Args:
        model: The dense model.
        net: Its structure.
        keep: (count,) bool.
    """
    dense = copy.deepcopy(model)
    state = dict([*dense.named_parameters(), *dense.named_buffers()])
    with torch.no_grad():
        for name, gone in removed_elements(net, keep).items():
            if name in state:
                state[name].masked_fill_(gone, 0)
    return dense


def removed_elements(net: Structure, keep: Tensor) -> dict[str, Tensor]:
    """Which elements of every parameter go: masks that broadcast to the parameter's shape."""
    gone: dict[str, Tensor] = {}
    for name, dims in net.layers.items():
        for layer in dims.values():
            part = ~keep[layer]
            gone[name] = gone[name] | part if name in gone else part
    return gone


@dataclass
class SurgerySuite:
    """The promises of `netwright.structure.shrink` for one network.

    Args:
        model: The network; its mode is kept in mind and must survive.
        example: Two examples or more where the network normalises over the batch in training.
        heads: As in `trace`.
        exclude: As in `trace`.
        seed: Of what stays.
        tolerance: Largest relative error in float64.
        power: Least relative change that the removal must cause, so that the comparison can fail.
    """

    model: nn.Module
    example: Any
    heads: str = "whole"
    exclude: Iterable[str] = ()
    seed: int = 0
    tolerance: float = 1e-10
    power: float = 1e-6

    def __post_init__(self) -> None:
        self._before = {k: v.clone() for k, v in self.model.state_dict().items()}
        self._attributes = _attributes(self.model)
        self.net = trace(self.model, self.example, exclude=self.exclude, heads=self.heads)
        self.keep = draw_keep(self.net, self.seed)

    @cached_property
    def shrunk(self) -> Shrunk:
        """The smaller network."""
        return shrink(self.model, self.net, self.keep)

    @property
    def inputs(self) -> Inputs:
        """The example in float64."""
        return self.net.inputs.map(lambda x: x.double() if x.is_floating_point() else x)

    def run(self) -> None:
        """Check every promise."""
        for name in PROMISES:
            getattr(self, name)()

    def exact(self) -> None:
        """The smaller network equals the dense one with what went held at zero, and something went."""
        found = check(self.model, self.net, self.keep, self.shrunk.model)
        assert found.error <= self.tolerance, f"relative error {found.error:.3g}"
        assert found.change > self.power, f"the removal changes the output by {found.change:.3g} only"

    def sliced(self) -> None:
        """Every parameter is the dense one at the kept indices, bit for bit, under the same name."""
        small = self.shrunk.model.state_dict()
        assert list(small) == list(self._before), "state dict names differ"
        gone = removed_elements(self.net, self.keep)
        for name, value in small.items():
            dense = self._before[name]
            if name not in gone:
                assert torch.equal(value, dense), f"{name} changed"
                continue
            stays = (~gone[name]).expand(dense.shape)
            assert value.numel() == int(stays.sum()), (
                f"{name} has {value.numel()} elements, not {int(stays.sum())}"
            )
            cut = self.shrunk.kept.get(name, {})
            assert torch.equal(value, take(dense, cut)), f"{name} is not a slice of the dense one"
            left, right = value.reshape(-1).sort().values, dense[stays].sort().values
            assert torch.equal(left, right), f"{name} is not what stays of the dense one"
            for dim, index in self.shrunk.kept.get(name, {}).items():
                assert value.shape[dim] == index.shape[-1], f"{name} has a wrong size along dimension {dim}"

    def counted(self) -> None:
        """Costs predicted from the dense network are those of the smaller one."""
        again = trace(self.shrunk.model, self.example, heads=self.heads)
        cost = self.net.cost(self.keep)
        assert (cost.macs, cost.params) == (again.macs, again.params), (
            f"{cost} was predicted, {again.dense} found"
        )
        assert self.net.macs >= again.macs and self.net.params > again.params
        # Whether a reshape copies depends on sizes of 1, so copies are left out of the comparison.
        predicted = [o for o in self.net.operators_at(self.keep) if o.kind not in _COPIES]
        found = [o for o in again.operators if o.kind not in _COPIES]
        for left, right in zip(predicted, found, strict=True):
            assert (left.kind, left.macs, left.params) == (right.kind, right.macs, right.params)
            assert left.activation_bytes == right.activation_bytes, f"{left} was predicted, {right} found"
        both = torch.stack([self.net.everything, self.keep])
        costs = [[c.macs, c.params, c.activation_bytes] for c in (self.net.dense, cost)]
        assert self.net.costs(both).tolist() == costs, "the costs of many differ from the costs of one"

    def untouched(self) -> None:
        """The given model keeps its values, mode, classes and attributes."""
        assert self.shrunk.model is not self.model
        after = self.model.state_dict()
        assert list(after) == list(self._before)
        for name, value in after.items():
            assert torch.equal(value, self._before[name]), f"{name} of the given model changed"
        assert _attributes(self.model) == self._attributes, "attributes of the given model changed"
        ours = {p.data_ptr() for p in self.model.parameters() if p.numel()}
        shared = [n for n, p in self.shrunk.model.named_parameters() if p.numel() and p.data_ptr() in ours]
        assert not shared, f"the smaller network shares memory with the given one: {shared[:3]}"
        modes = [m.training for m in self.model.modules()]
        assert [m.training for m in self.shrunk.model.modules()] == modes, "the mode changed"

    def trains(self) -> None:
        """A training step runs in training mode, and an evaluation after it."""
        small = copy.deepcopy(self.shrunk.model).double().train()
        trainable = [p for p in small.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trainable, lr=1e-3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _loss(self.inputs.call(small)).backward()
        assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trainable), (
            "no gradient arrives"
        )
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        with torch.no_grad():
            outputs = _tensors(self.inputs.call(small.eval()))
        assert all(bool(torch.isfinite(x).all()) for x in outputs if x.is_floating_point()), (
            "not finite after a step"
        )

    def steps(self) -> None:
        """A gradient step on the smaller network is the gradient step on the dense one with zeroed weights.

        Checked where no statistics are taken over a pruned axis; elsewhere zeroed weights define another
        function.
        """
        if self.takes_statistics():
            return
        small = copy.deepcopy(self.shrunk.model).double().eval()
        dense = zero_removed(copy.deepcopy(self.model).double().eval(), self.net, self.keep)
        gone = removed_elements(self.net, self.keep)
        self._compare(small, dense, "before the step")
        for network in (small, dense):
            _loss(self.inputs.call(network)).backward()
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    grad = parameter.grad
                    if grad is None:
                        continue
                    if network is dense and name in gone:
                        grad = grad.masked_fill(gone[name], 0)
                    parameter.sub_(0.01 * grad / (1e-12 + grad.abs().max()))
        self._compare(small, dense, "after the step")

    def replayed(self) -> None:
        """The recorded surgery, done again on the architecture, takes the smaller network's state dict."""
        small = self.shrunk
        fresh = randomise(copy.deepcopy(self.model), seed=self.seed + 1)
        again = replay(fresh, small.kept, small.attributes, small.adopted)
        again.load_state_dict(small.model.state_dict())
        self._compare(
            again.double().eval(), copy.deepcopy(small.model).double().eval(), "after a replay", exact=True
        )

    def copied(self) -> None:
        """A deep copy is independent and computes the same."""
        small = copy.deepcopy(self.shrunk.model).double().eval()
        twin = copy.deepcopy(small)
        self._compare(twin, small, "of a deep copy", exact=True)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        self._compare(
            copy.deepcopy(self.shrunk.model).double().eval(), small, "after its copy was zeroed", exact=True
        )

    def repeated(self) -> None:
        """What was pruned can be pruned again, as exactly."""
        model = self.shrunk.model
        net = trace(model, self.example, exclude=self.exclude, heads=self.heads)
        keep = draw_keep(net, self.seed + 1, low=0.4)
        found = check(model, net, keep, shrink(model, net, keep).model)
        assert found.error <= self.tolerance, f"relative error {found.error:.3g} at the second time"

    def takes_statistics(self) -> bool:
        """Whether an operator takes statistics over an axis of which something went."""
        run = self.net.runs[0]
        for node in run.recording.nodes:
            if node.op not in _STATISTICS:
                continue
            rank = len(run.recording.shapes[node.inputs[0]])
            dims = set(_reduced(node.op, node.args, node.kwargs, rank))
            for layer in run.table[node.inputs[0]]:
                varies = {d for d, n in enumerate(layer.shape) if n > 1}
                if varies & dims and not bool(self.keep[self.net.sizes.classes(layer)].all()):
                    return True
        return False

    def _compare(self, a: nn.Module, b: nn.Module, when: str, exact: bool = False) -> None:
        with torch.no_grad():
            left, right = _tensors(self.inputs.call(a)), _tensors(self.inputs.call(b))
        assert len(left) == len(right)
        for x, y in zip(left, right, strict=True):
            assert x.shape == y.shape
            error = float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))
            assert error <= (0.0 if exact else self.tolerance), f"relative error {error:.3g} {when}"


#: The methods of `SurgerySuite` that `run` calls.
PROMISES = (
    "exact",
    "sliced",
    "counted",
    "untouched",
    "trains",
    "steps",
    "replayed",
    "copied",
    "repeated",
)


def _reduced(op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], rank: int) -> list[int]:
    if op in ("native_layer_norm", "_fused_rms_norm"):
        return list(range(rank - len(args[1]), rank))
    if op == "native_group_norm":
        return [1]
    if op == "native_batch_norm":  # in training mode: a standardised weight
        return [d for d in range(rank) if d != 1] if args[5] else []
    dims = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else kwargs.get("dim")
    return [d % rank for d in dims] if dims else list(range(rank))


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


def _loss(output: Any) -> Tensor:
    """A loss in which every output element has its own weight."""
    total = torch.zeros((), dtype=torch.float64)
    for x in _tensors(output):
        if x.is_floating_point() and x.requires_grad:
            weight = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
            total = total + (x * weight).sum() + (x * x).mean()
    return total


def _attributes(model: nn.Module) -> dict[str, dict[str, str]]:
    """Class and plain attributes of every module, written out."""
    found = {}
    for name, module in model.named_modules():
        plain = {
            k: repr(v)
            for k, v in vars(module).items()
            if isinstance(v, (bool, int, float, str, tuple, list, type(None)))
        }
        found[name] = {"class": type(module).__qualname__, "names": " ".join(sorted(vars(module))), **plain}
    return found
