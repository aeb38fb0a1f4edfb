"""Attention and rotary embeddings (opset 23), as the products, scales and softmax they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.structure.onnx.operators.registry import lift, operator, unsupported
from netwright.structure.onnx.program import Step, Value

_KNOWN = {
    "is_causal",
    "q_num_heads",
    "kv_num_heads",
    "scale",
    "softcap",
    "softmax_precision",
    "qk_matmul_output_mode",
}


@operator("Attention")
def attention(step: Step, q: Tensor, k: Tensor, v: Tensor, mask: Value = None, *more: Value) -> Any:
    """`q (B, heads, N, d)` or `(B, N, heads d)`; likewise `k` and `v`, whose heads may be fewer."""
    if any(x is not None for x in more) or any(step.wants(i) for i in (1, 2, 3)):
        raise unsupported(step, "a cache of keys and values, or the scores, are wanted")
    if not set(step.attributes) <= _KNOWN:
        raise unsupported(step, "a window")
    flat = q.dim() == 3
    if flat:
        heads, others = step.get("q_num_heads"), step.get("kv_num_heads")
        q = q.reshape(*q.shape[:2], heads, -1).transpose(1, 2)
        k, v = (x.reshape(*x.shape[:2], others, -1).transpose(1, 2) for x in (k, v))
    if q.shape[1] != k.shape[1]:
        times = q.shape[1] // k.shape[1]
        k, v = (_repeated(x, times) for x in (k, v))
    scale = step.get("scale") or temperature(q.shape[-1])
    scores = torch.matmul(q * scale, k.transpose(-1, -2))  # (B, heads, N, M)
    softcap = step.get("softcap", 0.0)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    allowed: Tensor | None = None
    if step.get("is_causal", 0):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        mask = lift(mask, scores)
        if mask.shape[-1] < scores.shape[-1]:
            raise unsupported(step, "a mask that is shorter than the keys")
        if mask.dtype == torch.bool:
            allowed = mask if allowed is None else allowed & mask
        else:
            scores = scores + mask
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, -1)
    if allowed is not None:  # a query that may look at nothing gives nothing
        weights = weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    out = torch.matmul(weights, v)
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1) if flat else out


def temperature(width: int) -> float:
    """The factor on the scores of heads of some width, in the precision that an attribute has."""
    return float(np.float32(width**-0.5))


def _repeated(x: Tensor, times: int) -> Tensor:
    b, heads, n, d = x.shape
    return x.unsqueeze(2).expand(b, heads, times, n, d).reshape(b, heads * times, n, d)


@operator("RotaryEmbedding")
def rotary(step: Step, x: Tensor, cos: Value, sin: Value, positions: Value = None) -> Tensor:
    """Pairs of features turned by an angle that grows with the position."""
    flat = x.dim() == 3
    if flat:
        x = x.reshape(*x.shape[:2], step.get("num_heads"), -1)  # (B, N, heads, d)
    else:
        x = x.transpose(1, 2)
    cos, sin = lift(cos, x), lift(sin, x)
    if positions is not None:
        index = lift(positions, x).long()
        cos, sin = cos[index], sin[index]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)  # (B, N, 1, d / 2)
    size = step.get("rotary_embedding_dim", 0) or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if step.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        out = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    out = torch.cat([out, rest], -1) if size < x.shape[-1] else out
    return out.flatten(2) if flat else out.transpose(1, 2)
