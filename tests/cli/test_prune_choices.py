"""`netwright prune` with its choices: masks, schedules, fresh weights, distillation; as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import netwright as nw
from netwright import pruning
from netwright.cli import main
from netwright.models import ResNetCifar
from netwright.pruning import MaskState
from netwright.pruning.allocations.density_allocation import names as channel_allocations
from netwright.pruning.schedules.cycles import list_cycles
from netwright.pruning.schedules.schedule import list_schedules

NET = """
import torch
from torch import nn

def build(num_classes=10, in_channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
#: Weights of the convolutions and the classifier.
TOTAL = 8 * 9 + 8 * 8 * 9 + 80


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return str(path)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"epochs": 1, "batch_size": 32, "limit": 128, "lr": 0.05}))
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code = run(*arguments, "--json")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found: dict[str, Any] = json.loads(printed.out)
    return found


def kept(found: dict[str, Any]) -> int:
    return sum(row["kept"] for row in found["layers"])


@pytest.mark.parametrize("granularity", ["weight", "row", "column", "kernel", "block:2x2"])
def test_finer_granularities_mask(granularity, file, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    found = document(
        capsys, "prune", file + ":build", "--keep", 0.5, "--granularity", granularity,
        "--input-shape", "1,8,8", "-o", out,
    )  # fmt: skip
    assert sum(row["total"] for row in found["layers"]) == TOTAL
    assert kept(found) <= TOTAL / 2
    if granularity == "weight":
        assert kept(found) == TOTAL // 2
    saved = load_file(out)
    for row in found["layers"]:
        mask = saved[f"_nw_mask.{row['layer']}"]
        assert int(mask.sum()) == row["kept"]
        assert not bool(saved[row["layer"]][~mask].any())


def test_a_pattern_says_itself_how_much_stays(file, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    found = document(
        capsys, "prune", file + ":build", "--granularity", "2:4", "--input-shape", "1,8,8", "-o", out
    )
    mask = load_file(out)["_nw_mask.3.weight"]
    assert bool((mask.reshape(8, 2, 4, 9).sum(dim=2) == 2).all())
    assert any("stay whole: 0.weight" in note for note in found["notes"])


def test_masked_weights_load_into_a_network(file, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    document(
        capsys, "prune", file + ":build", "--keep", 0.2, "--granularity", "weight", "--allocate", "erk",
        "--input-shape", "1,8,8", "-o", out,
    )  # fmt: skip
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    model = namespace["build"]()
    state = MaskState.load(model, load_file(out))
    assert state is not None
    assert sum(state.kept.values()) == round(0.2 * TOTAL)


def test_a_folder_holds_masks_as_bits_and_loads(file, tmp_path, capsys):
    out = tmp_path / "small"
    found = document(
        capsys, "prune", file + ":build", "--keep", 0.1, "--granularity", "weight", "--input-shape", "1,8,8",
        "-o", out,
    )  # fmt: skip
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    loaded = nw.load(out, namespace["build"]())
    state = MaskState.of(loaded)
    assert state is not None
    assert sum(state.kept.values()) == kept(found) == round(0.1 * TOTAL)


def test_an_onnx_file_has_the_zeros(file, tmp_path, capsys):
    out, weights = tmp_path / "net.onnx", tmp_path / "w.safetensors"
    for target in (out, weights):
        document(
            capsys, "prune", file + ":build", "--keep", 0.3, "--granularity", "weight", "--input-shape",
            "1,8,8", "-o", target,
        )  # fmt: skip
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    model = namespace["build"]()
    MaskState.load(model, load_file(weights))
    session = onnxruntime.InferenceSession(str(out))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(answer, model.eval()(x).numpy(), atol=1e-5)


def test_the_lottery_trains_levels(file, recipe, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    found = document(
        capsys, "prune", file + ":build", "--keep", 0.5, "--granularity", "weight", "--schedule", "lottery",
        "--rounds", 2, "--rewind", "1it", "--data", "digits", "--recipe", recipe, "--device", "cpu",
        "-o", out,
    )  # fmt: skip
    first = TOTAL - -(-TOTAL // 5)
    assert [level["level"] for level in found["levels"]] == [0, 1, 2]
    assert kept(found) == first - -(-first // 5)
    assert found["levels"][-1]["accuracy"] == found["accuracy"]


def test_waking_nodes_leaves_the_counts(file, recipe, tmp_path, capsys):
    counts, masks = [], []
    for ap in ((), ("--ap", 0.02)):
        out = tmp_path / "w.safetensors"
        found = document(
            capsys, "prune", file + ":build", "--keep", 0.5, "--granularity", "weight", "--schedule",
            "iterative", "--rounds", 2, "--data", "digits", "--recipe", recipe, "--device", "cpu", *ap,
            "-o", out,
        )  # fmt: skip
        counts.append(kept(found))
        masks.append(load_file(out)["_nw_mask.3.weight"])
    assert counts[0] == counts[1]
    assert not torch.equal(*masks)


def test_gradual_pruning_while_training(file, recipe, tmp_path, capsys):
    found = document(
        capsys, "prune", file + ":build", "--keep", 0.25, "--granularity", "weight", "--schedule", "granet",
        "--data", "digits", "--recipe", recipe, "--device", "cpu", "-o", tmp_path / "w.safetensors",
    )  # fmt: skip
    assert kept(found) == round(0.25 * TOTAL)
    assert found["accuracy"] is not None


def test_scores_that_look_at_data(file, tmp_path, capsys):
    found = document(
        capsys, "prune", file + ":build", "--keep", 0.25, "--granularity", "weight", "--importance", "snip",
        "--allocate", "from-synflow", "--data", "digits", "-o", tmp_path / "w.safetensors",
    )  # fmt: skip
    assert kept(found) == round(0.25 * TOTAL)


def test_channels_with_fresh_weights_before_training(tmp_path, capsys):
    out = tmp_path / "small"
    found = document(
        capsys, "prune", "resnet8", "--budget", "params=0.25", "--allocate", "convex", "--reinit",
        "--data", "digits", "-o", out,
    )  # fmt: skip
    assert found["after"]["params"] <= 0.25 * found["before"]["params"]
    assert found["after"]["params"] >= 0.24 * found["before"]["params"]
    assert any("fresh" in note for note in found["notes"])


def test_channels_are_fine_tuned_towards_the_dense_network(file, tmp_path, capsys):
    found = document(
        capsys, "prune", file + ":build", "--budget", "macs=0.5", "--distill", "--epochs", 1, "--data",
        "digits", "--device", "cpu", "--granularity", "channel:max:lamp", "-o", tmp_path / "w.safetensors",
    )  # fmt: skip
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert found["accuracy"] is not None


def test_channels_in_stages(file, recipe, tmp_path, capsys):
    found = document(
        capsys, "prune", file + ":build", "--budget", "macs=0.4", "--schedule", "iterative", "--rounds", 2,
        "--data", "digits", "--recipe", recipe, "--device", "cpu", "-o", tmp_path / "small",
    )  # fmt: skip
    assert found["after"]["macs"] <= 0.4 * found["before"]["macs"]
    assert "removed in 2 stages" in found["notes"]


def test_what_is_shown_names_every_layer(file, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert run(
        "prune", file + ":build", "--keep", "0.5", "--granularity", "row", "--input-shape", "1,8,8", "-o", out
    ) == 0  # fmt: skip
    printed = capsys.readouterr().out
    for name in ("0.weight", "3.weight", "7.weight", "together", "faster on dense kernels"):
        assert name in printed


REFUSED = [
    (["--keep", "0.5", "--granularity", "weight", "--repair", "obs"], "--repair is about removed channels"),
    (["--keep", "0.5", "--granularity", "weight", "--reinit"], "--reinit is about removed channels"),
    (["--keep", "0.5", "--granularity", "fine"], "there is no granularity"),
    (["--keep", "0.5", "--granularity", "channel:best"], "choose from sum"),
    (["--keep", "0.5", "--granularity", "weight", "--importance", "hrank"], "scores whole channels"),
    (["--keep", "0.5", "--granularity", "weight", "--importance", "snip"], "looks at data"),
    (["--keep", "0.5", "--granularity", "weight", "--schedule", "cubic"], "no data to train on"),
    (["--keep", "0.5", "--granularity", "weight", "--allocate", "convex"], "widths of channels"),
    (["--keep", "0.3", "--granularity", "2:4"], "2:4 keeps 0.5"),
    (["--granularity", "weight"], "how small is not said"),
    (["--keep", "0.5", "--schedule", "lottery"], "rewinding goes back"),
    (["--keep", "0.5", "--schedule", "cubic"], "changes masks at every few steps"),
    (["--keep", "0.5", "--schedule", "never"], "there is no schedule"),
    (["--keep", "0.5", "--rewind", "1%"], "--rewind is no option of schedule"),
    (["--keep", "0.5", "--rounds", "3"], "--rounds is no option of schedule"),
    (["--keep", "0.5", "--ap", "0.02"], "--granularity weight"),
    (["--keep", "0.5", "--distill"], "distillation needs data"),
    (["--keep", "0.5", "--epochs", "1"], "training needs data"),
    (["--keep", "0.5", "--reinit", "--repair", "obs"], "fresh ones take their place"),
    (["--keep", "0.5", "--allocate", "convex"], "limits of params and macs"),
    (["--keep", "0.5", "--allocate", "best"], "there is no allocation"),
    (["--keep", "0.5", "--select", "0"], "--select names weights to mask"),
    (["--keep", "0.5", "--importance", "movement"], "earlier weights"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_what_makes_no_sense_is_refused_in_one_line(options, reason, file, tmp_path, capsys):
    out = tmp_path / "out" / "w.safetensors"
    code = run("prune", file + ":build", *options, "--input-shape", "1,8,8", "-o", out)
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.err.startswith("netwright: ") and printed.err.count("\n") == 1
    assert reason in printed.err
    assert not out.parent.exists()


def test_masks_on_a_graph_are_refused(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    model = ResNetCifar(8, widths=(4, 8, 8))
    nw.export(model, torch.randn(1, 3, 8, 8), path)
    assert run("prune", path, "--keep", 0.5, "--granularity", "weight", "-o", tmp_path / "o.onnx") == 2
    assert "not on ONNX graphs" in capsys.readouterr().err
    assert run("prune", path, "--keep", 0.5, "--reinit", "-o", tmp_path / "o.onnx") == 2
    assert "cannot be trained" in capsys.readouterr().err


def test_all_choices_are_listed(capsys):
    found = document(capsys, "list")
    assert set(found["importance"]) == set(pruning.list_importances())
    assert set(found["repair"]) == {*pruning.list_repairs(), "fine-tune"}
    assert {*list_schedules(), *list_cycles(), "mask-sparsity"} == set(found["schedule"])
    searched = {"tas"}  # no rule for counts: it finds depths as well, and trains
    named = set(channel_allocations()) | set(pruning.list_layer_allocations())
    assert named | searched == set(found["allocation"])
    assert all(text for entries in found.values() for text in entries.values())
    assert document(capsys, "list", "repair") == {"repair": found["repair"]}
    assert run("list", "schedule") == 0
    assert "granet" in capsys.readouterr().out
    assert run("list", "nothing") == 2
    assert "choose from importance" in capsys.readouterr().err


def test_masks_follow_the_dense_network(file, recipe, tmp_path, capsys):
    networks = []
    for distill in ((), ("--distill",)):
        out = tmp_path / "w.safetensors"
        document(
            capsys, "prune", file + ":build", "--keep", 0.5, "--granularity", "weight", "--schedule", "cubic",
            "--data", "digits", "--recipe", recipe, "--device", "cpu", *distill, "-o", out,
        )  # fmt: skip
        networks.append(load_file(out)["3.weight"])
    assert not torch.equal(*networks)


def test_levels_have_no_teacher(file, tmp_path, capsys):
    options = ("--keep", 0.5, "--granularity", "weight", "--schedule", "lottery", "--data", "digits")
    assert run("prune", file + ":build", *options, "--distill", "-o", tmp_path / "w.safetensors") == 2
    assert "no teacher" in capsys.readouterr().err
