"""``file.py:callable``: what it may return, and what goes wrong in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from netwright import data
from netwright.errors import DataError, ModelError

HEAD = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
x, y = torch.arange(40.).reshape(40, 1, 1, 1).expand(40, 1, 4, 4).clone(), torch.arange(40) % 4
class Items(Dataset):
    classes = ["n", "e", "s", "w"]
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return x[i], int(y[i])
class Dicts(Items):
    def __getitem__(self, i): return {"image": x[i].numpy(), "label": int(y[i])}
class Stream(IterableDataset):
    def __iter__(self): return iter([(x[i], y[i]) for i in range(40)])
class Pictures(Items):
    def __getitem__(self, i):
        from PIL import Image
        return Image.fromarray(np.full((6, 5, 3), i, dtype=np.uint8)), i % 2
class Fails(Items):
    def __getitem__(self, i): raise RuntimeError("no disk")
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Write a file whose function `f` returns an expression; returns the specification."""

    def make(expression: str) -> str:
        (tmp_path / "mine.py").write_text(f"{HEAD}\ndef f():\n    return {expression}\n")
        return f"{tmp_path / 'mine.py'}:f"

    return make


def values(part: data.Part) -> list[int]:
    return sorted(int(v) for x, _ in part.batches(7) for v in x[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("expression", "sizes"),
    [
        ("(x, y)", (28, 6, 6)),
        ("((x[:30], y[:30]), (x[30:], y[30:]))", (27, 3, 10)),
        ("((x[:20], y[:20]), (x[20:30], y[20:30]), (x[30:], y[30:]))", (20, 10, 10)),
        ("TensorDataset(x, y)", (28, 6, 6)),
        ("DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)", (28, 6, 6)),
        ("Items(40)", (28, 6, 6)),
        ("DataLoader(Dicts(40), batch_size=8)", (28, 6, 6)),
        ("{'train': Items(40), 'valid': (x[:8], y[:8]), 'test': Items(12)}", (40, 8, 12)),
        ("DataLoader(Stream(), batch_size=8)", (28, 6, 6)),
        ("Stream()", (28, 6, 6)),
        ("(DataLoader(Items(20), collate_fn=lambda b: (torch.stack([i[0] for i in b]), "
         "torch.tensor([i[1] for i in b]))), Items(4))", (18, 2, 4)),
    ],
)  # fmt: skip
def test_forms(write: Callable[[str], str], expression: str, sizes: tuple[int, int, int]) -> None:
    splits = data.load(write(expression))
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes
    assert splits.num_classes == 4
    assert splits.shape == (1, 4, 4)
    assert splits.name == "f"
    # The user's numbers are taken as they are.
    assert splits.mean == ()
    for x, label in splits.train.batches(64):
        assert torch.equal(label, x[:, 0, 0, 0].long() % 4)
    assert data.load(write(expression)).fingerprint == splits.fingerprint


def test_class_names_and_pictures(write: Callable[[str], str]) -> None:
    assert data.load(write("Items(40)")).classes == ("n", "e", "s", "w")
    splits = data.load(write("Pictures(40)"))
    assert splits.shape == (3, 6, 5)
    assert values(splits.train) == [0] * 28  # 0..1
    resized = data.load(write("Pictures(40)"), image_size=8)
    assert resized.shape == (3, 8, 8)


def test_bytes_are_normalised(write: Callable[[str], str]) -> None:
    splits = data.load(write("((x * 6).byte(), y)"))
    (x, _), *_ = splits.train.batches(99)
    assert abs(float(x.mean())) < 1e-4


def test_splits_are_returned_as_they_are(write: Callable[[str], str]) -> None:
    splits = data.load(write("__import__('netwright').data.load('digits')"))
    assert splits.name == "digits"


def test_neighbouring_files_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "helper_of_mine.py").write_text(
        "import torch\nx, y = torch.rand(20, 3), torch.arange(20) % 2\n"
    )
    (tmp_path / "mine.py").write_text(
        "from helper_of_mine import x, y\nclass g:\n    @staticmethod\n    def h(): return x, y\n"
    )
    assert data.load(f"{tmp_path / 'mine.py'}:g.h").shape == (3,)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("1 / 0", "f raised ZeroDivisionError: division by zero"),
        ("7", "returned a int, not data"),
        ("{'tset': x}", "without 'train'"),
        ("(x, y, x, y)", "returned 4 things"),
        ("((x, y[:3]), (x, y))", "40 examples and 3 labels"),
        ("(x, y * 0)", "one class only"),
        ("Items(0)", "is empty"),
        ("Fails(40)", "item 0 of the data set raised RuntimeError: no disk"),
        ("(Items(20), None)", "is a NoneType, not data"),
        ("((x, y), (x, None))", "some have none"),
    ],
)
def test_what_is_not_data(write: Callable[[str], str], expression: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        data.load(write(expression))
    assert "\n" not in str(error.value)


def test_a_callable_that_is_not_there(write: Callable[[str], str], tmp_path: Path) -> None:
    file = write("x").removesuffix(":f")
    with pytest.raises(DataError, match=r"mine\.py has no callable 'loaders'.*it has f"):
        data.load(f"{file}:loaders")
    with pytest.raises(DataError, match="cannot be called: 'x'"):
        data.load(f"{file}:x")
    with pytest.raises(DataError, match=r"does not name a callable.*mine\.py:NAME"):
        data.load(file)
    with pytest.raises(DataError, match=r"does not name a callable"):
        data.load(f"{file}:")
    with pytest.raises(DataError, match=r"there is no file .*other\.py"):
        data.load(str(tmp_path / "other.py:f"))
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(ModelError, match=r"broken\.py failed with SyntaxError") as error:
        data.import_callable(str(tmp_path / "broken.py:f"), error=ModelError)
    assert "\n" not in str(error.value)
