"""Weights from files: they fit or it is said what does not; a pickle is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from netwright import data, models
from netwright.errors import ArtefactError, ModelError, NetwrightError


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return models.load("resnet8").model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested", "parallel", "old"])
def test_round_trip(tmp_path: Path, net: nn.Module, form: str) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    state: dict[str, Any] = net.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "old")
    loaded = models.load("resnet8", weights=path)
    assert same(loaded.model, net)
    assert loaded.pretrained
    assert loaded.notes == ()


class Evil:
    """Runs code where its pickle is read."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return (Path.touch, (self.flag,))


@pytest.mark.parametrize("form", ["torch", "bare"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    flag, path = tmp_path / "ran", tmp_path / "w.pt"
    if form == "torch":
        torch.save({"state_dict": Evil(flag)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Evil(flag)}))
    with pytest.raises(ArtefactError, match="refused unless --trust") as error:
        models.load("resnet8", weights=path)
    assert "\n" not in str(error.value)
    assert not flag.exists()


@pytest.mark.parametrize("form", ["torch", "bare"])
def test_a_trusted_pickle_is_read(tmp_path: Path, net: nn.Module, form: str) -> None:
    path = tmp_path / "w.pt"
    if form == "torch":
        torch.save(net, path)
    else:
        path.write_bytes(pickle.dumps(net.state_dict()))
    with pytest.raises(ArtefactError, match="refused unless --trust"):
        models.load("resnet8", weights=path)
    assert same(models.load("resnet8", weights=path, trust=True).model, net)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.999])
def test_damaged_files(tmp_path: Path, net: nn.Module, suffix: str, keep: float) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    for trust in (False, True):
        with pytest.raises(ArtefactError, match=r"cut off or damaged|is not a weights file") as error:
            models.load("resnet8", weights=path, trust=trust)
        assert "\n" not in str(error.value)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no weights file"):
        models.load("resnet8", weights=tmp_path / "none.pt")
    (tmp_path / "a.pt").write_text("hello, world")
    with pytest.raises(ArtefactError, match="is not a weights file"):
        models.load("resnet8", weights=tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(ArtefactError, match="holds no named tensors"):
        models.load("resnet8", weights=tmp_path / "b.pt")


def test_weights_that_do_not_fit(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "w.pt"

    def refusal(state: dict[str, Any], **options: Any) -> str:
        torch.save(state, path)
        with pytest.raises(ModelError) as error:
            models.load("resnet8", weights=path, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    state = net.state_dict()
    assert "2 missing (fc.weight, fc.bias)" in refusal({k: v for k, v in state.items() if "fc" not in k})
    assert "1 unexpected (more)" in refusal({**state, "more": torch.zeros(1)})
    said = refusal({**state, "fc.weight": torch.zeros(12, 64), "fc.bias": torch.zeros(12)})
    assert "2 of another shape (fc.weight: (12, 64) in the file, (10, 64) in the model)" in said
    assert "1 of another shape" in refusal({**state, "bn1.bias": torch.zeros(9)}, num_classes=10)


def test_another_number_of_classes_keeps_the_rest(tmp_path: Path, net: nn.Module) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pt")
    loaded = models.load("resnet8", weights=tmp_path / "w.pt", num_classes=3, in_channels=1)
    assert len(loaded.notes) == 2
    own, given = loaded.model.state_dict(), net.state_dict()
    assert own["fc.weight"].shape == (3, 64)
    torch.testing.assert_close(own["conv1.weight"], given["conv1.weight"].sum(1, keepdim=True))
    assert all(torch.equal(own[k], given[k]) for k in own if not k.startswith(("fc", "conv1")))


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_adapted_channels_answer_the_same_to_grey(channels: int) -> None:
    """An image whose channels are all alike is seen as before."""
    from netwright.models.weights import adapt_channels

    weight, x = torch.rand(5, 3, 3, 3), torch.rand(1, 1, 8, 8)
    before = nn.functional.conv2d(x.expand(1, 3, 8, 8), weight)
    after = nn.functional.conv2d(x.expand(1, channels, 8, 8), adapt_channels(weight, channels))
    if 3 % channels == 0 or channels % 3 == 0:
        torch.testing.assert_close(after, before)
    else:
        assert float((after - before).abs().max()) < float(before.abs().max())


def test_pretrained_says_how_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_DATA", str(tmp_path))
    with pytest.raises(NetwrightError, match="run: netwright data fetch efficientnet-lite0"):
        models.load("efficientnet_lite0", pretrained=True)


@pytest.mark.data
@pytest.mark.skipif(bool(os.environ.get("NETWRIGHT_OFFLINE")), reason="NETWRIGHT_OFFLINE is set")
def test_efficientnet_lite0_knows_coffee_and_cats() -> None:
    pytest.importorskip("timm")
    from PIL import Image
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    data.fetch("efficientnet-lite0")
    photos = data.fetch("photos")
    loaded = models.load("efficientnet_lite0", pretrained=True)
    assert sum(p.numel() for p in loaded.model.parameters()) == 4_652_008
    assert loaded.statistics is not None
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in loaded.statistics)

    def answer(file: str) -> torch.Tensor:
        image = Image.open(photos / file).convert("RGB")
        side = resize(image, 256, interpolation=3)
        x = (pil_to_tensor(center_crop(side, 224)) / 255 - mean) / std
        with torch.no_grad():
            return loaded.model(x[None]).softmax(1)[0]

    assert float(answer("coffee.png")[967]) > 0.9  # espresso
    assert float(answer("chelsea.png")[[281, 282, 285]].sum()) > 0.85  # tabby, tiger cat, Egyptian cat
    assert int(answer("china.jpg").argmax()) == 698  # palace
    assert int(answer("flower.jpg").argmax()) == 985  # daisy


@pytest.mark.data
@pytest.mark.skipif(bool(os.environ.get("NETWRIGHT_OFFLINE")), reason="NETWRIGHT_OFFLINE is set")
def test_pretrained_features_with_own_classes() -> None:
    pytest.importorskip("timm")
    data.fetch("efficientnet-lite0")
    whole = models.load("efficientnet_lite0", pretrained=True).model
    loaded = models.load("tf_efficientnet_lite0", pretrained=True, num_classes=5)
    assert loaded.notes == ("the classifier (classifier) is new: the file has 1000 classes",)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.forward_features(x), whole.forward_features(x))
