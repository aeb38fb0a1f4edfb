"""`torch.nn.MultiheadAttention` with a free inner width.

PyTorch's module fixes the inner width to the embedding width (`unflatten(-1, (3, E))`) and the softmax
temperature to `1/sqrt(E / heads)`, so it cannot hold fewer heads than `E / head_dim`. `ShapedAttention` is
the same module — a subclass with the same parameter names, computing the same function — that reads its inner
width from its weights and keeps its temperature in `scale`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShapedAttention(nn.MultiheadAttention):
    """Multi-head attention whose inner width may differ from its embedding width.

    Made from an `nn.MultiheadAttention` by `adopt_attention`; not constructed directly. Parameters keep their
    names: `in_proj_weight` (3 * inner, E), `in_proj_bias` (3 * inner), `out_proj.weight` (E, inner),
    `out_proj.bias` (E).

    Attributes:
        scale: Softmax temperature, a factor on the scores.
        num_heads: Number of heads; `inner` is a multiple of it.
    """

    scale: float

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`.

        Args:
            query: (B, N, E) if `batch_first`, (N, B, E) otherwise, or (N, E).
            key: Likewise, N may differ.
            value: Likewise.
            key_padding_mask: (B, N_key) or (N_key); True, or minus infinity, where a key is ignored.
            need_weights: Return the attention weights too.
            attn_mask: (N, N_key) or (B * heads, N, N_key).
            average_attn_weights: Average the weights over the heads.
            is_causal: As in PyTorch: a hint that `attn_mask` is causal.

        Returns:
            The output, shaped as `query`, and the weights (B, N, N_key) or (B, heads, N, N_key), or None.
        """
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = key_padding_mask.unsqueeze(0) if key_padding_mask is not None else None
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = self._project(query, key, value)  # (B, heads, N, d) each
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)  # (B, heads, N, N_key)
            scores = scores if mask is None else scores + mask
            weights = torch.softmax(scores, dim=-1)
            out = F.dropout(weights, dropout, self.training) @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, N, E)
        if not batched:
            return out.squeeze(0), weights.squeeze(0) if weights is not None else None
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None, None, None)
        return [
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        ]

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        mask = None
        for given, shape in ((attn_mask, None), (padding, (k.shape[0], 1, 1, k.shape[2]))):
            if given is None:
                continue
            if given.dtype == torch.bool:
                given = torch.zeros_like(given, dtype=q.dtype).masked_fill_(given, float("-inf"))
            if shape is not None:
                given = given.view(shape)
            elif given.dim() == 3:
                given = given.view(q.shape[0], -1, q.shape[2], k.shape[2])
            mask = given if mask is None else mask + given
        return mask


def adopt_attention(model: nn.Module, names: Iterable[str] | None = None) -> list[str]:
    """Turn plain `nn.MultiheadAttention` modules inside a model into `ShapedAttention`, in place.

    Modules with separate key and value widths, extra bias tokens or zero attention are left as they are.

    Args:
        model: The model.
        names: Dotted paths of the modules to turn; all when None.

    Returns:
        The names of the modules that were turned.
    """
    wanted = None if names is None else set(names)
    turned = []
    for name, module in model.named_modules():
        if type(module) is not nn.MultiheadAttention or not module._qkv_same_embed_dim:
            continue
        if module.bias_k is not None or module.add_zero_attn or (wanted is not None and name not in wanted):
            continue
        object.__setattr__(module, "__class__", ShapedAttention)
        module.scale = module.head_dim**-0.5  # type: ignore[assignment]
        # The fused encoder kernel assumes inner == embedding width; this is the flag that keeps it away.
        module._qkv_same_embed_dim = False
        turned.append(name)
    return turned
