"""A supernet whose weights are blended from experts, as a router says that knows the architecture alone.

G. Jawahar, H. Yang, Y. Xiong et al., Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with
Architecture-Routed Mixture-of-Experts, Findings of ACL 2024 (arXiv:2306.04845), section 3: two
sub-networks need not have the same leading weights.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.encoding import Kind
from netwright.nas.space import SearchSpace
from netwright.structure.thinning import middle
from netwright.supernets.network.binding import Plan, cut
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.factors import Weights
from netwright.supernets.network.mixing import Mixing
from netwright.supernets.stores.blending import mixed_slices, support
from netwright.supernets.stores.holding import Holding

#: What a router sees: an encoding of the space, 0.5 everywhere, or a function that gives (n,) numbers.
Encoding = Kind | str | Callable[[SearchSpace, Choice], Sequence[float]]


@dataclass(frozen=True)
class Experts:
    """Several full sets of weights for some layers, of which every sub-network has a blend of its own.

    Args:
        count: Experts of a layer; with 1 the supernet is an ordinary one.
        routing: "layer", one share an expert, or "neuron", one share an expert for every output neuron.
        layers: Patterns of paths of the linear layers and convolutions that are blended; others are shared.
        hidden: Features inside a router.
        encode: What routers see of a choice: "unit", "onehot", ..., as `SearchSpace.encode`; "constant",
            which takes the architecture away from them (the paper's ablation); or a function.
        seed: Of further experts and of routers.

    Raises:
        UsageError: if there is no expert or no such routing.
    """

    count: int = 2
    routing: str = "neuron"
    layers: str | Sequence[str] = "*.mlp.*"
    hidden: int = 128
    encode: Encoding = "unit"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.hidden < 1:
            raise UsageError(
                f"{self.count} experts and {self.hidden} features route nothing", "give 1 or more"
            )
        if self.routing not in ("layer", "neuron"):
            raise UsageError(f"routing={self.routing!r} is not known", 'choose "layer" or "neuron"')

    def of(self, sup: Elastic) -> Routed:
        """A supernet of the same choices; its first experts are the weights of the given one.

        Further experts are drawn anew, normal with each parameter's mean and deviation: equal ones would stay
        equal.

        Args:
            sup: An ordinary supernet; its network is used, not copied.

        Raises:
            UsageError: if no layer fits, a layer shares its weights, or every choice is a graph of its own.
        """
        if sup.blueprint.rules is None:
            raise UsageError("every choice of this network is a graph of its own", "use one set of weights")
        paths = _layers(sup, [self.layers] if isinstance(self.layers, str) else list(self.layers))
        generator = torch.Generator().manual_seed(self.seed)
        parameters = [p for path in paths for p in sup.places.modules[path]._parameters.values()]
        more = nn.ModuleList(
            nn.ParameterList(_drawn(p, generator) for p in parameters if p is not None)
            for _ in range(self.count - 1)
        )
        inputs = len(_encoded(sup.space, sup.blueprint.full, self.encode))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            routers = nn.ModuleList(self._router(inputs, _rows(sup.places.modules[p])) for p in paths)
        some = next(p for p in parameters if p is not None)
        return Routed(sup, self, paths, more, routers.to(some.device, some.dtype))

    def _router(self, inputs: int, rows: int) -> nn.Module:
        outputs = self.count * (rows if self.routing == "neuron" else 1)
        return nn.Sequential(nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs))


class Routed(Holding):
    """A supernet with blended layers; made by `Experts`.

    A forward pass blends once, in weight space, and runs one network. Gradients reach experts and routers.

    Args:
        sup: Holds the first experts.
        store: How it was made.
        paths: The blended layers.
        more: The further experts, each a list of the layers' parameters in order.
        routers: One a layer.

    Attributes:
        paths: The blended layers.
        names: Their parameters.
        more: The further experts.
        routers: One a layer.
    """

    held = ("more", "routers")

    def __init__(
        self,
        sup: Elastic,
        store: Experts,
        paths: Sequence[str],
        more: nn.ModuleList,
        routers: nn.ModuleList,
    ) -> None:
        super().__init__(sup.network, sup.blueprint)
        self.choice, self.statistics = sup.choice, sup.statistics
        self.store, self.paths = store, tuple(paths)
        self.names = tuple(
            f"{path}.{key}"
            for path in paths
            for key, p in self.places.modules[path]._parameters.items()
            if p is not None
        )
        self.more, self.routers = more, routers
        self.train(sup.training)

    def shares(self, path: str, choice: Mapping[str, Any] | None = None) -> Tensor:
        """The shares of the experts in a layer, (experts,) or (neurons of the full layer, experts); they sum
        to 1.

        Args:
            path: Of the layer.
            choice: A choice; the present one when None.
        """
        chosen = self.choice if choice is None else self.complete(choice)
        router = self.routers[self.paths.index(path)]
        weight = self.places.read(f"{path}.weight")
        seen = weight.new_tensor(_encoded(self.space, chosen, self.store.encode))
        scores = router(seen)
        if self.store.routing == "neuron":
            scores = scores.reshape(-1, self.store.count)
        return scores.softmax(-1)

    def tensors(self, plan: Plan | None = None) -> dict[str, Tensor]:
        """See `Elastic.tensors`; blended layers are computed, of no more than what stays of them."""
        plan = self.plan if plan is None else plan
        return super().tensors(plan) | self._blended(plan, self.choice)

    def own(self, choice: Choice, shared: Plan) -> dict[str, Tensor]:
        """See `Elastic.own`: the blends of a choice, whole."""
        return self._blended(Plan(crops=shared.crops), choice)

    def own_mixture(self, weights: Weights, mixing: Mixing) -> dict[str, Tensor]:
        """See `Elastic.own_mixture`: the sum of the slices, each of the blend of its choice."""
        return mixed_slices(self, mixing, weights, lambda choice: self._blended(Plan(), choice))

    def set_many(self, choices: Sequence[Mapping[str, Any]], assignment: Tensor) -> Elastic:
        """See `Elastic.set_many`; blended layers run once a choice, on its examples."""
        return Elastic.set_many(self, choices, assignment)

    def set_mixture(self, weights: Weights, *, norm: str = "outputs") -> Elastic:
        """See `Elastic.set_mixture`; what is mixed is the slices of the blends, see `mixed_slices`.

        A router knows whole choices and its answer is no sum over dims, so that a mixture is the sum over
        all choices that have a weight. Weights that are one-hot but for a gradient reach the slices, not what
        the router would have said of other choices.

        Raises:
            UsageError: as there, and if too many choices have a weight.
        """
        support(weights)
        return Elastic.set_mixture(self, weights, norm=norm)

    def _blended(self, plan: Plan, choice: Choice) -> dict[str, Tensor]:
        """The blended parameters of a choice, of no more than what stays under a plan."""
        shares: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for position, name in enumerate(self.names):
            path = name.rpartition(".")[0]
            if path not in shares:
                shares[path] = self.shares(path, choice)
            dims = plan.cuts.get(name, ())
            rows = cut(shares[path], tuple(d for d in dims if d[0] == 0)) if shares[path].dim() == 2 else None
            total: Tensor | None = None
            for number, expert in enumerate(self._experts(position)):
                part = cut(expert, dims)
                if name in plan.crops:
                    part = middle(part, plan.crops[name])
                share = (
                    shares[path][number]
                    if rows is None
                    else rows[:, number].reshape(-1, *[1] * (part.dim() - 1))
                )
                total = share * part if total is None else total + share * part
            assert total is not None
            found[name] = total
        return found

    def _experts(self, position: int) -> list[Tensor]:
        """What the experts hold of the parameter at a position of `names`."""
        more = [each for each in self.more if isinstance(each, nn.ParameterList)]
        return [self.places.read(self.names[position]), *[each[position] for each in more]]

    def whole(self) -> dict[str, Tensor]:
        """The blend of the present choice."""
        return self._blended(Plan(), self.choice)

    def blend_macs(self, choice: Mapping[str, Any] | None = None) -> int:
        """Multiply-accumulates that blending takes, once for a whole batch; no extracted network pays them.

        Args:
            choice: A choice; the present one when None.
        """
        plan = self._plan(self.choice if choice is None else self.complete(choice))
        total = 0
        for name in self.names:
            tensor = cut(self.places.read(name).detach(), plan.cuts.get(name, ()))
            total += (middle(tensor, plan.crops[name]) if name in plan.crops else tensor).numel()
        return total * self.store.count

    def __deepcopy__(self, memo: dict[int, Any]) -> Routed:
        plain = Elastic(copy.deepcopy(self.network, memo), self.blueprint)
        plain.choice = self.choice
        plain.statistics = {c: {n: t.clone() for n, t in s.items()} for c, s in self.statistics.items()}
        more, routers = copy.deepcopy(self.more, memo), copy.deepcopy(self.routers, memo)
        return Routed(plain.train(self.training), self.store, self.paths, more, routers)


def _layers(sup: Elastic, patterns: Sequence[str]) -> list[str]:
    """Paths of the layers that fit; each has its own weights."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = [
        path
        for path, module in sup.places.modules.items()
        if isinstance(module, kinds) and any(fnmatch.fnmatchcase(path, p) for p in patterns)
    ]
    if not found:
        raise UsageError(
            f"layers={list(patterns)!r} fits no linear layer or convolution", "give other patterns"
        )
    for path in found:
        if len(sup.places.tensors[f"{path}.weight"]) > 1:
            raise UsageError(f"{path} shares its weights with another layer", "leave it out of layers=")
    return found


def _rows(module: nn.Module) -> int:
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return int(module.weight.shape[0])


def _drawn(parameter: Tensor, generator: torch.Generator) -> nn.Parameter:
    """Normal, with the mean and deviation of a parameter."""
    values = parameter.detach()
    noise = torch.randn(values.shape, generator=generator).to(values.device, values.dtype)
    deviation = values.std() if values.numel() > 1 else values.new_zeros(())
    return nn.Parameter(noise * deviation + values.mean())


def _encoded(space: SearchSpace, choice: Choice, encode: Encoding) -> list[float]:
    if callable(encode):
        return [float(v) for v in encode(space, choice)]
    if encode == "constant":
        return [0.5] * len(space.encode(choice, "unit"))
    return [float(v) for v in space.encode(choice, encode)]  # type: ignore[arg-type]
