"""The exhaustive tables: that they can be rebuilt, and that what they say is what a training gives."""

from __future__ import annotations

import random

import pytest
import torch
from typer.testing import CliRunner

from netwright.cli.app import build as application
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models.zoo.cell_net import cell_paths
from netwright.models.zoo.pooled_resnet import POOLING_SPACES
from netwright.nas import TabularBench
from netwright.papers import benches as built
from netwright.papers.supernet_cells import cell_supernet
from netwright.structure import trace
from netwright.train import Recipe


def test_the_spaces_are_those_of_the_networks():
    sizes = {name: built.BENCHES[name].space.size() for name in ("pool-15", "cell-64", "macro-81")}
    assert sizes == {"pool-15": 15, "cell-64": 64, "macro-81": 81}
    pools = {tuple(m + 1 for m in c["pools"]) for c in built.BENCHES["pool-15"].space.enumerate()}
    assert pools == set(POOLING_SPACES["pool-15"].positions)
    cells = [tuple(c.values()) for c in built.BENCHES["cell-64"].space.enumerate()]
    assert set(cells) == set(cell_paths())


def test_the_supernet_of_cells_has_the_tables_space_and_costs():
    sup, bench = cell_supernet(0), built.BENCHES["cell-64"]
    assert sup.space == bench.space
    example = torch.zeros(2, 1, 14, 14)
    for choice in list(bench.space.enumerate())[::21]:
        net = trace(bench.build(choice), example)
        assert sup.cost(choice) == net.cost(net.everything)


@pytest.fixture
def quick(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 14, 14, generator=generator)
    part = Part.from_tensors(x, torch.arange(40) % 10)
    monkeypatch.setattr(built, "bench_data", lambda: Splits("t", part, part, part, tuple("0123456789")))
    monkeypatch.setattr(built, "RECIPE", Recipe(epochs=1, batch_size=40, lr=0.1, precision="fp32"))


def test_a_table_that_was_begun_is_gone_on_with(quick, tmp_path, monkeypatch):
    whole = built.build("pool-15", tmp_path / "a.json", seeds=(0, 1))
    assert whole.whole and whole.seeds == (0, 1) and whole == TabularBench.read(tmp_path / "a.json")
    done = []
    real = built.train_entry

    def breaks(bench, choice, seed, data):
        done.append((choice, seed))
        if len(done) == 21:
            raise KeyboardInterrupt
        return real(bench, choice, seed, data)

    monkeypatch.setattr(built, "train_entry", breaks)
    with pytest.raises(KeyboardInterrupt):
        built.build("pool-15", tmp_path / "b.json", seeds=(0, 1))
    assert not (tmp_path / "b.json").exists()
    again = built.build("pool-15", tmp_path / "b.json", seeds=(0, 1))
    assert again.entries == whole.entries
    assert len(done) == 21 + 10  # the 20 that were done were kept
    more = built.build("pool-15", tmp_path / "b.json", seeds=(0, 1, 2))
    assert len(done) == 31 + 15 and [e.accuracies[:2] for e in more.entries] == [
        e.accuracies for e in whole.entries
    ]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_the_command_builds_and_lists(quick, tmp_path):
    path = tmp_path / "t.json"
    result = CliRunner().invoke(application(), ["bench", "build", "pool-15", "-o", str(path), "--seeds", "2"])
    assert result.exit_code == 0 and "15 networks, 2 seeds, noise ceiling" in result.output
    listed = CliRunner().invoke(application(), ["bench", "list"])
    assert listed.exit_code == 0 and all(name in listed.output for name in built.BENCHES)
    with pytest.raises(UsageError, match="no bench 'pool-16'"):
        built.find("pool-16")


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(built.BENCHES))
def test_an_entry_of_each_table_is_what_a_training_gives(name):
    """The same number where the table was made with the same instructions and version of torch.

    Elsewhere sums are rounded otherwise, and a training is as far away as one with another seed: 5 standard
    deviations of a difference of two.
    """
    table, bench = TabularBench.load(name), built.BENCHES[name]
    draw = random.Random(name)
    entry, seed = draw.choice(table.entries), draw.choice(table.seeds)
    found = built.train_entry(bench, entry.choice, seed, built.bench_data())
    known = entry.accuracies[table.seeds.index(seed)]
    same = table.made == built.made_here()
    assert found == pytest.approx(known, abs=1e-6 if same else 5 * 2**0.5 * table.noise)
    net = trace(bench.build(entry.choice), torch.zeros(2, 1, 14, 14))
    cost = net.cost(net.everything)
    assert (cost.macs, cost.params) == (entry.macs, entry.params)
    assert table.settings == built.settings(bench)
