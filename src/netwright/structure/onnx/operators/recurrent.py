"""Recurrent layers, step by step, so that the rules see matrix products and gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.structure.onnx.operators.registry import known_integers, lift, operator, unsupported
from netwright.structure.onnx.program import Step, Value

Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softplus": F.softplus,
    "softsign": lambda x: x / (1 + x.abs()),
}  # fmt: skip
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def directions(step: Step) -> int:
    """One, or two for a network that also runs backwards."""
    return 2 if step.get("direction", "forward") == "bidirectional" else 1


@operator("LSTM", "GRU", "RNN")
def recurrent(
    step: Step,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    h0: Value = None,
    c0: Value = None,
    peep: Value = None,
) -> Any:
    """`x (T, B, I)`, or `(B, T, I)` with layout 1.

    `w (D, gates H, I)`, `r (D, gates H, H)`, `b (D, 2 gates H)`.

    With two directions the weights may come as lists of one tensor a direction.
    """
    if step.get("layout", 0):
        x = x.transpose(0, 1)
        h0, c0 = (None if v is None else v.swapaxes(0, 1) for v in (h0, c0))
    if lengths is not None and any(n != x.shape[0] for n in known_integers(step, lengths)):
        raise unsupported(step, "examples of different lengths")
    if peep is not None and not (isinstance(peep, np.ndarray) and not peep.any()):
        raise unsupported(step, "peephole connections")
    if step.get("clip") or (step.op == "LSTM" and step.get("input_forget", 0)):
        raise unsupported(step, "clipped cells or coupled gates")
    count, gates = directions(step), _GATES[step.op]
    sides = [_side(v, count, x) for v in (w, r, b)]
    rows = _split(sides[0], count)
    outputs, last = [], []
    for d in range(count):
        backwards = (count == 2 and d == 1) or step.get("direction", "forward") == "reverse"
        recur = sides[1][d]
        bias = None if not sides[2] else sides[2][d].split(gates * recur.shape[-1])
        cell = _cell(step, d, recur, bias)
        states = _start(step, d, x, recur.shape[-1], h0, c0)
        ahead = _project(x, rows[d], bias)
        seen = []
        order = range(x.shape[0])
        for t in reversed(order) if backwards else order:
            states = cell(ahead[t], states)
            seen.append(states[0])
        outputs.append(torch.stack(seen[::-1] if backwards else seen))  # (T, B, H)
        last.append(states)
    return _results(step, outputs, last)


def _side(value: Value, count: int, like: Tensor) -> list[Tensor]:
    """One tensor for each direction."""
    if value is None:
        return []
    if isinstance(value, list):
        return [lift(v, like) for v in value]
    value = lift(value, like)
    return [value.select(0, d) for d in range(count)]


def _split(parts: list[Tensor], count: int) -> list[Tensor]:
    """The directions' weights as parts of one split: they keep equally many units each."""
    return list(torch.cat(parts).split(parts[0].shape[0])) if count > 1 else parts


def _project(x: Tensor, w: Tensor, bias: tuple[Tensor, ...] | None) -> list[Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    out = torch.mm(flat, w.t()) if bias is None else torch.addmm(bias[0], flat, w.t())
    return list(out.reshape(*x.shape[:2], -1).unbind(0))


def _start(step: Step, d: int, x: Tensor, hidden: int, h0: Value, c0: Value) -> tuple[Tensor, ...]:
    def state(value: Value) -> Tensor:
        if value is None or (isinstance(value, np.ndarray) and not value.any()):
            return x.new_zeros(x.shape[1], hidden)
        return lift(value, x)[d]

    return (state(h0), state(c0)) if step.op == "LSTM" else (state(h0),)


def _activations(step: Step, d: int, default: list[str]) -> list[Callable[[Tensor], Tensor]]:
    given = step.get("activations") or default * directions(step)
    names = [n.lower() for n in given[d * len(default) : (d + 1) * len(default)]]
    if any(n not in _FUNCTIONS for n in names) or step.get("activation_alpha"):
        raise unsupported(step, f"the activations {', '.join(names)}")
    return [_FUNCTIONS[n] for n in names]


def _cell(step: Step, d: int, recur: Tensor, bias: tuple[Tensor, ...] | None) -> Cell:
    across = recur.t()

    def product(h: Tensor) -> Tensor:
        return torch.mm(h, across) if bias is None else torch.addmm(bias[1], h, across)

    if step.op == "RNN":
        (act,) = _activations(step, d, ["Tanh"])
        return lambda ahead, states: (act(ahead + product(states[0])),)
    if step.op == "LSTM":
        gate, inner, outer = _activations(step, d, ["Sigmoid", "Tanh", "Tanh"])

        def lstm(ahead: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h, c = states
            i, o, f, g = (ahead + product(h)).chunk(4, 1)
            c = gate(f) * c + gate(i) * inner(g)
            return gate(o) * outer(c), c

        return lstm
    gate, inner = _activations(step, d, ["Sigmoid", "Tanh"])
    after = bool(step.get("linear_before_reset", 0))
    parts = None if after else across.chunk(3, 1)
    offsets = None if bias is None or after else bias[1].chunk(3)

    def gru(ahead: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = states
        az, ar, an = ahead.chunk(3, 1)
        if after:
            hz, hr, hn = product(h).chunk(3, 1)
            z, r = gate(az + hz), gate(ar + hr)
            n = inner(an + r * hn)
        else:
            assert parts is not None
            terms = [torch.mm(h, p) for p in parts[:2]]
            if offsets is not None:
                terms = [t + o for t, o in zip(terms, offsets, strict=False)]
            z, r = gate(az + terms[0]), gate(ar + terms[1])
            inside = torch.mm(r * h, parts[2])
            n = inner(an + (inside if offsets is None else inside + offsets[2]))
        return ((1 - z) * n + z * h,)

    return gru


def _results(step: Step, outputs: list[Tensor], last: list[tuple[Tensor, ...]]) -> tuple[Value, ...]:
    count = len(outputs)
    first = step.get("layout", 0)

    def directed(parts: list[Tensor]) -> Tensor:
        """Directions side by side: (..., B, D, H)."""
        if count == 1:
            return parts[0].unsqueeze(-2)
        wide = torch.cat(parts, -1)
        return wide.reshape(*wide.shape[:-1], count, -1)

    found: list[Value] = []
    if step.wants(0):
        y = directed(outputs)  # (T, B, D, H)
        found.append(y.transpose(0, 1) if first else y.transpose(1, 2))
    else:
        found.append(None)
    for i in range(len(last[0])):
        if step.wants(i + 1):
            state = directed([states[i] for states in last])  # (B, D, H)
            found.append(state if first else state.transpose(0, 1))
        else:
            found.append(None)
    return tuple(found)
