"""README and docs: their commands exist with these options, their Python runs, their examples work."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import netwright as nw
from netwright.cli.app import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, with included files in place of their marks."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r'--8<-- "(.+)"', lambda m: (ROOT / m[1]).read_text(), b) for b in found]


def shell_lines(program: str) -> list[str]:
    """Lines of the pages' shell blocks, and commands inside their text, that run a program."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += [line for block in blocks(page, "bash") for line in block.splitlines()]
        found += re.findall(rf"`({program} [^`]+)`", text)
    bare = {line.split("#")[0].strip() for line in found}
    return sorted(line for line in bare if line.startswith(f"{program} "))


def pages_with_python() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build())


@pytest.mark.parametrize("line", shell_lines("netwright"))
def test_command_is_real(program: Any, line: str) -> None:
    """The command exists and takes these arguments: they are parsed, and nothing is run."""
    name, *rest = shlex.split(line)[1:]
    if "|" in rest:  # a line that lists alternatives: `netwright data list | fetch NAME | path NAME`
        group = program.commands[name]
        alternatives = [part.split()[0] for part in " ".join(rest).split("|")]
        assert set(alternatives) <= set(group.commands)
        return
    command = program.commands[name]
    if not rest:  # the bare name, as prose mentions it
        return
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    with command.context_class(command, info_name=name) as context:
        assert command.parse_args(context, rest) == []
        assert not context.args


@pytest.mark.parametrize("line", shell_lines("make"))
def test_target_is_real(line: str) -> None:
    targets = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert targets
    assert set(targets) <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    included = [ROOT / name for name in re.findall(r'^--8<-- "(.+)"', text, flags=re.MULTILINE)]
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if link != "papers.md"]
    assert [str(p) for p in [*included, *(page.parent / link for link in links)] if not p.exists()] == []


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_names_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netwright"):
                module = __import__(node.module or "", fromlist=["_"])
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nw":
                assert hasattr(nw, node.attr), f"{page.name}: nw.{node.attr}"


@pytest.mark.recipe
@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after another in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    assert names


def test_example_model_and_data_fit() -> None:
    model = nw.models.load(str(ROOT / "docs/examples/model.py") + ":build").model
    splits = nw.data.load(str(ROOT / "docs/examples/loaders.py") + ":loaders")
    assert splits.labelled
    assert len(splits.train) > len(splits.val) > 0
    with torch.no_grad():
        assert model.eval()(splits.example(2)).shape == (2, splits.num_classes)
