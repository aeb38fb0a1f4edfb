"""Find the smallest registered model of every timm module, and write the list that the battery reads.

Creates all of timm's models without weights (minutes); run it when timm is updated.

    python benchmarks/smallest.py
"""

from __future__ import annotations

import json
import sys
import warnings

import timm
import torch
from battery.timm_nets import SMALLEST
from torch import nn

#: Image sizes that are tried, small ones first: multiples of the usual strides and patches.
_SIDES = (96, 98, 112, 128)


def create(name: str) -> nn.Module:
    """A model without weights, or with random ones where its construction needs values."""
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except Exception:  # whatever a constructor that reads values says
        return timm.create_model(name)


def side(name: str) -> int:
    """The image size to use: small where the model takes it, otherwise its own."""
    model = timm.create_model(name).eval()
    own = int(model.default_cfg["input_size"][-1])
    channels = model.default_cfg["input_size"][0]
    if model.default_cfg.get("fixed_input_size"):
        return own
    for size in _SIDES:
        try:
            with torch.no_grad():
                model(torch.randn(1, channels, size, size))
        except (RuntimeError, AssertionError, ValueError, TypeError):
            continue
        return min(size, own)
    return own


def main() -> None:
    """Write the list."""
    warnings.simplefilter("ignore")
    found: dict[str, tuple[str, int, int]] = {}
    for module in timm.list_modules():
        sizes = {n: sum(p.numel() for p in create(n).parameters()) for n in timm.list_models(module=module)}
        name = min(sizes, key=lambda n: (sizes[n], n))
        found[module] = (name, sizes[name], side(name))
        print(module, *found[module], file=sys.stderr, flush=True)
    rows = [f"  {json.dumps(module)}: {json.dumps(entry)}" for module, entry in found.items()]
    SMALLEST.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
