from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netwright.cli import main
from netwright.errors import ArtefactError, UsageError
from netwright.metrics import LatencyTable, feed, latency_table, open_session
from netwright.metrics.alone import Single
from netwright.metrics.latency_table import Grid, interpolate
from netwright.metrics.operators import Size, block, follow, read_calls, rewritten
from netwright.metrics.table_source import candidates, telling
from netwright.quantization import export_onnx
from netwright.structure import Structure, shrink, trace
from netwright.structure.blocks import Parts


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, inner, 1)
        self.b = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.c = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c(self.b(self.a(x).relu()).relu())


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * 0.2).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.down(nn.functional.gelu(self.up(x)))


def convolutions() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), Block(64, 96), Block(64, 128)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), torch.randn(
        1, 3, 33, 33
    )


def transformer() -> tuple[nn.Module, Tensor]:
    embed, head = nn.Linear(12, 48), nn.Linear(48, 10)
    return nn.Sequential(embed, Attention(48, 4), Attention(48, 4), head), torch.randn(1, 9, 12)


NETS = {"convolutions": convolutions, "transformer": transformer}


def export(model: nn.Module, example: Any, path: Path) -> Path:
    return export_onnx(model, example, path, dynamic_batch=False, verify=False).path


def narrowed(net: Structure, step: int, seed: int, whole: bool = True) -> Tensor:
    """A keep mask by multiples of a step below the dense widths, single steps on narrow axes."""
    generator = torch.Generator().manual_seed(seed)
    keep = net.everything
    for axis in net.prunable:
        by = step if axis.size > 2 * step else 1
        most = (axis.size - 1) // by - (1 if by > 1 and not whole else 0)
        less = by * int(torch.randint(0, max(most, 0) + 1, (1,), generator=generator))
        keep[axis.cells[:, axis.size - less :]] = False
    return keep


def several(net: Structure) -> list[Tensor]:
    """Keep masks that tell the widths of a network apart."""
    parts, (_, counts) = Parts(net.prunable), candidates(net)
    step = torch.where(parts.levels >= 2 * block(), block(), 1)
    return [net.everything, *telling(net, parts, counts, parts.levels, step, 0)]


@pytest.fixture(scope="module", params=list(NETS))
def built(request: pytest.FixtureRequest) -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    model, example = NETS[request.param]()
    return model.eval(), trace(model.eval(), example)


def test_sizes_follow_the_widths_of_a_network_that_was_not_seen(
    built: tuple[nn.Module, Structure], tmp_path: Path
) -> None:
    model, net = built
    keeps = [*several(net), narrowed(net, block(), 1, whole=False)]
    paths = [
        export(shrink(model, net, keep).model if i else model, net.inputs.args, tmp_path / f"{i}.onnx")
        for i, keep in enumerate(keeps)
    ]
    feeds = [feed(open_session(path), net.inputs.args) for path in paths]
    _, counts = candidates(net)
    calls = read_calls(paths[:-1], feeds[:-1], np.stack([counts(keep) for keep in keeps[:-1]]), 1)
    assert any(call.slots for call in calls) and not any(call.unmatched for call in calls)
    unseen = rewritten(paths[-1], feeds[-1], 1)
    widths = counts(keeps[-1])
    assert len(unseen.nodes) == len(calls)
    named = {node.name: node for node in unseen.nodes}
    order = [node.name for node in rewritten(paths[0], feeds[0], 1).nodes]
    for call, name in zip(calls, order, strict=True):
        node = named[name]
        assert (call.kind.domain, call.kind.op) == (node.domain, node.op_type)
        mine = [int(widths[s]) for s in call.slots]
        for value, tensor in zip(call.kind.inputs, node.input, strict=True):
            if value.kind == "activation":
                assert tuple(s.at(mine) for s in value.shape) == unseen.tensors[tensor][1], (call, tensor)
            elif value.kind == "weight":
                assert tuple(s.at(mine) for s in value.shape) == unseen.weights[tensor].shape


def test_every_operator_runs_alone_at_other_widths(
    built: tuple[nn.Module, Structure], tmp_path: Path
) -> None:
    model, net = built
    keeps = several(net)
    paths = [
        export(shrink(model, net, keep).model if i else model, net.inputs.args, tmp_path / f"{i}.onnx")
        for i, keep in enumerate(keeps)
    ]
    feeds = [feed(open_session(path), net.inputs.args) for path in paths]
    _, counts = candidates(net)
    for call in read_calls(paths, feeds, np.stack([counts(keep) for keep in keeps]), 1):
        for widths in (call.kind.widths, [max(w // 2, 1) for w in call.kind.widths]):
            whole = [
                max(call.kind.step(i), w // call.kind.step(i) * call.kind.step(i))
                for i, w in enumerate(widths)
            ]
            if call.kind.op != "Reshape":
                Single(call.kind, whole, 1).run()


def test_a_table_predicts_what_was_measured(built: tuple[nn.Module, Structure], tmp_path: Path) -> None:
    model, net = built
    table = latency_table(model, net, export, checks=2, min_seconds=0.05)
    keeps = torch.stack([narrowed(net, 8, seed) for seed in range(6)] + [net.everything])
    times = table.predict(net, keeps)
    assert times.shape == (7,) and bool((times >= 0).all()) and bool(times.isfinite().all())
    one_by_one = torch.stack([table.predict(net, keep) for keep in keeps])
    assert torch.allclose(times, one_by_one, rtol=1e-12)
    assert len(table.checks) == 2 and table.error is not None
    assert table.checks[0].share == 1 and table.checks[1].share < 0.5
    assert table.checks[1].predicted_ms < table.checks[0].predicted_ms
    assert table.checks[1].ratio < 1  # and so it is
    assert table.unmatched == 0
    assert f"{table.checks[1].predicted_ms:.3f}" in str(table)
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert torch.equal(again.predict(net, keeps), times) and again.device == table.device
    with pytest.raises(UsageError, match="the network has"):
        table.predict(net, torch.ones(3, dtype=torch.bool))
    other = trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
    with pytest.raises(UsageError, match="measure a table of this network"):
        table.predict(other, other.everything)


def test_interpolation_is_exact_where_it_was_measured_and_linear_between() -> None:
    rows, columns = (8, 16, 32), (4, 12)
    times = np.arange(6.0).reshape(3, 2) ** 2
    grid = Grid("Conv", (rows, columns), times.tolist())
    at = np.array([[r, c] for r in rows for c in columns], dtype=np.float64)
    assert np.allclose(interpolate(grid, at), times.reshape(-1))
    middle = interpolate(grid, np.array([[12.0, 8.0], [24.0, 4.0]]))
    assert np.allclose(middle, [times[:2].mean(), times[1:, 0].mean()])
    blocked = Grid("Conv", (rows, columns), times.tolist(), block=4)
    assert np.allclose(
        interpolate(blocked, np.array([[13.0, 9.0]])), interpolate(grid, np.array([[16.0, 12.0]]))
    )
    assert interpolate(Grid("Relu", (), 0.5), np.zeros((3, 0))).tolist() == [0.5] * 3
    many = Grid("Odd", ((1, 2), (3, 6), (2, 4), (4, 8)), [1.0, 2.0])
    assert np.allclose(interpolate(many, np.array([[1.5, 4.5, 3.0, 6.0]])), [1.5])


def test_a_size_is_a_width_a_share_of_one_or_one_rounded_up() -> None:
    table = np.array([[48, 40], [24, 21], [36, 29]])
    slots: list[int] = []
    assert follow([7, 7, 7], table, slots) == Size(7) and slots == []
    assert follow([48, 24, 36], table, slots) == Size(1, 0) and slots == [0]
    assert follow([40, 20, 30], table, slots) == Size(5, 0, 6)  # a share of a width that is followed already
    assert follow([12, 6, 9], table, slots) == Size(1, 0, 4)
    assert follow([40, 24, 32], table, slots) == Size(1, 1, 1, 8) and slots == [0, 1]
    assert follow([1, 2, 4], table, slots) is None
    assert Size(5, 0, 6).at([24]) == 20 and Size(1, 1, 1, 8).at([0, 30]) == 32


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="cannot be read"):
        LatencyTable.load(tmp_path / "none.json")
    for text in ("", "{}", '{"version": 0}', '{"version": 1, "grids": 3}', "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ArtefactError, match=r"bad\.json is no latency table"):
            LatencyTable.load(tmp_path / "bad.json")


def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 5))\n"
    )
    file = tmp_path / "table.json"
    with pytest.raises(SystemExit) as ended:
        main(["measure", f"{tmp_path}/net.py:build", "--input-shape", "24", "--table", str(file), "--json"])
    assert ended.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(file) and found["device"]["threads"] == 1 and found["checks"]
    assert LatencyTable.load(file).dense_ms == found["dense_ms"]
    for wrong in (["--data", "digits"], ["--device", "cuda"], ["--runtime", "torch"]):
        with pytest.raises(SystemExit) as ended:
            main(["measure", "resnet8", "--table", str(file), *wrong])
        assert ended.value.code == 2
    assert "--table measures one model" in capsys.readouterr().err
