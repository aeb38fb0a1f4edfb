"""Emoji cut from their sheet."""

import json

import numpy as np
import pytest
from PIL import Image

from netwright.data.emoji import read
from netwright.errors import ArtefactError


def _written(folder, cells, size=(68, 68)):
    """A sheet of two by two cells of 34 pixels; a cell's picture is one colour, the frame another."""
    sheet = np.zeros((*size, 4), dtype=np.uint8)
    entries = []
    for row, column, colour, category in cells:
        sheet[row * 34 : row * 34 + 34, column * 34 : column * 34 + 34] = (9, 9, 9, 255)
        sheet[row * 34 + 1 : row * 34 + 33, column * 34 + 1 : column * 34 + 33] = colour
        entries.append(
            {"sheet_x": column, "sheet_y": row, "category": category, "has_img_google": category != "Absent"}
        )
    Image.fromarray(sheet).save(folder / "32.png")
    (folder / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")


CELLS = (
    (0, 0, (255, 0, 0, 255), "Food"),
    (0, 1, (0, 255, 0, 0), "Animals"),  # transparent: white is behind it
    (1, 0, (0, 0, 255, 255), "Component"),
    (1, 1, (0, 0, 255, 255), "Absent"),
)


def test_pictures_are_cut_without_their_frames_and_lie_on_white(tmp_path):
    _written(tmp_path, CELLS)
    raw = read(tmp_path)
    assert tuple(raw.classes) == ("Animals", "Food") and raw.train.y.tolist() == [1, 0]
    red, white = raw.train.x.numpy()
    assert np.unique(red.reshape(3, -1), axis=1).T.tolist() == [[1, 0, 0]]
    assert np.unique(white).tolist() == [1]


def test_a_sheet_that_does_not_fit_its_list_is_refused(tmp_path):
    _written(tmp_path, CELLS[:2], size=(34, 68))
    below = {"sheet_x": 0, "sheet_y": 1, "category": "Food", "has_img_google": True}
    (tmp_path / "emoji.json").write_text(json.dumps([below]), encoding="utf-8")
    with pytest.raises(ArtefactError, match="too small"):
        read(tmp_path)
    (tmp_path / "emoji.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ArtefactError, match="damaged"):
        read(tmp_path)
