"""Costs: thousands of choices priced at once, and multiply-accumulates against torch's own counter.

The first part prices random widths of ResNet-50 without building a network, and builds some of them to see
that the prices are right. The second compares the dense networks of the battery with half of what
`torch.utils.flop_counter` counts, operator by operator, and prints every difference with the operators that
make it.

    python benchmarks/costs.py [--settings 10000] [--sample 50] [--json FILE] [--sets timm,...] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from netwright.structure import Inputs, Structure, shrink, trace
from netwright.structure.copying import clone
from netwright.structure.inputs import to_meta

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.battery import SETS, Case, battery


def random_keeps(net: Structure, settings: int, seed: int = 0) -> Tensor:
    """Random choices: for every axis its own width from 1 to all, and its members at random.

    Args:
        net: The structure; axes whose cells have one size and keep one count.
        settings: How many.
        seed: Of the generator.

    Returns:
        (settings, count) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    keep = net.everything.repeat(settings, 1)
    for axis in net.prunable:
        size = axis.size
        width = torch.randint(1, size + 1, (settings, 1), generator=generator)
        for cell in axis.cells:
            rank = torch.rand(settings, size, generator=generator).argsort(dim=1).argsort(dim=1)
            keep[:, cell] = rank < width
    return keep


def many(settings: int, sample: int) -> dict[str, Any]:
    """Price random widths of ResNet-50; build a sample and compare every figure."""
    import torchvision

    model, example = torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224)
    net = trace(model, example)
    keep = random_keeps(net, settings)
    times = []
    for _ in range(4):
        begun = time.process_time()
        table = net.costs(keep)
        times.append(time.process_time() - begun)
    picked = torch.linspace(0, settings - 1, min(sample, settings)).long().tolist()
    wrong = []
    for i in picked:
        again = trace(shrink(model, net, keep[i]).model, example)
        if table[i].tolist() != [again.macs, again.params, again.activation_bytes]:
            wrong.append(i)
    assert len({tuple(row) for row in table[picked].tolist()}) > len(picked) // 2  # they do differ
    return {
        "settings": settings,
        "first_seconds": times[0],
        "seconds": statistics.median(times[1:]),
        "compared": len(picked),
        "different": len(wrong),
        "macs": [int(table[:, 0].min()), int(table[:, 0].max())],
    }


def counted(model: nn.Module, inputs: Inputs) -> Counter[str]:
    """Multiply-accumulates by operator as torch counts them, of a forward pass without values."""
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        try:
            with torch.no_grad(), counter:
                to_meta(inputs).call(clone(model).eval().requires_grad_(False))
        except Exception:  # its Python needs values
            counter = FlopCounterMode(display=False)
            # Its counter knows attention as products only, not as processors' fused operator.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
                inputs.call(clone(model, None).eval().requires_grad_(False))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    total = counter.get_flop_counts().get("Global", {})
    found: Counter[str] = Counter()
    for operator, flops in total.items():
        assert flops % 2 == 0
        found[str(operator).rpartition(".")[2]] += flops // 2
    return found


#: Operators that two counts name differently for the same work: a matrix product with or without an addend.
_SAME = {"addmm": "mm", "baddbmm": "bmm", "_scaled_dot_product_flash_attention_for_cpu": "bmm"}


def compare(case: Case) -> dict[str, Any]:
    """Both counts of one network, of the whole batch."""
    torch.manual_seed(0)
    model, example = case.build()
    inputs = Inputs.of(example)
    net = trace(model.eval(), inputs)
    theirs = counted(model, inputs)
    ours: Counter[str] = Counter()
    for operator in net._costs.operators(net.everything, whole=True):
        ours[operator.kind] += operator.macs
    row: dict[str, Any] = {"network": case.id, "ours": ours.total(), "torch": theirs.total()}
    if row["ours"] != row["torch"]:
        difference: Counter[str] = Counter()
        for kind, value in ours.items():
            difference[_SAME.get(kind, kind)] += value
        for kind, value in theirs.items():
            difference[_SAME.get(kind, kind)] -= value
        row["cause"] = {kind: value for kind, value in difference.items() if value}
    return row


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="networks of the battery; all of the sets without any")
    parser.add_argument("--settings", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=50)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    document: dict[str, Any] = {}
    if options.settings:
        row = document["many"] = many(options.settings, options.sample)
        print(
            f"resnet50: {row['settings']:,} choices priced in {row['seconds']:.2f} CPU s (the first time "
            f"{row['first_seconds']:.2f}); {row['different']} of {row['compared']} networks built from them "
            f"cost something else"
        )
    rows: list[dict[str, Any]] = []
    cases = battery(name for name in options.sets.split(",") if name)
    for case in cases:
        if options.names and case.name not in options.names:
            continue
        try:
            row = compare(case)
        except Exception as error:  # a network that does not run says so, and the others go on
            row = {"network": case.id, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        rows.append(row)
        if "error" in row or "cause" in row:
            print(f"{row['network']:<44} {row.get('error') or _difference(row)}", flush=True)
    document["networks"] = rows
    agree = sum("error" not in row and "cause" not in row for row in rows)
    if rows:
        print(f"{agree} of {len(rows)} networks have the multiply-accumulates that torch counts")
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _difference(row: dict[str, Any]) -> str:
    parts = ", ".join(f"{kind} {value:+,}" for kind, value in row["cause"].items())
    return f"{row['ours']:,} against {row['torch']:,}: {parts}"


if __name__ == "__main__":
    main()
