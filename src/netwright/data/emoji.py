"""Emoji as pictures of nine categories, cut from the sheet of a package of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from netwright.data.images import read_image
from netwright.data.raw import Raw, from_arrays
from netwright.errors import ArtefactError

#: Pixels of a picture in the sheet, and of the transparent frame around each.
_SIDE, _FRAME = 32, 1
#: Not a category of pictures but parts of others, the tones of skin.
_PARTS = "Component"


def read(folder: Path) -> Raw:
    """Read the fetched sheet: every emoji once, its variants of skin left out, on white.

    Args:
        folder: Holds ``emoji.json`` and ``32.png``.

    Raises:
        ArtefactError: if one of them is damaged.
    """
    try:
        listed = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
        wanted = [e for e in listed if e["has_img_google"] and e["category"] != _PARTS]
        classes = sorted({entry["category"] for entry in wanted})
        places = [(entry["sheet_y"], entry["sheet_x"]) for entry in wanted]
        labels = np.array([classes.index(entry["category"]) for entry in wanted])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{folder} is damaged: {error}", f"remove {folder} and fetch again") from error
    sheet = np.asarray(read_image(folder / "32.png", "RGBA"), dtype=np.float32) / 255
    shown = sheet[..., :3] * sheet[..., 3:] + (1 - sheet[..., 3:])
    step = _SIDE + 2 * _FRAME
    begins = [(row * step + _FRAME, column * step + _FRAME) for row, column in places]
    cut = [shown[y : y + _SIDE, x : x + _SIDE] for y, x in begins]
    if any(picture.shape != (_SIDE, _SIDE, 3) for picture in cut):
        raise ArtefactError(f"{folder}/32.png is too small for its list", f"remove {folder} and fetch again")
    images = np.stack(cut).transpose(0, 3, 1, 2)
    raw = from_arrays("emoji", (np.ascontiguousarray(images), labels), classes=classes, augment="flip")
    return dataclasses.replace(raw, fractions=(0.15, 0.25))
