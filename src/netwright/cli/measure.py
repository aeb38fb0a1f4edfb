"""`netwright measure`, `netwright quantize` and `netwright export`: files and their numbers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netwright.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from netwright.data import Splits

_SUFFIX = ".onnx"
_RUNTIMES = ("onnxruntime", "torch")
_SEED = 0


@dataclass(frozen=True)
class _Net:
    """A network as the user named it: a file, or a module from the zoo or a Python file."""

    name: str
    net: Path | nn.Module

    @property
    def is_file(self) -> bool:
        return isinstance(self.net, Path)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(measure)
    app.command()(quantize)
    app.command()(export)


def measure(
    network: str = typer.Argument(
        ..., metavar="FILE_OR_MODEL", help="net.onnx, a model's name, or file.py:callable."
    ),
    against: str | None = typer.Option(None, help="Baseline that is measured in turn."),
    data: str | None = typer.Option(None, help="Data to measure accuracy on, or agreement where unlabelled."),
    threads: int = typer.Option(1, min=1, help="Threads inside an operator."),
    runs: int = typer.Option(30, min=1, help="Timed runs at least (and one second at least)."),
    batch: int = typer.Option(1, min=1, help="Examples of one run."),
    runtime: str | None = typer.Option(None, help="onnxruntime (a model is exported first) or torch."),
    input_shape: str | None = typer.Option(None, help="Shape of one example, for instance 3,224,224."),
    weights: Path | None = typer.Option(None, help="Weights of FILE_OR_MODEL where it is a model."),
    trust: bool = typer.Option(False, help="Allow files that run code when they are loaded."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    table: Path | None = typer.Option(
        None, help="Instead: measure a model's operators at several widths, and write a latency table."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Measure latency, peak memory, file size and, with data, accuracy of exported networks and models."""
    from netwright.metrics import latencies, net_memory

    if table is not None:
        if against is not None or data is not None or runtime == "torch" or device != "cpu":
            raise UsageError(
                "--table measures one model in ONNX Runtime on the processor",
                "leave out --against, --data, --runtime and --device",
            )
        _table(network, table, parse_shape(input_shape), weights, trust, threads, as_json)
        return
    if runtime is not None and runtime not in _RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is unknown", f"choose from {', '.join(_RUNTIMES)}")
    shape = parse_shape(input_shape)
    splits = _load_data(data, trust)
    nets = [_open(network, splits, shape, weights, trust)]
    if against is not None:
        nets.append(_open(against, splits, shape, None, trust))
    example = _example(nets[0], splits, shape, batch)
    with tempfile.TemporaryDirectory(prefix="netwright-measure-") as folder:
        if runtime == "onnxruntime":
            nets = [_exported(net, example, Path(folder) / f"{i}{_SUFFIX}") for i, net in enumerate(nets)]
        elif runtime == "torch" and (files := [n.name for n in nets if n.is_file]):
            raise UsageError(f"{files[0]} is an ONNX file and does not run in torch", "leave out --runtime")
        keys = [f"{i}" for i in range(len(nets))]
        times = latencies(
            {k: n.net for k, n in zip(keys, nets, strict=True)},
            example,
            baseline=keys[1] if against is not None else None,
            threads=threads,
            min_runs=runs,
            device=device,
        )
        rows = []
        for key, net in zip(keys, nets, strict=True):
            row = {"name": net.name, "latency": times[key].to_dict(), "bytes": _size(net)}
            row["memory"] = net_memory(net.net, example, threads=threads, device=device).to_dict()
            rows.append(row | _quality(net, nets[-1] if net is not nets[-1] else None, splits, threads))
    if as_json:
        print(json.dumps({"networks": rows}, indent=2))
    else:
        _show(rows)


def _table(
    network: str,
    path: Path,
    shape: tuple[int, ...] | None,
    weights: Path | None,
    trust: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Measure a latency table, write it, and show how far it is from whole networks."""
    from netwright import structure
    from netwright.metrics import latency_table
    from netwright.quantization import export_onnx

    net = _open(network, None, shape, weights, trust)
    if isinstance(net.net, Path):
        raise UsageError(
            f"{network} is an ONNX file, whose widths cannot be changed here",
            "give a model's name or file.py:callable",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "give the name of a file with --table")
    found = latency_table(
        net.net,
        structure.trace(net.net, _example(net, None, shape, 1)),
        lambda model, example, file: export_onnx(model, example, file, dynamic_batch=False, verify=False),
        threads=threads,
    )
    found.save(path)
    if as_json:
        checks = [{**vars(c), "error": c.error} for c in found.checks]
        document = {"output": str(path), "device": found.device, "dense_ms": found.dense_ms, "checks": checks}
        print(json.dumps(document, indent=2))
    else:
        print(found)
        print(f"\nwritten: {path}")


def quantize(
    network: Path = typer.Argument(..., metavar="net.onnx", help="An ONNX file in floating point."),
    data: str = typer.Option(..., help="Data to calibrate with."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Default: NET.int8.onnx beside the file."
    ),
    calibration: int = typer.Option(256, min=1, help="Training examples to calibrate with."),
    method: str = typer.Option("minmax", help="minmax, percentile or entropy."),
    threads: int = typer.Option(1, min=1, help="Threads inside an operator, for the comparison."),
    trust: bool = typer.Option(False, help="Allow data loaders from a Python file."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Write an integer (QDQ) version of an ONNX network, calibrated on data, and compare the two."""
    import torch

    from netwright.metrics import latencies
    from netwright.quantization import quantize_onnx

    target = output or network.with_name(f"{network.stem}.int8{_SUFFIX}")
    if target.resolve() == network.resolve():
        raise UsageError(f"the output {target} is the input", "choose another name with -o")
    splits = _load_data(data, trust)
    assert splits is not None
    # Drawn, not the first: data sets are often sorted by class.
    generator = torch.Generator().manual_seed(_SEED)
    batches = splits.train.batches(32, shuffle=True, generator=generator, limit=calibration)
    quantize_onnx(network, target, batches, calibrate=method)  # type: ignore[arg-type]
    nets = [_Net(str(target), target), _Net(str(network), network)]
    example = _example(nets[1], splits, None, 1)
    times = latencies({n.name: n.net for n in nets}, example, baseline=nets[1].name, threads=threads)
    rows = []
    for net in nets:
        row = {"name": net.name, "latency": times[net.name].to_dict(), "bytes": _size(net)}
        rows.append(row | _quality(net, nets[1] if net is nets[0] else None, splits, threads))
    if as_json:
        print(json.dumps({"output": str(target), "method": method, "networks": rows}, indent=2))
    else:
        _show(rows)


def export(
    model: str = typer.Argument(..., metavar="MODEL", help="A model's name, or file.py:callable."),
    output: Path = typer.Option(..., "-o", "--output", help="The ONNX file to write."),
    weights: Path | None = typer.Option(None, help="Weights to load (safetensors)."),
    input_shape: str | None = typer.Option(None, help="Shape of one example, for instance 3,224,224."),
    num_classes: int | None = typer.Option(None, min=1, help="Classes of the model."),
    opset: int | None = typer.Option(None, help="Version of the ONNX operators."),
    fixed_batch: int | None = typer.Option(None, min=1, help="Export for this batch size only."),
    trust: bool = typer.Option(False, help="Allow weights that run code when they are loaded."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Export a model to ONNX and check its answers against PyTorch."""
    from netwright.quantization import export_onnx

    if model.endswith(_SUFFIX):
        raise UsageError(f"{model} is an ONNX file already", "give a model's name or file.py:callable")
    shape = parse_shape(input_shape)
    net = _open(model, None, shape, weights, trust, num_classes)
    assert not isinstance(net.net, Path)
    example = _example(net, None, shape, fixed_batch or 2)
    done = export_onnx(net.net, example, output, opset=opset, dynamic_batch=fixed_batch is None)
    facts = {
        "output": str(done.path),
        "opset": done.opset,
        "bytes": done.bytes,
        "max_abs_diff": done.max_abs_diff,
        "exporter": done.exporter,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(
            f"{done.path}: {format_bytes(done.bytes)}, opset {done.opset}, "
            f"differs from PyTorch by at most {done.max_abs_diff:.1g}"
        )


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Read the shape of one example, ``3,224,224`` or ``3x224x224``.

    Raises:
        UsageError: if it is no list of positive whole numbers.
    """
    if text is None:
        return None
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise UsageError(f"input shape {text!r} is not understood", "write it as 3,224,224")
    return tuple(int(size) for size in sizes)


def format_bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _load_data(spec: str | None, trust: bool) -> Splits | None:
    if spec is None:
        return None
    from netwright.data import load

    return load(spec, trust=trust)


def _open(
    spec: str,
    splits: Splits | None,
    shape: Sequence[int] | None,
    weights: Path | None,
    trust: bool,
    num_classes: int | None = None,
) -> _Net:
    """Open what the user named; a module is built for the classes and channels of the data."""
    if spec.endswith(_SUFFIX):
        from netwright.metrics import open_session

        open_session(spec)
        return _Net(spec, Path(spec))
    from netwright.models import input_channels, load

    if splits is not None:
        shape = splits.shape
        num_classes = splits.num_classes if splits.labelled else num_classes
    channels = input_channels(tuple(shape)) if shape is not None else 3
    loaded = load(spec, num_classes=num_classes, in_channels=channels, weights=weights, trust=trust)
    return _Net(loaded.name, loaded.model.eval())


def _example(
    net: _Net, splits: Splits | None, shape: Sequence[int] | None, batch: int
) -> Tensor | Mapping[str, Tensor]:
    """Return one batch: of the data, of the shape given, or of the shape the network states."""
    import torch

    if splits is not None:
        x = splits.example(batch)
        return x if len(x) == batch else x[torch.arange(batch) % len(x)]
    if not isinstance(net.net, Path):
        from netwright.models import natural_example

        return natural_example(net.net, batch, shape, _SEED)
    if shape is None:
        return _declared(net.net, batch)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(_SEED))


def _declared(path: Path, batch: int) -> dict[str, Tensor]:
    """Return a batch for every input of an ONNX file, from the shapes it declares; integers are zeros."""
    import torch

    from netwright.metrics import open_session

    generator = torch.Generator().manual_seed(_SEED)
    example = {}
    for declared in open_session(path).get_inputs():
        sizes = [batch if i == 0 and not isinstance(s, int) else s for i, s in enumerate(declared.shape)]
        if not all(isinstance(s, int) for s in sizes):
            raise UsageError(f"input {declared.name!r} of {path} has no fixed shape", "give --input-shape")
        real = declared.type in ("tensor(float)", "tensor(float16)", "tensor(double)")
        example[declared.name] = torch.randn(sizes, generator=generator) if real else torch.zeros(sizes)
    return example


def _exported(net: _Net, example: Tensor | Mapping[str, Tensor], path: Path) -> _Net:
    if isinstance(net.net, Path):
        return net
    from netwright.quantization import export_onnx

    return _Net(net.name, export_onnx(net.net, example, path).path)


def _size(net: _Net) -> int:
    """Return the bytes of a file, or of a module's parameters and buffers."""
    if isinstance(net.net, Path):
        from netwright.metrics import file_bytes

        return file_bytes(net.net)
    return sum(t.numel() * t.element_size() for t in (*net.net.parameters(), *net.net.buffers()))


def _quality(net: _Net, reference: _Net | None, splits: Splits | None, threads: int) -> dict[str, Any]:
    """Return accuracy with its 95 % interval where there are labels, and agreement with a reference."""
    if splits is None:
        return {}
    from netwright.metrics import accuracy_interval, agreement, onnx_accuracy
    from netwright.train import evaluate

    quality: dict[str, Any] = {}
    if splits.test.labelled:
        part = splits.test
        score = (
            onnx_accuracy(net.net, part, threads=threads)
            if isinstance(net.net, Path)
            else evaluate(net.net, part)
        )
        low, high = accuracy_interval(score.correct, score.count)
        quality["accuracy"] = {"value": score.accuracy, "low": low, "high": high, "count": score.count}
    if reference is not None:
        answers = [_answers(n, splits, threads) for n in (reference, net)]
        quality["agreement"] = agreement(*answers).to_dict() | {"with": reference.name}
    return quality


def _answers(net: _Net, splits: Splits, threads: int) -> Tensor:
    from netwright.metrics import onnx_logits
    from netwright.train import logits

    if isinstance(net.net, Path):
        return onnx_logits(net.net, splits.test, threads=threads)
    return logits(net.net, splits.test)


def _show(rows: list[dict[str, Any]]) -> None:
    """Print a table on stdout, a column a network: it fits narrow terminals."""
    from rich.console import Console
    from rich.table import Table

    first = rows[0]["latency"]
    threads = f"{first['threads']} thread{'s' if first['threads'] > 1 else ''}"
    table = Table(
        caption=f"batch {first['batch']}, {threads}, {first['device']}; quartiles and 95 % in brackets"
    )
    table.add_column("")
    for row in rows:
        table.add_column(row["name"], overflow="fold")
    for label, key, show in _LINES:
        if any(row.get(key) is not None for row in rows):
            cells = [show(row[key]) if row.get(key) is not None else "" for row in rows]
            if any(cells):
                table.add_row(label, *cells)
    Console(file=sys.stdout).print(table)


def _ratio(latency: dict[str, Any]) -> str:
    if latency["ratio"] is None:
        return ""
    return "{ratio:.3f} [{ratio_q1:.3f}, {ratio_q3:.3f}]".format(**latency)


_LINES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("runtime", "latency", lambda v: v["runtime"]),
    ("milliseconds", "latency", lambda v: "{median_ms:.3f} [{q1_ms:.3f}, {q3_ms:.3f}]".format(**v)),
    ("timed runs", "latency", lambda v: str(v["runs"])),
    ("time by baseline's", "latency", _ratio),
    ("size", "bytes", format_bytes),
    ("peak memory", "memory", lambda v: format_bytes(v["bytes"])),
    ("accuracy", "accuracy", lambda v: "{value:.2%} [{low:.2%}, {high:.2%}]".format(**v)),
    ("same first answer", "agreement", lambda v: f"{v['top1']:.2%}"),
    ("error of logits", "agreement", lambda v: f"{v['relative_error']:.2%}"),
)
