"""Traced graphs compute what the network computes, for any batch and dtype, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright import structure
from netwright.structure.graph_capture import capture
from netwright.structure.graph_tracing import Untraceable, trace_calls
from netwright.structure.record import record
from netwright.testing.surgery import randomise


class Blocks(nn.Module):
    """What a graph must follow: the batch in sizes, the dtype, in-place writes, constants, shared layers."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.ModuleList([nn.Linear(8, 8)] * 2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(8))
        self.table = torch.arange(8.0)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        batch, _, high, wide = x.shape
        x = self.norm(self.first(x)).relu_()
        x = x.view(batch, 8, high // 2, 2, wide // 2, 2).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(batch * (high // 2) * (wide // 2), 4, 8)  # windows
        for layer in self.again:
            x = x + self.drop(layer(x))
        weights = (x @ x.transpose(1, 2)).softmax(-1, dtype=torch.float32).to(x.dtype)
        mask = torch.full((4, 4), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
        x = ((weights + mask).softmax(-1) @ x).clone()
        x[:, :1] = 0.0
        x = torch.minimum(x, torch.full_like(x, 3.0)) + torch.zeros_like(x[:1])
        x = x * torch.tensor(0.5) + torch.arange(8, device=x.device, dtype=x.dtype)
        x = x.view(batch, -1, 8).mean(1)
        if self.kind == "no gradients":
            with torch.no_grad():
                x = x + x.detach().mean(0, keepdim=True)
        elif self.kind == "half":
            x = torch.cat([x[: batch // 2] * 2, x[batch // 2 :]])
        elif self.kind == "table":
            x = x * self.table
        elif self.kind == "values":
            x = x * 2 if bool(x.sum() > 0) else x
        elif self.kind == "cast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.head(x).float()
            return x
        return {"out": self.head(x), "count": 3, "none": None}


def traced(kind: str, batch: int = 2, *, training: bool = False) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = randomise(Blocks(kind)).train(training)
    inputs = structure.Inputs.of(torch.randn(batch, 3, 4, 4))
    return model, trace_calls(model, inputs, training=training, dtype=torch.float32)


@pytest.mark.parametrize("batch", [1, 2, 6, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_traced_pass_is_the_network_for_any_batch_and_dtype(batch: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = randomise(Blocks()).eval()
    inputs = structure.Inputs.of(torch.randn(2, 3, 4, 4))
    assert trace_calls(model, inputs, training=False, dtype=torch.float32).shapes == ((None, 3, 4, 4),)
    network = capture(model, inputs, record(model, inputs)).network(model).to(dtype)
    model = model.to(dtype)
    x = torch.randn(batch, 3, 4, 4, dtype=dtype)
    with torch.no_grad():
        want, got = model(x), network(x)
    assert got["out"].dtype == dtype
    assert torch.equal(got["out"], want["out"])
    assert got["count"] == 3 and got["none"] is None


def test_a_traced_pass_calls_the_layers_and_trains() -> None:
    torch.manual_seed(0)
    model = randomise(Blocks()).eval()
    inputs = structure.Inputs.of(torch.randn(2, 3, 4, 4))
    found = capture(model, inputs, record(model, inputs))
    called = [str(n.target) for n in found.program.graph.nodes if n.op == "call_module"]
    assert called == ["first", "norm", "again.0", "drop", "again.0", "drop", "head"]
    network = found.network(model).train()
    x = torch.randn(3, 3, 4, 4)
    torch.manual_seed(1)
    got = network(x)["out"]
    torch.manual_seed(1)
    want = model.train()(x)["out"]
    assert torch.equal(got, want)
    got.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("no gradients", "it sets a mode"),
        ("cast", "it sets a mode"),
        ("half", "follows the batch or the dtype"),
        ("table", "neither a parameter nor a buffer"),
        ("values", "."),
    ],
)
def test_what_a_trace_cannot_say_is_refused(kind: str, why: str) -> None:
    with pytest.raises(Untraceable, match=why):
        traced(kind)


def test_inputs_without_a_number_of_examples_in_common_are_refused() -> None:
    inputs = structure.Inputs.of((torch.randn(4, 5), torch.randn(2, 5)))
    with pytest.raises(Untraceable, match="no number of examples in common"):
        trace_calls(nn.Bilinear(5, 5, 3), inputs, training=False, dtype=torch.float32)


def test_where_gradients_stop_they_stop_in_the_graph_too() -> None:
    torch.manual_seed(0)
    model = randomise(Blocks("no gradients")).eval()
    inputs = structure.Inputs.of(torch.randn(2, 3, 4, 4))
    network = capture(model, inputs, record(model, inputs)).network(model)
    x = inputs.args[0]
    assert torch.equal(network(x)["out"], model(x)["out"])
    network(x)["out"].sum().backward()
    assert network.get_parameter("first.weight").grad is None
    assert network.get_parameter("head.weight").grad is not None


class Fork(nn.Module):
    """A different operator for a large batch: both runs of a trace must see the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x)) if x.shape[0] > 3 else self.layer(x)


def test_operators_that_follow_the_batch_are_refused() -> None:
    with pytest.raises(Untraceable, match="follows the batch"):
        trace_calls(Fork(), structure.Inputs.of(torch.randn(2, 4)), training=False, dtype=torch.float32)
