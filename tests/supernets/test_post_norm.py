"""Depth of post-normalised blocks, which must be asked for by name; BERT as published."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import netwright as nw
from netwright import supernets
from netwright.data.wordpiece import WordPiece
from netwright.errors import ArtefactError, DataError, UsageError
from netwright.models import Bert

SIZES = {"width": 24, "heads": 4, "hidden": 32, "depth": 4}


def network() -> tuple[Bert, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(1))
    x[0, 6:] = 0
    return Bert(50, 16, num_classes=5, **SIZES).eval(), x


def test_a_prefix_of_the_blocks_is_the_network_of_these_blocks() -> None:
    model, x = network()
    sup = nw.elastic(
        model,
        x,
        depth={"blocks": [2, 3, 4]},
        width={"*.mlp.fc1": [0.5, 1.0], "*.attn.q": [0.5, 1.0]},
        share={"all": ["*.mlp.fc1", "*.attn.q"]},
    ).eval()
    assert sup.space.size() == 6
    for depth in (2, 3, 4):
        short = copy.deepcopy(model)
        short.blocks = short.blocks[:depth]
        torch.testing.assert_close(sup.set({"depth:blocks": depth})(x), short(x), rtol=1e-6, atol=1e-6)
    for choice in sup.space.enumerate():
        small = sup.extract(choice)
        torch.testing.assert_close(small(x), sup.set(choice)(x), rtol=1e-6, atol=1e-6)
        assert sup.cost(choice) == nw.trace(small, x).dense


def test_post_normalised_blocks_are_skipped_only_where_named(tmp_path: Path) -> None:
    model, x = network()
    with pytest.raises(UsageError, match="no residual block"):
        nw.elastic(model, x, depth=True)
    with pytest.raises(UsageError):
        nw.elastic(model, x, depth={"head": [1]})
    sup = nw.elastic(model, x, depth=["blocks.1", "blocks.3"]).eval()
    short = copy.deepcopy(model)
    short.blocks = nn.ModuleList([short.blocks[0], short.blocks[2]])
    choice = {"block:blocks.1": False, "block:blocks.3": False}
    torch.testing.assert_close(sup.set(choice)(x), short(x), rtol=1e-6, atol=1e-6)
    nw.save(supernets.as_pruned(sup, choice), tmp_path / "small")
    again = nw.load(tmp_path / "small", network()[0])
    torch.testing.assert_close(again.eval()(x), short(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_of_pytorch_are_cut_out(norm_first: bool) -> None:
    """They are called with masks that are None, which what stands for them must take."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 16)
    sup = nw.elastic(model, x, depth={"layers": [1, 2, 3]}).eval()
    for depth in (1, 2, 3):
        small = sup.extract({"depth:layers": depth})
        short = copy.deepcopy(model)
        short.layers = short.layers[:depth]
        torch.testing.assert_close(small(x), short(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sup.set({"depth:layers": depth})(x), short(x), rtol=1e-5, atol=1e-6)


def test_chains_of_equal_layers_are_no_blocks() -> None:
    """Without a sum the input's members need not be the output's: nothing says that one can stand for all."""
    chain = nn.Sequential(nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)]))
    with pytest.raises(UsageError):
        nw.elastic(chain, torch.randn(2, 8), depth={"0": [1, 2, 3]})


def test_what_fills_up_changes_nothing() -> None:
    model, x = network()
    torch.testing.assert_close(model(x)[:1], model(x[:1, :6]), rtol=1e-5, atol=1e-6)


def test_published_names_are_read_and_other_files_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    save_file({n: t.contiguous() for n, t in theirs.state_dict().items()}, tmp_path / "bert.safetensors")
    ours = Bert.from_safetensors(tmp_path / "bert.safetensors", 5, heads=4).eval()
    _, x = network()
    mask = x != 0
    states = theirs(input_ids=x, attention_mask=mask.long()).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(ours.vector(x), means, rtol=1e-5, atol=1e-6)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("other.safetensors", "none.safetensors"):
        with pytest.raises(ArtefactError, match="no weights"):
            Bert.from_safetensors(tmp_path / name, 5)


def test_words_are_split_into_the_longest_pieces(tmp_path: Path) -> None:
    words = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", ",", "cafe"])
    assert words.split("Unaffable, CAFÉ xyz") == ["un", "##aff", "##able", ",", "cafe", "[UNK]"]
    assert words.encode(["unaffable", "cafe"], 4).tolist() == [[2, 4, 5, 3], [2, 9, 3, 0]]
    assert words.encode([], 4).shape == (0, 4)
    with pytest.raises(DataError):
        WordPiece(["a"])
    with pytest.raises(ArtefactError):
        WordPiece.read(tmp_path / "none.txt")
