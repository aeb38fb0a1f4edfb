"""Importances of single weights from gradients of the loss: Taylor, Fisher, SNIP, GraSP, CroP, SynFlow.

All of them look at a copy of the network in eval mode, with what is masked set to zero; the network itself,
its gradients, statistics, modes and the global random state stay as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from netwright.errors import ModelError, UsageError
from netwright.pruning.importances.densities import synflow_scores
from netwright.pruning.importances.elements import Context, ElementImportance, register_elements
from netwright.pruning.importances.taylor import first_tensor, loss
from netwright.structure import Inputs

#: Batches looked at; more change the ranking little.
BATCHES = 8
#: Numbers of gradients of single examples that are held at a time.
_HELD = 1 << 25
#: What GraSP divides the answers by before the loss, as its authors do.
TEMPERATURE = 200.0

Gradients = dict[str, Tensor]


@dataclass
class Twin:
    """A copy of a network to be differentiated.

    Attributes:
        model: The copy, in eval mode; what is masked is zero.
        weights: Those that are asked for, in the order asked for.
        batches: Labelled batches.
    """

    model: nn.Module
    weights: dict[str, nn.Parameter]
    batches: list[tuple[Inputs, Tensor]]

    def error(self, inputs: Inputs, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """The mean loss of one batch.

        Args:
            inputs: The batch.
            labels: Its labels.
            temperature: What the answers are divided by, where the labels are class numbers.
        """
        answer = first_tensor(inputs.call(self.model))
        return loss(answer if labels.is_floating_point() else answer / temperature, labels)

    def gradient(self, error: Tensor, *, graph: bool = False) -> list[Tensor]:
        """Gradients of the weights in their order; zero where the loss does not depend on one."""
        found = torch.autograd.grad(error, list(self.weights.values()), allow_unused=True, create_graph=graph)
        pairs = zip(self.weights.values(), found, strict=True)
        return [torch.zeros_like(w) if g is None else g for w, g in pairs]


@contextmanager
def twin(model: nn.Module, names: Sequence[str], context: Context) -> Iterator[Twin]:
    """A copy to be differentiated, and labelled batches; the global random state is put back afterwards.

    Args:
        model: The network.
        names: Of the parameters that are asked for.
        context: Its examples and masks.

    Raises:
        UsageError: if there are no labelled examples.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        double = copy.deepcopy(model).eval()
        parameters = dict(double.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(parameter.is_floating_point())
            parameter.grad = None
        with torch.no_grad():
            for name, mask in context.masks.items():
                if name in parameters:
                    parameters[name].mul_(mask.to(parameters[name].device))
        device = next(iter(parameters.values())).device
        batches = []
        for number, (inputs, labels) in enumerate(context.examples or ()):
            if number >= BATCHES:
                break
            if labels is None:
                raise UsageError("gradients of a loss need labels", "give batches (inputs, labels)")
            batches.append((inputs.map(lambda x: x.to(device)), labels.to(device)))
        if not batches:
            raise UsageError("gradients of a loss need labelled examples", "give data=")
        yield Twin(double, {n: parameters[n] for n in names}, batches)


def taylor(*, squared: bool = False, per: Literal["batch", "example"] = "batch") -> ElementImportance:
    """|w g|: how much the loss would change without a weight, to first order, added up.

    P. Molchanov, A. Mallya, S. Tyree, I. Frosio and J. Kautz, Importance Estimation for Neural Network
    Pruning, CVPR 2019.

    Args:
        squared: (w g)^2 instead.
        per: Whether g is the gradient of a batch, or of a single example.
    """

    def function(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
        with twin(model, names, context) as double:
            source = _examples_gradients(double) if per == "example" else _batch_gradients(double)
            total = {name: torch.zeros_like(w) for name, w in double.weights.items()}
            for gradients in source:  # of some batches or examples, (n, ...) each
                for name, w in double.weights.items():
                    part = w.detach() * gradients[name]
                    total[name] += (part.square() if squared else part.abs()).sum(dim=0)
            return total

    return ElementImportance("taylor", function, "labels")


@register_elements("fisher", needs="labels")
def fisher(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """E[g^2] w^2, g the gradient of single examples: the diagonal of the empirical Fisher information.

    L. Theis, I. Korshunova, A. Tejani and F. Huszar, Faster gaze prediction with dense networks and Fisher
    pruning, 2018.
    """
    with twin(model, names, context) as double:
        total = {name: torch.zeros_like(w) for name, w in double.weights.items()}
        count = 0
        for gradients in _examples_gradients(double):
            count += len(next(iter(gradients.values())))
            for name, g in gradients.items():
                total[name] += g.square().sum(dim=0)
        return {name: total[name] / count * w.detach().square() for name, w in double.weights.items()}


@register_elements("snip", needs="labels")
def snip(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """|dL/dc| at c = 1 for weights c w, which is |w g|, with the gradient over all batches together.

    N. Lee, T. Ajanthan and P. H. S. Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity,
    ICLR 2019.
    """
    with twin(model, names, context) as double:
        mean = _mean_gradient(double)
        return {n: (w.detach() * g).abs() for (n, w), g in zip(double.weights.items(), mean, strict=True)}


def grasp(temperature: float = TEMPERATURE) -> ElementImportance:
    """The signed product w Hg: the smaller, the more removing a weight helps the gradient flow.

    C. Wang, G. Zhang and R. Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR
    2020. The paper removes the largest -w Hg; here, as everywhere, the smallest score goes.

    Args:
        temperature: What the answers are divided by before the loss.
    """

    def function(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
        return _curvature(model, names, context, temperature)

    return ElementImportance("grasp", function, "labels")


def crop_flow(temperature: float = 1.0) -> ElementImportance:
    """|w Hg|: how much removing a weight would change the gradient flow, either way.

    J. Rachwan, D. Zuegner, B. Charpentier, S. Geisler, M. Ayle and S. Guennemann, Winning the Lottery Ahead
    of Time: Efficient Early Network Pruning (CroP), ICML 2022.

    Args:
        temperature: What the answers are divided by before the loss.
    """

    def function(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
        return {n: s.abs() for n, s in _curvature(model, names, context, temperature).items()}

    return ElementImportance("crop", function, "labels")


@register_elements("synflow")
def synflow(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """|dR/dw w|, R the sum of the answers to ones under absolute weights; no data are looked at.

    One round of H. Tanaka, D. Kunin, D. L. K. Yamins and S. Ganguli, Pruning neural networks without any data
    by iteratively conserving synaptic flow, NeurIPS 2020; ``schedule="rounds"`` prunes in many.

    Raises:
        UsageError: if no example says what shape the inputs have.
    """
    if context.examples is None:
        raise UsageError("synflow runs the network once", "give example= an input of the right shape")
    masks = {n: m for n, m in context.masks.items() if n in set(names)} or None
    if masks is not None:
        parameters = dict(model.named_parameters())
        masks = {n: masks.get(n, torch.ones_like(parameters[n], dtype=torch.bool)) for n in names}
    return synflow_scores(model, context.examples.like, names, masks)


@register_elements("taylor", needs="labels")
def _taylor(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """|w g|, g the gradient of a batch: what the loss would change without a weight, to first order."""
    return taylor().function(model, names, context)


@register_elements("grasp", needs="labels")
def _grasp(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """The signed product w Hg: what removing a weight does to the flow of the gradient."""
    return grasp().function(model, names, context)


@register_elements("crop", needs="labels")
def _crop(model: nn.Module, names: Sequence[str], context: Context) -> Gradients:
    """|w Hg|: how much removing a weight changes the flow of the gradient, either way."""
    return crop_flow().function(model, names, context)


def _batch_gradients(double: Twin) -> Iterator[Gradients]:
    """The gradient of every batch, (1, ...) each."""
    for inputs, labels in double.batches:
        found = double.gradient(double.error(inputs, labels))
        yield {name: g[None] for name, g in zip(double.weights, found, strict=True)}


def _examples_gradients(double: Twin) -> Iterator[Gradients]:
    """The gradients of single examples, (n, ...) each; together where the network can be vectorised."""
    numbers = sum(w.numel() for w in double.weights.values())
    together = max(_HELD // max(numbers, 1), 1)
    for inputs, labels in double.batches:
        for start in range(0, len(labels), together):
            part = _rows(inputs, len(labels), slice(start, start + together))
            found = _vectorised(double, part, labels[start : start + together])
            # The mean loss over no label at all is no number.
            yield {name: g.nan_to_num(nan=0.0) for name, g in found.items()}


def _vectorised(double: Twin, inputs: Inputs, labels: Tensor) -> Gradients:
    frozen = {n: p.detach() for n, p in double.model.named_parameters() if n not in double.weights}
    buffers = dict(double.model.named_buffers())
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    batched = [0 if isinstance(x, Tensor) and x.dim() and len(x) == len(labels) else None for x in leaves]

    def error(weights: Gradients, label: Tensor, *values: Any) -> Tensor:
        pairs = zip(values, batched, strict=True)
        args, kwargs = pytree.tree_unflatten([v if b is None else v[None] for v, b in pairs], spec)
        answer = torch.func.functional_call(double.model, ({**frozen, **weights}, buffers), args, kwargs)
        return loss(first_tensor(answer), label[None], checked=False)

    weights = {name: w.detach() for name, w in double.weights.items()}
    double.error(inputs, labels)  # what is wrong with the data is said in words
    try:
        each = torch.func.vmap(torch.func.grad(error), in_dims=(None, 0, *batched))
        with warnings.catch_warnings():
            # An operator without a rule for batches is run example by example, rightly, with a warning.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            found: Gradients = each(weights, labels, *leaves)
        return {name: g.detach() for name, g in found.items()}
    except (RuntimeError, NotImplementedError, ValueError):
        # Recurrent cells, values read by Python and the like: one example after the other.
        return _one_by_one(double, inputs, labels)


def _one_by_one(double: Twin, inputs: Inputs, labels: Tensor) -> Gradients:
    """The gradients of single examples, one at a time."""
    found = []
    for k in range(len(labels)):
        part = _rows(inputs, len(labels), slice(k, k + 1))
        found.append(double.gradient(double.error(part, labels[k : k + 1])))
    return {name: torch.stack(gs) for name, gs in zip(double.weights, zip(*found, strict=True), strict=True)}


def _rows(inputs: Inputs, count: int, rows: slice) -> Inputs:
    return inputs.map(lambda x: x[rows] if x.dim() and len(x) == count else x)


def _mean_gradient(double: Twin, temperature: float = 1.0) -> list[Tensor]:
    total = [torch.zeros_like(w) for w in double.weights.values()]
    for inputs, labels in double.batches:
        for part, g in zip(total, double.gradient(double.error(inputs, labels, temperature)), strict=True):
            part += g / len(double.batches)
    return total


def _curvature(model: nn.Module, names: Sequence[str], context: Context, temperature: float) -> Gradients:
    """The product w (H g) of every weight, H and g of the mean loss over the batches."""
    with twin(model, names, context) as double, sdpa_kernel(SDPBackend.MATH):
        mean = _mean_gradient(double, temperature)
        total = [torch.zeros_like(w) for w in double.weights.values()]
        for inputs, labels in double.batches:
            try:
                first = double.gradient(double.error(inputs, labels, temperature), graph=True)
                along = sum((a * b).sum() for a, b in zip(first, mean, strict=True))
                assert isinstance(along, Tensor)
                second = double.gradient(along) if along.requires_grad else []
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ModelError(
                    f"an operator of the network cannot be differentiated twice: {reason}",
                    'take importance="snip" or "taylor", which differentiate once',
                ) from error
            for part, g in zip(total, second, strict=bool(second)):
                part += g / len(double.batches)
        return {n: w.detach() * g for (n, w), g in zip(double.weights.items(), total, strict=True)}
