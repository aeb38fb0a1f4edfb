"""The last stage: measure the front's files in turn, look at the test examples once, lay out the models.

Everything measured here goes to ``final.json`` first, so that a resumed run repeats no measurement and
never looks at a test example twice.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright import _files
from netwright.shaping.candidate import Candidate
from netwright.shaping.dominance import AnswersOf, worth_having
from netwright.shaping.front import Front, Shaped, choose, missed
from netwright.shaping.propose import Record
from netwright.shaping.state import Folder
from netwright.structure.budget import Budget

if TYPE_CHECKING:
    from torch import nn


Measure = Callable[[Mapping[str, Path], str], dict[str, dict[str, Any]]]
Test = Callable[[Path], dict[str, Any]]


def name_of(record: Record) -> str:
    """The name of a network's files."""
    candidate = record.candidate
    bits = "int8" if candidate.bits == 8 else "fp32"
    if candidate.dense:
        return f"dense-{bits}"
    return f"t{record.slot:02d}-{candidate.metric}{round(candidate.share * 100)}-{bits}"


def finish(
    folder: Folder,
    records: Sequence[Record],
    budget: Budget,
    info: dict[str, Any],
    *,
    measure: Measure,
    test: Test,
    answers: AnswersOf = lambda _: None,
    loader: Callable[[Shaped], nn.Module] | None = None,
    note: Callable[[str], None] | None = None,
) -> Front:
    """Measure and test the front and the dense networks, and write front.csv, front.json and models/.

    Args:
        folder: The study's folder.
        records: Finished trials.
        budget: What was asked for.
        info: What the report says about the run.
        measure: Times files (name -> path) in turn against the named baseline; one JSON object each.
        test: Quality of a file on the test examples, as a JSON object.
        answers: A trial's answers to the validation examples; None where they are not known.
        loader: Rebuilds the PyTorch network of an entry.
        note: Told what is being done.
    """
    say = note or (lambda _: None)
    members = {m.record.slot: m for m in worth_having(records, answers)}
    front = [m.record for m in members.values()]
    dense = [r for r in records if r.outcome is not None and r.candidate.dense]
    chosen = {name_of(r): r for r in (*front, *dense)}
    files = {name: folder.path / r.outcome.file for name, r in chosen.items() if r.outcome is not None}
    say(f"measuring {len(files)} files in turn")
    latency = _measured(folder, files, measure)
    networks = []
    for name, record in chosen.items():
        if record.outcome is None:
            continue
        say(f"testing {name}")
        member = members.get(record.slot)
        networks.append(
            Shaped(
                name=name,
                slot=record.slot,
                candidate=record.candidate,
                outcome=record.outcome,
                latency=latency[name],
                test=_tested(folder, record, test),
                folder=folder.path,
                on_front=member is not None,
                reasons=member.reasons if member else (),
                like=name_of(member.like) if member and member.like else None,
            )
        )
    networks.sort(key=lambda n: (n.outcome.cost, n.slot))
    result = _judged(networks, budget, records, info, folder, loader)
    say("writing the models")
    _lay_out(folder, result)
    write(folder, result)
    return result


def _judged(
    networks: list[Shaped],
    budget: Budget,
    records: Sequence[Record],
    info: dict[str, Any],
    folder: Folder,
    loader: Callable[[Shaped], nn.Module] | None,
) -> Front:
    dense = next(n for n in networks if n.candidate == Candidate())
    pick = choose([n for n in networks if n.on_front], budget, dense)
    judged = [replace(n, misses=missed(n, budget, dense), recommended=n is pick) for n in networks]
    return Front(judged, budget, sorted(records, key=lambda r: r.slot), info, folder.path, loader)


def _stored(folder: Folder) -> dict[str, Any]:
    path = folder.path / "final.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _measured(folder: Folder, files: Mapping[str, Path], measure: Measure) -> dict[str, dict[str, Any]]:
    """Latencies of a set of files. They are measured together, in turn; a changed set is measured anew."""
    stored = _stored(folder)
    text = json.dumps({name: str(p.relative_to(folder.path)) for name, p in files.items()}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if stored.get("set") != key:
        values = measure(files, "dense-fp32")
        stored = {**stored, "set": key, "latency": values}
        _files.write_json(folder.path / "final.json", stored)
    return dict(stored["latency"])


def _tested(folder: Folder, record: Record, test: Test) -> dict[str, Any]:
    stored = _stored(folder)
    seen = stored.setdefault("test", {})
    assert record.outcome is not None
    file = record.outcome.file
    if file not in seen:
        seen[file] = test(folder.path / file)
        _files.write_json(folder.path / "final.json", stored)
    return dict(seen[file])


def _lay_out(folder: Folder, front: Front) -> None:
    """Copy the networks worth having to models/, with what rebuilds them; remove an earlier front's."""
    wanted: set[str] = set()
    for network in front.networks:
        source = folder.cache(network.candidate.key)
        pairs = {folder.path / network.outcome.file: f"{network.name}.onnx"}
        pairs |= {source / "model.safetensors": f"{network.name}.safetensors"}
        pairs |= {source / "kept.json": f"{network.name}.json"}
        for path, name in pairs.items():
            if path.exists():
                wanted.add(name)
                _copy(path, folder.models / name)
    _files.write_text(folder.models / "README.md", how_to_load(front))
    for path in folder.models.iterdir():
        if path.name not in wanted and path.suffix in (".onnx", ".safetensors", ".json"):
            path.unlink()


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        if target.read_bytes() == source.read_bytes():
            return
    with _files.atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def how_to_load(front: Front) -> str:
    """The text of models/README.md."""
    pick = front.recommended or front.nearest
    shape = ", ".join(str(v) for v in front.info.get("shape", []))
    rows = "\n".join(
        f"| {n.name} | {n.quality:.2%} | {n.latency_ms:.3f} ms | {n.outcome.macs / 1e6:.2f} M "
        f"| {n.outcome.size / 1e3:.0f} kB |"
        for n in front.networks
    )
    return f"""# Networks of this study

| network | {front.info.get("quality", "test accuracy")} | latency | MACs | file |
|---|---|---|---|---|
{rows}

Each input is a float32 array (batch, {shape}), normalised as the training data were.

## ONNX Runtime

```python
{onnx_snippet(pick.name, front.info)}
```

## PyTorch

```python
{torch_snippet(pick.name, front.info)}
```

`NAME.safetensors` holds the weights in floating point (for an int8 network, those it was quantised from);
`NAME.json` says which channels of the original network stayed.
"""


def onnx_snippet(name: str, info: Mapping[str, Any]) -> str:
    """Lines that run an exported file."""
    shape = ", ".join(str(v) for v in info.get("shape", []))
    return (
        "import numpy as np, onnxruntime as ort\n\n"
        f'session = ort.InferenceSession("models/{name}.onnx")\n'
        f"x = np.zeros((1, {shape}), np.float32)  # a normalised example\n"
        "(logits,) = session.run(None, {session.get_inputs()[0].name: x})"
    )


def torch_snippet(name: str, info: Mapping[str, Any]) -> str:
    """Lines that rebuild a network in PyTorch."""
    return (
        "import netwright as nw\n\n"
        f'front = nw.read_front(".")  # the study\'s folder\n'
        f'model = front.model("{name}")'
    )


_COLUMNS = (
    "name",
    "trial",
    "on_front",
    "recommended",
    "bits",
    "macs",
    "params",
    "bytes",
    "validation_accuracy",
    "validation_agreement",
    "test_accuracy",
    "test_agreement",
    "predicted_cost",
    "like",
)
_MEASURED = ("median_ms", "q1_ms", "q3_ms", "ratio")


def write(folder: Folder, front: Front) -> None:
    """Write front.csv and front.json."""
    _files.write_json(folder.path / "front.json", front.to_json())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"latency_{m}" for m in _MEASURED)])
    for network in front.networks:
        row = network.to_json()
        writer.writerow([*(row[c] for c in _COLUMNS), *(network.latency.get(m) for m in _MEASURED)])
    _files.write_text(folder.path / "front.csv", text.getvalue())
