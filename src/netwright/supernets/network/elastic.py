"""Any network as a supernet: sub-networks of one set of weights, chosen at run time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.structure import Budget, Cost
from netwright.structure.thinning import middle
from netwright.supernets.network import cost as costing
from netwright.supernets.network.binding import Plan, Planner, cut, places_of
from netwright.supernets.network.blueprint import RESOLUTION, Blueprint
from netwright.supernets.network.calibration import calibrate
from netwright.supernets.network.cutting import extract
from netwright.supernets.network.factors import Weights, one_hot, scales
from netwright.supernets.network.generating import Generator, generate
from netwright.supernets.network.masking import Lane, Masking
from netwright.supernets.network.mixing import Mixing
from netwright.supernets.network.resizing import resized
from netwright.supernets.network.surgeries import Surgeries

#: Plans that are kept.
_PLANS = 4096
#: Full name of a buffer -> its value for one choice.
Statistics = dict[str, Tensor]


class Elastic(nn.Module):
    """A network of which sub-networks can be run, trained and cut out. Made by `nw.elastic`.

    A forward pass runs the sub-network that is `set`, on views of the network's own parameters: gradients
    reach them, nothing is copied, and the state dict is that of the network.

    Args:
        network: The full network; it is used, not copied.
        blueprint: What can be chosen of it.

    Attributes:
        network: The full network.
        blueprint: What can be chosen of it.
        choice: The sub-network that runs.
        statistics: Choice -> buffers of its batch normalisations, where they were measured (`calibrate`).
    """

    def __init__(self, network: nn.Module, blueprint: Blueprint) -> None:
        super().__init__()
        self.network = network
        self.blueprint = blueprint
        self.choice: Choice = blueprint.full
        self.statistics: dict[Choice, Statistics] = {}
        self._planner = Planner.of(network, blueprint)
        self._plans: dict[Choice, Plan] = {}
        self._macs: dict[Choice, int] = {}
        self.places = places_of(network, blueprint)
        self._mode: Callable[[], AbstractContextManager[Any]] | None = None
        self._masking: Masking | None = None
        self._mixing: Mixing | None = None
        self._surgeries = Surgeries(blueprint) if blueprint.rules is None else None

    @property
    def space(self) -> SearchSpace:
        """The space of the choices."""
        return self.blueprint.space

    def set(self, choice: Mapping[str, Any]) -> Elastic:
        """Choose the sub-network that runs from now on; costs no more than some look-ups.

        Args:
            choice: A choice of `space`; dims that are left out are as large as they can be.

        Raises:
            UsageError: if a dim is not there or has no such value.
        """
        self.choice = self.complete(choice)
        self._plan(self.choice)
        self._mode = None
        return self

    def scatter(self, plan: Plan) -> Elastic:
        """Let the next passes run by a plan of the caller's: other members than the leading ones.

        Args:
            plan: With the sizes of the present choice.
        """
        self._mode = lambda: self.places.laid(plan, self.tensors(plan))
        return self

    def set_many(self, choices: Sequence[Mapping[str, Any]], assignment: Tensor) -> Elastic:
        """Choose a sub-network for every example of the next batches, which run in one pass on masks.

        Args:
            choices: G choices of `space`; kernels and operations are the same in all that run them, and so
                is the resolution.
            assignment: (B,) int64, for every example the position of its choice.

        Raises:
            UsageError: if the network cannot run several choices at once.
        """
        many = [self.complete(choice) for choice in choices]
        if self.blueprint.resolutions and len({choice[RESOLUTION] for choice in many}) > 1:
            raise UsageError("resolutions cannot differ within a batch", "give all examples the same one")
        if self._masking is None:
            self._masking = Masking(self.network, self.blueprint, self.places)
        masking, plans = self._masking, [self._plan(choice) for choice in many]
        shared = masking.shared(plans)

        def lanes() -> list[Lane]:
            given = {} if self.training else self.statistics
            return [
                Lane(choice, plan, self.own(choice, shared), given.get(choice, {}))
                for choice, plan in zip(many, plans, strict=True)
            ]

        self.choice = many[0]
        self._mode = lambda: masking.laid(lanes(), assignment)
        return self

    def set_mixture(self, weights: Weights, *, norm: str = "outputs") -> Elastic:
        """Choose a convex combination of sub-networks, formed in weight space, for the next passes.

        Gradients reach the weights. Where every dim has one weight of 1 only that slice is computed.

        Args:
            weights: Name of a dim -> (values,) weights that sum to 1; dims that are left out are as large as
                they can be.
            norm: See `mixing.Mixing`.

        Raises:
            UsageError: if a dim is not there or has another number of values.
        """
        if self._mixing is None or self._mixing.norm != norm:
            self._mixing = Mixing(self.network, self.blueprint, self.places, norm)
        mixing, given = self._mixing, self._mixing.check(weights)
        one = one_hot(self.blueprint, given)
        if one is None:
            self.choice = self.blueprint.full
            self._mode = lambda: mixing.laid(given, self.own_mixture(given, mixing))
            return self
        self.set(one)
        plan, factors = self.plan, scales(self.blueprint, self.plan, one, given)
        self._mode = lambda: mixing.sliced(plan, self._scaled(plan, factors), one, given)
        return self

    def own(self, choice: Choice, shared: Plan) -> dict[str, Tensor]:
        """Parameters that a choice has to itself, whole but for what a plan crops; here none.

        Args:
            choice: A canonical choice.
            shared: What crops kernels.
        """
        return {}

    def own_mixture(self, weights: Weights, mixing: Mixing) -> dict[str, Tensor]:
        """Parameters that a mixture has to itself, mixed; here none.

        Args:
            weights: Name of every dim -> (values,).
            mixing: Of the supernet.
        """
        return {}

    def lay(self, choice: Mapping[str, Any], mode: Callable[[], AbstractContextManager[Any]]) -> Elastic:
        """Run the full network inside a context of one's own in the next passes.

        Args:
            choice: What it stands for: decides the resolution.
            mode: Makes the context of a pass, which lays what it likes over `places`.
        """
        self.choice = self.complete(choice)
        self._mode = mode
        return self

    def _scaled(self, plan: Plan, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a plan, parameters multiplied by factors."""
        tensors = self.tensors(plan)
        buffers = dict(self.network.named_buffers(remove_duplicate=False))
        for name, factor in factors.items():
            if name not in buffers and name in self.places.tensors:
                tensor = tensors.get(name, self.places.read(name))
                tensors[name] = tensor * factor.to(tensor.device, tensor.dtype)
        return tensors

    @property
    def plan(self) -> Plan:
        """What the present choice does to the network."""
        return self._plan(self.choice)

    def complete(self, choice: Mapping[str, Any]) -> Choice:
        """The canonical choice that is meant; dims that are left out are as large as they can be.

        Args:
            choice: Name of a dim -> value.
        """
        if isinstance(choice, Choice) and choice in self._plans:
            return choice
        unknown = set(choice) - set(self.blueprint.full)
        if unknown:
            raise UsageError(
                f"there is nothing called {sorted(unknown)[0]!r} to choose",
                f"the dims are {', '.join(itertools.islice(self.blueprint.full, 6))} …",
            )
        return self.space.canonical(Choice({**self.blueprint.full, **choice}))

    def _plan(self, choice: Choice) -> Plan:
        plan = self._plans.get(choice)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.pop(next(iter(self._plans)))
            plan = self._plans[choice] = self._planner.plan(choice)
        return plan

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chosen sub-network.

        Args:
            args: As the network takes them; images are resized to the chosen resolution.
            kwargs: Likewise.
        """
        args, kwargs = self.resized(args, kwargs)
        if self._mode is not None:
            with self._mode():
                return self.network(*args, **kwargs)
        if self._surgeries is not None and self._plan(self.choice).cuts:
            return self._surgeries.run(self, self.choice, args, kwargs)
        with self.bound():
            return self.network(*args, **kwargs)

    @contextmanager
    def bound(self) -> Iterator[nn.Module]:
        """The network itself as the chosen sub-network, for as long as the context lasts.

        What holds meanwhile is for one forward (and its backward) pass, or for reading shapes.
        """
        plan = self._plan(self.choice)
        tensors = self.tensors(plan)
        if plan.whole and not tensors:
            yield self.network
            return
        with self.places.laid(plan, tensors):
            yield self.network

    def tensors(self, plan: Plan | None = None) -> dict[str, Tensor]:
        """What stands in the place of each parameter and buffer that is not whole: views of the leading part.

        Args:
            plan: Of a choice; that of the present one when None.
        """
        plan = self._plan(self.choice) if plan is None else plan
        given = {} if self.training else self.statistics.get(self.choice, {})
        found: dict[str, Tensor] = dict(given)
        for name in itertools.chain(plan.cuts, (n for n in plan.crops if n not in plan.cuts)):
            if name in given:
                continue
            tensor = self.places.read(name)
            if name in plan.cuts:
                tensor = cut(tensor, plan.cuts[name])
            found[name] = middle(tensor, plan.crops[name]) if name in plan.crops else tensor
        return found

    def resized(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with images of the chosen resolution.

        Args:
            args: Of the network; tensors (B, C, H, W) are images.
            kwargs: Likewise.
        """
        if not self.blueprint.resolutions:
            return args, kwargs
        found: tuple[tuple[Any, ...], dict[str, Any]] = resized((args, kwargs), int(self.choice[RESOLUTION]))
        return found

    def cost(self, choice: Mapping[str, Any] | None = None) -> Cost:
        """What a sub-network costs for one example; equals the extracted network's cost exactly.

        Args:
            choice: A choice; the present one when None.
        """
        return costing.cost(self.blueprint, self.choice if choice is None else self.complete(choice))

    def macs(self, choice: Mapping[str, Any] | None = None) -> int:
        """Multiply-accumulates of a sub-network for one example; looked up where it was asked for before.

        Args:
            choice: A choice; the present one when None.
        """
        choice = self.choice if choice is None else self.complete(choice)
        if choice not in self._macs:
            if len(self._macs) >= _PLANS:
                self._macs.pop(next(iter(self._macs)))
            self._macs[choice] = self.cost(choice).macs
        return self._macs[choice]

    def costs(self, choices: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Costs of many choices, (choices, 3) int64: multiply-accumulates, parameters, activation bytes.

        Args:
            choices: Choices of `space`.
        """
        return costing.costs(self.blueprint, [self.complete(choice) for choice in choices])

    def generate(
        self, generator: Generator, budget: Budget | str, *, within: float = 0.02, seed: int = 0
    ) -> Choice:
        """The sub-network that a generator makes for a budget, without a search.

        Args:
            generator: A trained one; see `generators`.
            budget: A limit on what its tables hold, ordinarily multiply-accumulates; shares are of the
                largest.
            within: How far from the budget, as a share of it; what is further away is changed.
            seed: Of draws and changes.

        Raises:
            UsageError: if the budget limits anything else.
            BudgetError: if no sub-network is that near.
        """
        limits = Budget.parse(budget).limits
        figure = generator.tables.figure
        if set(limits) != {figure}:
            raise UsageError(f"the generator knows {figure} alone", f"give {figure}=")
        dense = generator.tables.of(self.blueprint.full)
        return generate(generator, limits[figure].against(dense), within=within, seed=seed)

    def calibrate(
        self,
        batches: Iterable[Tensor | Sequence[Tensor]],
        choice: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        pooled: bool = False,
    ) -> int:
        """Measure batch-norm statistics for one sub-network; they hold for it from then on, and no other.

        Args:
            batches: Inputs (B, ...), or tuples whose first item is the input.
            choice: A choice; the present one when None.
            limit: Most batches to use.
            pooled: Add the variance of the batches' means to the variances.

        Returns:
            Batches used; see `train.recalibrate_`.
        """
        choice = self.choice if choice is None else self.complete(choice)
        return calibrate(self, choice, batches, limit, pooled)

    def extract(self, choice: Mapping[str, Any] | None = None) -> nn.Module:
        """A plain network of its own that computes what the sub-network computes.

        Its parameters are copies of the leading parts, blocks that are skipped are not there, and it holds
        the batch-norm statistics that `calibrate` measured for the choice, where it did. It takes images of
        the chosen resolution.

        Args:
            choice: A choice; the present one when None.
        """
        choice = self.choice if choice is None else self.complete(choice)
        return extract(self, choice)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the full network, under the network's own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict of the full network.

        Args:
            state_dict: Name -> tensor.
            strict: As in PyTorch.
            assign: As in PyTorch.
        """
        found = self.network.load_state_dict(state_dict, strict=strict, assign=assign)
        if assign:
            self._find_places()
        self.statistics.clear()
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> Elastic:
        super()._apply(fn, recurse)
        self.statistics = {c: {n: fn(t) for n, t in s.items()} for c, s in self.statistics.items()}
        self._find_places()
        return self

    def _find_places(self) -> None:
        """Look anew where tensors lie, after others took their places; what ran on masks or mixtures ends."""
        self.places = places_of(self.network, self.blueprint)
        self._masking = self._mixing = self._mode = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Elastic:
        new = Elastic(copy.deepcopy(self.network, memo), self.blueprint)
        new.choice = self.choice
        new.statistics = {c: {n: t.clone() for n, t in s.items()} for c, s in self.statistics.items()}
        return new.train(self.training)

    def extra_repr(self) -> str:
        """The size of the space."""
        return f"{len(self.space.dims)} dims, {self.space.size():,} sub-networks"
