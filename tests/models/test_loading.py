"""Models by name, file and object; what is wrong with them in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from netwright import models
from netwright.errors import ModelError, NetwrightError

pytest.importorskip("torchvision")
pytest.importorskip("timm")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "source", "parameters", "side"),
    [
        ("resnet20", "zoo", 272_474, 32),
        ("resnet18", "torchvision", 11_689_512, 224),
        ("timm:resnet18", "timm", 11_689_512, 224),
        ("torchvision:squeezenet1_1", "torchvision", 1_235_496, 224),
        ("tf_efficientnet_lite0", "timm", 4_652_008, 224),
        ("efficientnet-lite0", "timm", 4_652_008, 224),
        ("vit_tiny_patch16_224", "timm", 5_717_416, 224),
    ],
)
def test_names(name: str, source: str, parameters: int, side: int) -> None:
    loaded = models.load(name)
    assert loaded.source == source
    assert count(loaded.model) == parameters
    assert models.natural_shape(loaded) == (3, side, side)
    assert not loaded.pretrained


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2", "squeezenet1_1", "googlenet", "timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224"],
)
def test_grey_images_and_own_classes(name: str) -> None:
    loaded = models.load(name, in_channels=1, num_classes=10)
    shape = models.natural_shape(loaded)
    assert shape == (1, 224, 224)
    with torch.no_grad():
        assert loaded.model(torch.rand(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:resnet18", "mobilenet_v3_small"])
def test_image_size(name: str) -> None:
    loaded = models.load(name, image_size=64, num_classes=3)
    with torch.no_grad():
        assert loaded.model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_auxiliary_answers_are_left_out() -> None:
    model = models.load("googlenet", num_classes=10).model.train()
    assert isinstance(model(torch.rand(2, 3, 64, 64)), torch.Tensor)


def test_a_module_is_taken_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 2)).train()
    loaded = models.load(module)
    assert loaded.model is module
    assert module.training
    assert (loaded.name, loaded.source) == ("Sequential", "object")


def test_list_models() -> None:
    names = models.list_models()
    assert names == sorted(set(names))
    assert {"resnet20", "unet", "resnet18", "tf_efficientnet_lite0"} <= set(names)
    assert models.list_models("resnet?0") == [
        n for n in names if len(n) == 8 and n.startswith("resnet") and n[-1] == "0"
    ]


def test_input_channels() -> None:
    assert [models.input_channels(s) for s in ((3, 8, 9), (7, 12), (5,))] == [3, 12, 5]


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("resnet21", {}, "no model named 'resnet21' — did you mean resnet"),
        ("timm:", {}, "no model is named"),
        ("qqqq", {}, "see netwright.models.list_models"),
        ("torchvision:resnet20", {}, "no model named 'torchvision:resnet20'"),
        ("hub:resnet18", {}, "unknown collection 'hub'"),
        ("net.onnx", {}, "is an ONNX graph"),
        ("resnet20", {"pretrained": True}, "no pretrained weights for resnet20.*--weights FILE"),
        ("resnet20", {"pretrained": True, "weights": "x.pt"}, "choose one"),
        ("resnet20", {"num_classes": 0}, "0 classes"),
        ("resnet20", {"in_channels": 0}, "0 channels"),
        ("vit_b_32", {"image_size": 50}, "divisible by 32"),
        ("missing.py:build", {}, r"there is no file missing\.py"),
        ("timm:vit_tiny_patch16_224", {"image_size": -1}, "cannot be built"),
    ],
)
def test_models_that_are_not_there(spec: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(NetwrightError, match=says) as error:
        models.load(spec, **options)  # type: ignore[arg-type]
    assert isinstance(error.value, ModelError)
    assert "\n" not in str(error.value)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def make(body: str) -> str:
        (tmp_path / "net.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
        return str(tmp_path / "net.py")

    return make


def test_file_and_callable(write: Callable[[str], str]) -> None:
    file = write(
        "def build(num_classes=4, in_channels=3): return nn.Linear(in_channels, num_classes)\n"
        "def fixed(): return nn.Linear(2, 2)\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(5, 6)"
    )
    assert models.load(f"{file}:build").model.weight.shape == (4, 3)
    loaded = models.load(f"{file}:build", num_classes=7, in_channels=1)
    assert loaded.model.weight.shape == (7, 1)
    assert (loaded.name, loaded.source) == ("build", "file")
    assert models.load(f"{file}:fixed", num_classes=7).model.weight.shape == (2, 2)
    assert models.load(f"{file}:Net").model.weight.shape == (6, 5)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("buidl", r"net\.py has no callable 'buidl' — it has build"),
        ("build", "raised|cannot be built: RuntimeError: two lines"),
        ("number", "returned int, not a torch.nn.Module"),
        ("needs", "cannot be built: TypeError"),
        ("const", "cannot be called"),
    ],
)
def test_callables_that_give_no_model(write: Callable[[str], str], name: str, says: str) -> None:
    file = write(
        "def build(): raise RuntimeError('two\\nlines')\n"
        "def number(): return 3\ndef needs(x): return x\nconst = 3"
    )
    with pytest.raises(ModelError, match=says) as error:
        models.load(f"{file}:{name}")
    assert "\n" not in str(error.value)
