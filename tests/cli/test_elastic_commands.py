"""`netwright elastic` as it is typed: trained, resumed, searched, cut, ranked; bad input leaves nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import netwright as nw
from netwright import models, supernets
from netwright.cli import main
from netwright.nas.bench import BenchEntry, TabularBench

DENSE = {"num_classes": 10, "in_channels": 1, "image_size": 8}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps({"epochs": 2, "batch_size": 64, "limit": 256, "lr": 0.05, "ema": 0.0}))
    return path


def train(output: Path, recipe: Path, *more: object) -> list[object]:
    given = ["--data", "digits", "--width", "0.5,1", "--recipe", recipe, "-o", output, *more]
    return ["elastic", "train", "resnet8", *given]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    output = tmp_path_factory.mktemp("sup") / "sup"
    assert run(*train(output, recipe, "--sort", "magnitude", "-q")) == 0
    return output


def test_train_writes_a_supernet_and_nothing_else(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["supernet.json", "supernet.safetensors"]
    known = supernets.describe(folder)
    assert known["elastic"]["width"] == [0.5, 1.0] and len(known["history"]) == 2
    assert known["recipe"]["batch_size"] == 64 and known["data"] == "digits"
    sup = supernets.load(folder)
    assert sup.space.size() == 2**6


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    saved = nw.train.checkpoint.save

    def stop(*args: Any, **kwargs: Any) -> None:
        saved(*args, **kwargs)
        raise Stopped

    output, command = tmp_path / "sup", train(tmp_path / "sup", recipe, "--sort", "magnitude", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(nw.train.checkpoint, "save", stop)
        with pytest.raises(Stopped):
            main([str(a) for a in command])
    assert (output / "training.pt").exists() and not (output / "supernet.json").exists()
    assert run(*train(output, recipe, "-q")) == 2  # another training: it is not sorted
    assert run(*command) == 0
    once, again = supernets.load(folder).state_dict(), supernets.load(output).state_dict()
    for name, tensor in once.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_search_then_extract(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["elastic", "search", folder, "--budget", "macs<=0.6", "--trials", 6]
    found = document(capsys, *command)
    assert all(row["macs"] <= 0.6 * found["full"]["macs"] for row in found["front"])
    with (folder / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["accuracy"]) for r in rows] == [r["accuracy"] for r in found["front"]]
    assert document(capsys, *command)["front"] == found["front"]  # nothing is judged twice

    small = tmp_path / "small"
    limit = found["front"][0]["macs"]
    told = document(
        capsys, "elastic", "extract", folder, "--budget", f"macs={limit:.0f}", "-o", small, "--onnx"
    )
    assert told["after"]["macs"] <= limit and told["known"]["accuracy"] == found["front"][0]["accuracy"]
    model = nw.load(small, model=models.load("resnet8", **DENSE).model).eval()
    x = nw.data.load("digits").test.head(16).batches(16)
    images, _ = next(iter(x))
    with torch.no_grad():
        answer = model(images)
    session = onnxruntime.InferenceSession(str(small / "model.onnx"))
    name = session.get_inputs()[0].name
    exported = torch.from_numpy(session.run(None, {name: images.numpy()})[0])
    torch.testing.assert_close(exported, answer, rtol=1e-4, atol=1e-4)
    sup = supernets.load(folder)
    assert sum(p.numel() for p in model.parameters()) == sup.cost(told["choice"]).params


def test_extract_a_choice_from_json_and_from_a_file(folder: Path, tmp_path: Path) -> None:
    sup = supernets.load(folder)
    choice = sup.space.min()
    path = tmp_path / "choice.json"
    path.write_text(choice.to_json())
    for number, given in enumerate((choice.to_json(), path)):
        output = tmp_path / f"{number}.safetensors"
        assert run("elastic", "extract", folder, "--choice", given, "-o", output) == 0
        assert output.exists()


def test_rank_against_a_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sup = supernets.load(folder)
    entries = []
    for i, choice in enumerate(supernets.spread(sup, 5)):
        cost = sup.cost(choice)
        entries.append(BenchEntry(choice, cost.macs, cost.params, (0.5 + 0.05 * i, 0.51 + 0.05 * i)))
    path = TabularBench("mine", sup.space, (0, 1), tuple(entries)).write(tmp_path / "truth.json")
    report = document(capsys, "elastic", "rank", folder, "--truth", path)
    assert report["networks"] == 5 and report["ceiling"] == pytest.approx(1.0)
    assert report["macs"]["value"] == pytest.approx(1.0)


def test_rank_against_networks_trained_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["elastic", "rank", folder, "--alone", 2, "--epochs", 1]
    report = document(capsys, *command)
    assert report["networks"] == 2 and report["seeds"] == 2
    written = (folder / "alone.json").read_text()
    assert document(capsys, *command) == report and (folder / "alone.json").read_text() == written


BAD: list[tuple[list[object], str]] = [
    (["train", "resnet8", "--data", "digits", "-o", "NEW"], "nothing can be chosen"),
    (["train", "resnet8", "--data", "digits", "--width", "a,b", "-o", "NEW"], "not understood"),
    (["train", "resnet8", "--data", "digits", "--width", "0.5,2.0", "-o", "NEW"], "no value"),
    (["train", "resnet8", "--data", "digits", "--kernel", "4", "-o", "NEW"], "even size"),
    (["train", "resnet8", "--data", "digits", "--width", "0.5,1", "--sampler", "x", "-o", "NEW"], "sampler"),
    (["train", "resnet8", "--data", "digits", "--width", "0.5,1", "-o", "NEW.pt"], "not written"),
    (["train", "resnet8", "--data", "digits", "--width", "0.5,1", "-o", "FULL"], "not empty"),
    (["train", "nonet8", "--data", "digits", "--width", "0.5,1", "-o", "NEW"], "nonet8"),
    (["train", "resnet8", "--data", "nodigits", "--width", "0.5,1", "-o", "NEW"], "nodigits"),
    (["search", "NEW"], "there is no"),
    (["search", "SUP", "--objective", "beauty"], "no objective"),
    (["search", "SUP", "--strategy", "prayer"], "prayer"),
    (["extract", "SUP", "-o", "NEW"], "say which"),
    (["extract", "SUP", "--choice", "{", "-o", "NEW"], "not JSON"),
    (["extract", "SUP", "--choice", '{"height": 1}', "-o", "NEW"], "nothing called"),
    (["extract", "SUP", "--budget", "macs=1", "--onnx", "-o", "NEW.onnx"], "--onnx"),
    (["extract", "SUP", "--budget", "macs=0.0001", "-o", "NEW"], "keeps to"),
    (["rank", "SUP"], "judged by"),
    (["rank", "SUP", "--truth", "NEW"], "cannot be read"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD, ids=[t for _, t in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[object], told: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    places = {
        "SUP": folder,
        "FULL": tmp_path / "full",
        "NEW": tmp_path / "new",
        "NEW.pt": tmp_path / "new.pt",
    }
    places["NEW.onnx"] = tmp_path / "new.onnx"
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert run("elastic", *[places.get(str(a), a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("netwright: ") and told in lines[-1]
    assert sorted(tmp_path.rglob("*")) == before
