"""Small data sets in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Tree = dict[str, int]


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Write PNG files: folder -> how many; every image is its own shade."""

    def make(tree: Tree, size: tuple[int, int] = (12, 10), mode: str = "RGB", name: str = "images") -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(0)
        for folder, count in tree.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i:03}.png")
        return root

    return make
