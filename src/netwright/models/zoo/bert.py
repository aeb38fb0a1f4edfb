"""BERT: an encoder of post-normalised transformer blocks, with a classifier on the mean of its tokens.

J. Devlin, M.-W. Chang, K. Lee and K. Toutanova, BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding, NAACL 2019; the mean of the tokens as the vector of a sentence: N. Reimers and
I. Gurevych, Sentence-BERT, EMNLP 2019. All tokens are of the first segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from netwright.errors import ArtefactError
from netwright.models.zoo.attention import Mlp
from netwright.models.zoo.cross_attention import CrossAttention

#: Part of our names -> that of the published ones, in a block.
_BLOCK = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
_EMBEDDINGS = {
    "embedding": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "segment": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}


class BertBlock(nn.Module):
    """Attention and a perceptron, each added to what came in and normalised after.

    Args:
        width: Features of a token.
        heads: Of the attention.
        head_dim: Features of a head.
        hidden: Features inside the perceptron.
        eps: Of the normalisations.
    """

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.attn = CrossAttention(width, heads, head_dim)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, N, width), the same back; `seen` (B, 1, 1, N) bool says which tokens are there."""
        x = self.norm1(x + self.attn(x, x, seen))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    """Embeddings, blocks, the mean of the tokens that are there, and scores of classes.

    Args:
        vocabulary: Different tokens; 0 fills up.
        context: Longest sequence.
        width: Features of a token.
        heads: Of the attention of every block.
        hidden: Features inside the perceptron of every block.
        depth: Number of blocks.
        num_classes: Of the answer.
        segments: Kinds of segments in the weights; the first is used.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        context: int = 512,
        width: int = 384,
        heads: int = 12,
        hidden: int = 1536,
        depth: int = 6,
        num_classes: int = 2,
        segments: int = 2,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.segment = nn.Embedding(segments, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, heads, width // heads, hidden) for _ in range(depth))
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def vector(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens, whole numbers of any type, 0 after the end -> (B, width), their mean."""
        tokens = tokens.long()
        there = tokens != 0
        at = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.embedding(tokens) + self.position(at) + self.segment(torch.zeros_like(at)))
        for block in self.blocks:
            x = block(x, there[:, None, None, :])
        shares = there.to(x.dtype)[..., None]
        return (x * shares).sum(1) / shares.sum(1).clamp(min=1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens, 0 after the end, to (B, classes)."""
        scores: Tensor = self.head(self.vector(tokens))
        return scores

    @classmethod
    def from_safetensors(cls, path: Path, num_classes: int, heads: int = 12) -> Bert:
        """Load published weights of an encoder; the classifier is drawn anew.

        Args:
            path: With the names of Hugging Face's BertModel.
            num_classes: Of the answer.
            heads: Of the attention, which the weights do not tell.

        Raises:
            ArtefactError: if the file cannot be read or holds something else.
        """
        try:
            held = load_file(path)
            depth = 1 + max(int(n.split(".")[2]) for n in held if n.startswith("encoder.layer."))
            vocabulary, width = held["embeddings.word_embeddings.weight"].shape
            model = cls(
                vocabulary,
                len(held["embeddings.position_embeddings.weight"]),
                width,
                heads,
                len(held["encoder.layer.0.intermediate.dense.bias"]),
                depth,
                num_classes,
                len(held["embeddings.token_type_embeddings.weight"]),
            )
            model.load_state_dict(_renamed(held, model))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ArtefactError(f"{path} holds no weights of this network: {reason}") from error
        return model


def _renamed(held: Mapping[str, Tensor], model: Bert) -> dict[str, Tensor]:
    """The state dict of a model, all but its classifier from published weights."""
    found: dict[str, Tensor] = {}
    for name, own in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module == "head":
            found[name] = own
            continue
        parts = module.split(".", 2)
        theirs = (
            f"encoder.layer.{parts[1]}.{_BLOCK[parts[2]]}" if parts[0] == "blocks" else _EMBEDDINGS[module]
        )
        found[name] = held[f"{theirs}.{kind}"]
    return found
