"""The package as a whole: what importing it costs, what it ships, what it promises to export."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import netwright

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = sorted(m.name for m in pkgutil.iter_modules(netwright.__path__, "netwright.") if m.ispkg)
HEAVY = (
    "datasets lightning_fabric onnx onnxruntime onnxscript optuna pandas plotly ray scipy sklearn skimage "
    "timm torchvision transformers"
).split()


@pytest.fixture(scope="module")
def imported_modules() -> set[str]:
    """Names of the modules that `import netwright` loads beyond those of `import torch`."""
    program = (
        "import sys, torch; before = set(sys.modules); import netwright; "
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", HEAVY)
def test_import_is_light(imported_modules: set[str], name: str) -> None:
    assert "netwright" in imported_modules
    assert not [m for m in imported_modules if m.split(".")[0] == name]


def test_version_is_the_same_everywhere() -> None:
    assert netwright.__version__ == PROJECT["version"] == importlib.metadata.version("netwright")


def test_changelog_knows_the_version() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert netwright.__version__ in heads or heads[0] == "Unreleased"


def test_types_are_shipped() -> None:
    assert (importlib.resources.files("netwright") / "py.typed").is_file()


@pytest.mark.parametrize("name", ["netwright", *PACKAGES])
def test_public_names_are_listed_and_exist(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    public = module.__all__
    assert len(public) == len(set(public))
    assert [n for n in public if not hasattr(module, n)] == []
    assert [n for n in public if n.startswith("_") and n != "__version__"] == []


@pytest.mark.parametrize("name", ["netwright", *PACKAGES])
def test_package_says_what_it_is(name: str) -> None:
    text = importlib.import_module(name).__doc__ or ""
    assert len(text.split()) >= 4
    assert "TODO" not in text


def test_every_package_has_a_reference_page() -> None:
    """The documentation of a package is made from its docstrings; a new package needs its page."""
    pages = "\n".join(p.read_text() for p in sorted((ROOT / "docs" / "reference").glob("*.md")))
    shown = set(re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE))
    assert set(PACKAGES) - {"netwright.cli"} <= shown


def test_constraints_pin_every_dependency() -> None:
    def canonical(text: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0]).lower()

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [p for p in pins if not re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+]+", p)] == []
    extras = PROJECT["optional-dependencies"]
    needed = [
        *PROJECT["dependencies"],
        *(n for e in ("vision", "scale", "integrations", "docs", "bench", "dev") for n in extras[e]),
    ]
    names = {canonical(n) for n in needed} - {"netwright"}
    assert sorted(names - {canonical(p) for p in pins}) == []
