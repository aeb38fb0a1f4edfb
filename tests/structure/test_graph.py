"""Surgery on the exported graph: as exact as in place, and a network to go on working with."""

from __future__ import annotations

import copy
import inspect
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.structure.graph_networks import HARD_WIRED, Containers, strided
from tests.structure.nets import Net
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import ArtefactError, ModelError, StructureError, UsageError
from netwright.pruning import load, prune, save_pruned
from netwright.structure import (
    GraphNetwork,
    Inputs,
    Shrunk,
    Structure,
    check,
    describe_example,
    mask_of,
    permute,
    remake_example,
    shrink,
    sort_by,
    trace,
    widen,
)
from netwright.testing.surgery import SurgerySuite, draw_keep, randomise, removed_elements

#: Networks whose training pass differs from the other one in more than flags.
TWO_PASSES = {"attention"}


@cache
def shrunk(name: str, heads: str = "whole") -> tuple[nn.Module, Structure, Tensor, Shrunk]:
    torch.manual_seed(0)
    model, example = HARD_WIRED[name]()
    model = randomise(model).eval()
    net = trace(model, example, heads=heads)
    keep = draw_keep(net)
    return model, net, keep, shrink(model, net, keep, how="graph")


def resized(inputs: Inputs, batch: int) -> Inputs:
    """Another batch of the same kind."""
    generator = torch.Generator().manual_seed(batch)
    return inputs.map(lambda x: torch.randn((batch, *x.shape[1:]), generator=generator, dtype=x.dtype))


def tensors(output: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


@pytest.mark.parametrize("heads", ["whole", "width"])
@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_with_other_sizes_is_the_masked_network(name: str, heads: str) -> None:
    model, net, keep, small = shrunk(name, heads)
    assert small.how == "graph" and isinstance(small.model, GraphNetwork)
    found = check(model, net, keep, small.model)
    assert found.error <= 1e-12 and found.change > 1e-3
    assert type(small.model).__name__ == type(model).__name__


@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_keeps_names_and_slices(name: str) -> None:
    model, net, keep, small = shrunk(name)
    gone = removed_elements(net, keep)
    state = small.model.state_dict()
    assert list(state) == list(model.state_dict())
    assert [n for n, _ in small.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    for key, dense in model.state_dict().items():
        stays = (~gone[key]).expand(dense.shape) if key in gone else torch.ones_like(dense, dtype=torch.bool)
        assert torch.equal(state[key].reshape(-1), dense[stays].reshape(-1))
    ours = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in ours for p in small.model.parameters())
    assert not model.training and not any(m.training for m in small.model.modules())


@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_takes_any_batch_size(name: str) -> None:
    _, net, _, small = shrunk(name)
    inputs = resized(net.inputs, 5)
    together = tensors(inputs.call(small.model))
    apart = [tensors(inputs.map(lambda x, i=i: x[i : i + 1]).call(small.model)) for i in range(5)]
    for whole, *parts in zip(together, *apart, strict=True):
        assert whole.shape[0] == 5
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_trains(name: str) -> None:
    _, net, _, small = shrunk(name)
    model = copy.deepcopy(small.model).train()
    inputs = resized(net.inputs, 4)
    trainable = [p for p in model.parameters() if p.dim() > 1]  # a bias may be without effect
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in trainable]
    loss = sum(x.square().mean() + x.mean() for x in tensors(inputs.call(model)) if x.requires_grad)
    loss.backward()
    optimiser.step()
    assert all(not torch.equal(p, b) for p, b in zip(trainable, before, strict=True))
    out = tensors(inputs.call(model.eval()))
    assert all(bool(torch.isfinite(x).all()) for x in out)
    torch.testing.assert_close(out, tensors(inputs.call(model)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["attention", "functional", "layers"])
def test_the_modes_of_a_graph_switch(name: str) -> None:
    model, net, _, small = shrunk(name)
    graph = copy.deepcopy(small.model)
    assert (graph.training_program is not None) == (name in TWO_PASSES)
    inputs = resized(net.inputs, 4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (tensors(inputs.call(graph.train()))[0] for _ in range(2))
        assert not torch.equal(first, second), "dropout is not active"
        torch.manual_seed(1)
        graph.load_state_dict(small.model.state_dict())
        first = tensors(inputs.call(graph))[0]
        torch.manual_seed(1)
        graph.load_state_dict(small.model.state_dict())
        second = tensors(inputs.call(graph))[0]
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    changed = {k for k, v in graph.state_dict().items() if not torch.equal(v, small.model.state_dict()[k])}
    statistics = {k for k in model.state_dict() if k.endswith(("mean", "var", "num_batches_tracked"))}
    assert changed == statistics, "batch statistics are updated, nothing else"


def test_batch_statistics_are_those_of_the_layer() -> None:
    _, net, _, small = shrunk("layers")
    graph = copy.deepcopy(small.model).train()
    x = resized(net.inputs, 8).args[0]
    graph(x)
    values = graph.a(x)
    want = 0.9 * small.model.bn.running_mean + 0.1 * values.mean((0, 2, 3))
    torch.testing.assert_close(graph.bn.running_mean, want)
    assert int(graph.bn.num_batches_tracked) == int(small.model.bn.num_batches_tracked) + 1
    graph.bn.eval()  # a frozen batch norm in a network that trains
    frozen = graph.bn.running_mean.clone()
    graph(x)
    assert torch.equal(graph.bn.running_mean, frozen)


@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_moves_and_copies(name: str) -> None:
    _, net, _, small = shrunk(name)
    double = copy.deepcopy(small.model).double()
    inputs = net.inputs.map(lambda x: x.double())
    want = tensors(net.inputs.call(small.model))
    for x, y in zip(tensors(inputs.call(double)), want, strict=True):
        torch.testing.assert_close(x.float(), y, rtol=1e-4, atol=1e-5)
    half = copy.deepcopy(small.model).bfloat16()
    if name != "recurrent":  # PyTorch's recurrences on processors want one dtype of state and weights
        out = tensors(net.inputs.map(lambda x: x.bfloat16()).call(half))
        assert all(bool(torch.isfinite(x).all()) for x in out)
    meta = copy.deepcopy(small.model).to("meta")
    out = tensors(net.inputs.map(lambda x: x.to("meta")).call(meta))
    assert [x.shape for x in out] == [x.shape for x in want]
    twin = copy.deepcopy(small.model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for x, y in zip(tensors(net.inputs.call(small.model)), want, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", list(HARD_WIRED))
def test_a_graph_can_be_pruned_again(name: str) -> None:
    _, net, _, small = shrunk(name)
    again = trace(small.model, net.inputs)
    keep = draw_keep(again, seed=3)
    smaller = shrink(small.model, again, keep)
    assert smaller.how == "graph"
    assert sum(p.numel() for p in smaller.model.parameters()) == again.cost(keep).params
    found = check(small.model, again, keep, smaller.model)
    assert found.error <= 1e-12 and found.change > 1e-6


def test_the_users_containers_come_back() -> None:
    model, net, _, small = shrunk("containers")
    out, want = net.inputs.call(small.model), net.inputs.call(model)
    assert list(out) == list(want) and isinstance(out["more"], tuple) and isinstance(out["more"][1], list)
    assert not out["more"][0].requires_grad and out["out"].requires_grad
    assert inspect.signature(small.model.forward) == inspect.signature(model.forward)
    x, weight = net.inputs.kwargs["x"], net.inputs.kwargs["weight"]
    reordered = small.model(x, twice=True, weight=weight)
    assert torch.equal(reordered["out"], out["out"])
    assert torch.equal(small.model(x, weight=weight)["out"], out["out"]), "a plain value may be left out"
    with pytest.raises(ModelError, match="was traced with True, False was given"):
        small.model(x, weight=weight, twice=False)
    with pytest.raises(ModelError, match="takes an input of shape"):
        small.model(torch.randn(3, 7), weight=weight)
    with pytest.raises(ModelError, match="a tensor of shape"):
        small.model(x)
    with pytest.raises(ModelError, match="cannot be called so"):
        small.model(x, weights=weight)


def test_parts_of_a_graph_are_layers_or_refuse() -> None:
    _, _, _, small = shrunk("layers")
    assert type(small.model.b) is nn.Linear and small.model.b.out_features == len(small.model.b.weight)
    assert small.model.dw.groups == small.model.dw.in_channels == small.model.a.out_channels
    model = nn.ModuleDict({"inner": Containers()})
    model.forward = model.inner.forward
    net = trace(model, HARD_WIRED["containers"]()[1])
    small = shrink(model, net, draw_keep(net), how="graph").model
    assert list(small.state_dict()) == list(model.state_dict())
    with pytest.raises(ModelError, match="Containers is a part of a graph and cannot be called by itself"):
        small.inner(torch.randn(3, 6))


def test_why_the_network_is_a_graph_is_told() -> None:
    torch.manual_seed(0)
    model, example = HARD_WIRED["batched heads"]()
    net = trace(randomise(model).eval(), example)
    small = shrink(model, net, draw_keep(net))
    assert small.how == "graph"
    assert small.notes[0].startswith("the network is a graph now (its code cannot hold the new sizes: ")
    with pytest.raises(StructureError, match="cannot be shrunk in place"):
        shrink(model, net, draw_keep(net), how="in place")
    with pytest.raises(UsageError, match="how='else' is not known"):
        shrink(model, net, draw_keep(net), how="else")


def test_a_graph_reorders_and_widens() -> None:
    _, net, _, small = shrunk("batched heads", "width")
    net = trace(small.model, net.inputs, heads="width")
    scores = torch.rand(net.count, generator=torch.Generator().manual_seed(0))
    turned = permute(small.model, net, sort_by(net, scores))
    wide = widen(small.model, net, 2)
    assert (turned.how, wide.how) == ("graph", "graph")
    assert max(turned.error, wide.error) < 1e-12
    assert wide.model.v.out_features == 2 * small.model.v.out_features
    assert not torch.equal(turned.model.q.weight, small.model.q.weight)


def test_both_reasons_are_told_when_neither_way_works() -> None:
    torch.manual_seed(0)
    model, example = strided()
    net = trace(randomise(model).eval(), example)
    message = r"cannot be shrunk in place: .*; nor as a graph: what stays of it is no range \(operator slice"
    with pytest.raises(StructureError, match=message):
        shrink(model, net, draw_keep(net))


def test_a_pass_that_cannot_be_exported_is_told(capfd) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x):
            y = self.a(x)
            return self.b(y.view(-1, 8) if float(y.sum()) > -1e9 else y)

    model = randomise(Branching()).eval()
    net = trace(model, torch.randn(2, 6))
    with pytest.raises(StructureError, match="nor as a graph: its forward pass cannot be exported"):
        shrink(model, net, draw_keep(net))
    assert "def forward" not in "".join(capfd.readouterr())


def test_a_graph_of_one_example_takes_more() -> None:
    torch.manual_seed(0)
    model, example = HARD_WIRED["attention"]()
    net = trace(randomise(model).eval(), example[:1])
    small = shrink(model, net, draw_keep(net), how="graph").model
    assert small(torch.randn(7, 5, 6)).shape == (7, 5, 5)


def test_a_branch_on_the_batch_size_fixes_it() -> None:
    def forward(m, x):
        y = m.a(x).view(-1, 8)
        return m.b(y.relu() if x.shape[0] == 1 else y.tanh())

    model = randomise(Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 5))).eval()
    net = trace(model, torch.randn(3, 6))
    small = shrink(model, net, draw_keep(net), how="graph")
    assert "its batch size is fixed at 3" in small.notes
    assert small.model(torch.randn(3, 6)).shape == (3, 5)
    with pytest.raises(ModelError, match=r"takes an input of shape \(3, 6\), \(1, 6\) was given"):
        small.model(torch.randn(1, 6))


def test_tied_parameters_stay_tied_in_a_graph() -> None:
    def forward(m, x):
        return m.d(m.c(m.b(m.a(x).view(-1, 8)).relu()).relu())

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8), d=nn.Linear(8, 5))
    model.c.weight = model.b.weight
    model.b.bias.requires_grad_(False)
    net = trace(randomise(model).eval(), torch.randn(3, 6))
    keep = draw_keep(net)
    small = shrink(model, net, keep, how="graph").model
    assert small.c.weight is small.b.weight
    twin = copy.deepcopy(small)
    assert twin.c.weight is twin.b.weight is not small.b.weight
    assert not small.b.bias.requires_grad and small.c.bias.requires_grad
    assert check(model, net, keep, small).error < 1e-12


def test_windowed_attention_keeps_all_promises() -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    model = SwinTransformer(
        [2, 2], 24, [1, 1], [2, 4], [2, 2], num_classes=5, dropout=0.1, stochastic_depth_prob=0.2
    )
    suite = SurgerySuite(randomise(model).eval(), torch.randn(2, 3, 16, 16))
    small = shrink(suite.model, suite.net, suite.keep, how="graph")
    suite.__dict__["shrunk"] = small
    for promise in ("exact", "sliced", "counted", "trains", "steps", "copied", "repeated"):
        getattr(suite, promise)()
    assert small.model.training_program is not None  # whole paths are dropped in training


def test_a_graph_exports_to_onnx(tmp_path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, net, _, small = shrunk("attention")
    x = net.inputs.args[0]
    program = torch.onnx.export(
        small.model, (x,), dynamo=True, verbose=False, dynamic_shapes=(({0: torch.export.Dim("batch")},),)
    )
    program.save(tmp_path / "net.onnx")
    session = ort.InferenceSession(tmp_path / "net.onnx")
    more = torch.randn(4, 5, 6)
    (out,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    np.testing.assert_allclose(out, small.model(more).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["batched heads", "containers"])
def test_a_graph_is_saved_and_read_again(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model, example = HARD_WIRED[name]()
    pruned = prune(randomise(model).eval(), example, 0.5, allocation="uniform", check=True)
    assert pruned.how == "graph" and pruned.error is not None and pruned.error < 1e-10
    save_pruned(pruned, tmp_path)
    torch.manual_seed(1)
    again = load(tmp_path, HARD_WIRED[name]()[0].eval())
    inputs = resized(Inputs.of(example), 4)
    for x, y in zip(tensors(inputs.call(again)), tensors(inputs.call(pruned.model)), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(mask_of(pruned.net, pruned.kept), pruned.keep)
    other = HARD_WIRED["slices"]()[0]
    with pytest.raises(ArtefactError):
        load(tmp_path, other)
    recipe = json.loads((tmp_path / "kept.json").read_text())
    for wrong in ({"args": [{"tensor": [3, 6], "dtype": "Tensor"}], "kwargs": {}}, {"args": [{}]}, None):
        (tmp_path / "kept.json").write_text(json.dumps({**recipe, "example": wrong}))
        with pytest.raises(ArtefactError, match="the description of the example is malformed"):
            load(tmp_path, model)


def test_an_example_is_written_down_and_made_again() -> None:
    inputs = Inputs(
        (torch.ones(2, 3), [torch.zeros(1, dtype=torch.int64), None]), {"a": {"b": (True, 0.5, "x")}}
    )
    again = remake_example(json.loads(json.dumps(describe_example(inputs))))
    assert [(x.shape, x.dtype) for x in again.tensors()] == [(x.shape, x.dtype) for x in inputs.tensors()]
    assert again.args[1][1] is None and again.kwargs == {"a": {"b": (True, 0.5, "x")}}
    with pytest.raises(ArtefactError, match="an example that holds a object cannot be written down"):
        describe_example(Inputs((object(),)))
