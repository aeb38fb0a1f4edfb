"""Our own networks by name: each is listed, built for any channels and classes, takes its natural example."""

from __future__ import annotations

import pytest
import torch

from netwright import models
from netwright.cli import main
from netwright.models.zoo import BUILDERS

LARGER = tuple(name for name in BUILDERS if "_x" in name)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in (*LARGER, "unet", "mixed")])
def test_a_name_is_a_network(name: str) -> None:
    with torch.device("meta"):
        loaded = models.load(name, num_classes=7, in_channels=2)
    example = models.natural_example(loaded, 2).to("meta")
    with torch.no_grad():
        assert loaded.model(example).shape[-1] == 7
    assert loaded.source == "zoo"


def test_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["list", "models"])
    assert stopped.value.code in (0, None)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    found = {line[0]: line[1] for line in lines}
    assert sorted(found) == models.list_models()
    assert all(len(found[name].split()) > 2 for name in BUILDERS if name not in LARGER)
