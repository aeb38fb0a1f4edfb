"""`shape --elastic`: candidates are sub-networks of one supernet, written, read and resumed like others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from netwright import shaping, supernets
from netwright.errors import UsageError
from netwright.shaping import elastic_mode
from netwright.shaping.candidate import Candidate, Space
from netwright.shaping.elastic_mode import SubNetworks


def test_the_space_of_what_was_found_goes_both_ways() -> None:
    found = tuple(Candidate(share=s, choice=json.dumps({"width": s})) for s in (0.5, 0.25))
    space = SubNetworks(found=found)
    ladder = space.ladder()
    assert [c.dense for c in ladder] == [True, True, False, False, False, False]
    assert [c.bits for c in ladder] == [32, 8] * 3
    for candidate in ladder[2:]:
        params = space.params(candidate)
        assert space.candidate(params) == candidate
        assert params.keys() == space.distributions().keys()
    assert len({c.key for c in ladder}) == 3


def test_networks_of_older_studies_keep_their_names() -> None:
    candidate = Candidate(share=0.5)
    text = json.dumps({k: v for k, v in asdict(candidate).items() if k != "choice"}, sort_keys=True)
    assert candidate.key == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert replace(candidate, choice="{}").key != candidate.key


def test_costs_are_those_of_the_ladder_and_one_between_each_two() -> None:
    costs = elastic_mode._costs(Space(share=(0.05, 0.9), rungs=(0.5, 0.25, 0.01)))
    assert costs[:3] == [0.5, 0.25, 0.05]
    assert costs[3:] == pytest.approx([(0.5 * 0.25) ** 0.5, (0.25 * 0.05) ** 0.5], abs=1e-4)


def test_a_study_of_one_supernet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic_mode, "JUDGED", 2)
    monkeypatch.setattr(elastic_mode, "_costs", lambda space: [0.5, 0.25])
    settings = {"trials": 6, "epochs": 2, "recovery": 1, "limit": 200, "elastic": True, "out": tmp_path}
    front = shaping.shape("resnet8", "digits", device="cpu", **settings)
    cut = [r for r in front.records if not r.candidate.dense]
    assert len(cut) == 4 and all(r.outcome is not None and r.candidate.choice for r in cut)
    sup = supernets.load(tmp_path / "cache" / "supernet", model=front.model(front.dense))
    for record in cut:
        assert record.outcome is not None
        assert record.outcome.macs == sup.cost(json.loads(record.candidate.choice)).macs
    again = shaping.shape("resnet8", "digits", device="cpu", **settings)
    assert [n.name for n in again] == [n.name for n in front]
    read = shaping.read_front(tmp_path)
    network = next((n for n in read.networks if not n.candidate.dense), None)
    if network is not None:  # unless the dense ones beat all
        small = read.model(network)
        assert sum(p.numel() for p in small.parameters()) == network.outcome.params
        assert small(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prunes nothing"):
        shaping.shape("resnet8", "digits", elastic=True, choices={"importance": ["obs"]}, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
