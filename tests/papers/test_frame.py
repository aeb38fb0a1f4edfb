"""The list of papers, the decorator, runs and the evidence they leave."""

from __future__ import annotations

import json
import sys
import types
import xml.etree.ElementTree as ET

import pytest

from netwright import papers
from netwright.errors import ArtefactError, DataError, UsageError
from netwright.papers import Claim, Run, Verdict, evidence, execute, frame, paper, save
from netwright.papers.page import render
from netwright.papers.plot import Panel, figure

SLUG = "s4"  # stands in: a line of the list


def recipe_of(function, claims=None, slug=SLUG):
    entry = papers.find(slug)
    claims = claims or [Claim("gain", "10 %", ">= 0.05"), Claim("big", "80 %", ">= 0.8", "imagenet")]
    declare = paper(
        slug=slug,
        number=entry.number,
        title=entry.title,
        year=2018,
        link="https://example.org",
        package=entry.package,
        claims=claims,
    )
    return declare(function)


def measured(run):
    run.log("measuring")
    run.measure("gain", 0.12345678901, 0.01, "on nothing")
    run.table("numbers", ("name", "value"), [("a", 1), ("b | c", 2.123456789), ("d", None)], "A note.")
    run.tried("another way")
    run.plot(figure("t", [Panel("p", "y").bar("a", 1.0)]))


def test_the_list_has_69_papers_with_distinct_slugs():
    listing = papers.LISTING
    assert [entry.number for entry in listing] == list(range(1, 70))
    assert len({entry.slug for entry in listing}) == 69
    assert all(entry.title and entry.what and entry.package for entry in listing)
    own = {name for name in dir(papers) if isinstance(getattr(papers, name), types.ModuleType)}
    assert not own & ({e.slug.replace("-", "_") for e in listing if not papers.implemented(e.slug)})


def test_the_state_is_whether_a_module_registers_a_recipe(monkeypatch):
    assert papers.implemented("fastrp") and not papers.implemented(SLUG)
    with pytest.raises(UsageError, match="not implemented yet"):
        papers.load(SLUG)
    module = types.ModuleType(f"netwright.papers.{SLUG}")
    module.__spec__ = types.SimpleNamespace(name=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert not papers.implemented(SLUG)  # a module alone does not make it so
    module.reproduce = recipe_of(measured)
    assert papers.load(SLUG).recipe is measured
    assert SLUG in [entry.slug for entry in papers.listing(state="implemented")]


def test_filters():
    assert [e.slug for e in papers.listing("#31")] == ["fastrp"]
    assert "fastrp" in [e.slug for e in papers.listing("RANDOM projection")]
    assert {e.package for e in papers.listing(package="graphs")} == {"graphs"}
    assert len(papers.listing(state="implemented")) + len(papers.listing(state="not yet")) == 69
    for wrong in ({"package": "nothing"}, {"state": "half"}):
        with pytest.raises(UsageError):
            papers.listing(**wrong)


@pytest.mark.parametrize(("given", "near"), [("fastpr", "fastrp"), ("GRANET", "granet"), ("s5", "s4")])
def test_an_unknown_slug_names_the_nearest(given, near):
    with pytest.raises(UsageError, match=near):
        papers.find(given)


def test_the_decorator_checks_against_the_list():
    entry = papers.find(SLUG)
    same = {"slug": SLUG, "number": entry.number, "title": entry.title, "package": entry.package}
    for wrong in ({"number": 1}, {"title": "Another"}, {"package": "graphs"}):
        with pytest.raises(UsageError, match="list of papers"):
            paper(**(same | wrong), year=2018, link="", claims=[])
    with pytest.raises(UsageError, match="two claims"):
        paper(**same, year=2018, link="", claims=[Claim("a", "", "> 0"), Claim("a", "", "> 1")])
    with pytest.raises(UsageError, match="no paper"):
        paper(**(same | {"slug": "nothing-like-it"}), year=2018, link="", claims=[])


def test_every_recipe_declares_claims_and_a_link():
    for entry in papers.listing(state="implemented"):
        found = papers.load(entry.slug)
        assert found.link.startswith("https://") and any(not claim.scope for claim in found.claims)


def test_a_run_leaves_evidence(tmp_path):
    lines = []
    run = execute(Run(recipe_of(measured), seed=3, say=lines.append))
    assert run.verdict is Verdict.REPRODUCED and lines == ["measuring"]
    found = save(run, tmp_path, "netwright reproduce s4 --seed 3")
    assert json.loads((tmp_path / "s4.json").read_text()) == found
    assert (found["slug"], found["verdict"], found["quick"], found["seeds"]) == (
        SLUG,
        "reproduced",
        False,
        [3, 4, 5],
    )
    assert found["claims"][0] | {"note": ""} == {
        "name": "gain",
        "published": "10 %",
        "expected": ">= 0.05",
        "measured": 0.123457,
        "spread": 0.01,
        "holds": True,
        "state": "holds",
        "scope": "",
        "note": "",
    }
    assert found["claims"][1]["state"] == "full scale only" and found["claims"][1]["holds"] is None
    assert found["versions"]["torch"] and found["hardware"]["cores"] >= 1 and found["seconds"] >= 0
    assert found["tried"] == ["another way"]
    ET.fromstring((tmp_path / "s4.svg").read_text())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_quick_run_has_no_verdict_and_its_own_file(tmp_path):
    run = execute(Run(recipe_of(measured), quick=True))
    found = save(run, tmp_path, "netwright reproduce s4 --quick")
    assert run.verdict is None and run.seeds() == [0]
    assert found["verdict"] is None and found["quick"] is True and found["why_no_verdict"] == "quick run"
    assert (tmp_path / "s4.quick.json").exists() and not (tmp_path / "s4.json").exists()
    assert evidence.read_folder(tmp_path) == []


def test_a_scope_changes_what_counts_and_the_name(tmp_path):
    def recipe(run):
        run.scope = "imagenet"
        run.measure("big", 0.5)

    run = execute(Run(recipe_of(recipe)))
    assert save(run, tmp_path, "c")["verdict"] == "not reproduced"
    assert (tmp_path / "s4-imagenet.json").exists()
    run.no_verdict("not this data")
    assert run.verdict is None


def test_a_recipe_that_measures_nothing_is_inconclusive():
    assert execute(Run(recipe_of(lambda run: None))).verdict is Verdict.INCONCLUSIVE


def test_a_recipe_cannot_measure_nonsense(tmp_path):
    run = Run(recipe_of(measured))
    for name, value, spread in (("other", 1.0, 0.0), ("gain", float("nan"), 0.0), ("gain", 1.0, -1.0)):
        with pytest.raises(UsageError):
            run.measure(name, value, spread)
    with pytest.raises(UsageError, match="columns"):
        run.table("t", ("a", "b"), [(1,)])
    with pytest.raises(DataError, match="nowhere"):
        execute(Run(recipe_of(measured), data=tmp_path / "nowhere"))


def test_the_docs_table_is_made_from_the_evidence(tmp_path):
    save(execute(Run(recipe_of(measured))), tmp_path, "netwright reproduce s4")
    text = papers.markdown_table(tmp_path)
    assert "| 2 | [s4](#s4) |" in text and "| reproduced | 1 of 1 |" in text
    assert "| gain | 10 % | >= 0.05 | 0.1235 ± 0.01 | holds |" in text
    assert "| b \\| c | 2.123 |" in text and "- Tried: another way" in text
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"bad\.json"):
        papers.markdown_table(tmp_path)


def test_the_committed_evidence_fits_the_recipes():
    from pathlib import Path

    for found in evidence.read_folder(Path(__file__).parents[2] / "evidence"):
        recipe = frame.load(found["slug"])
        assert [c["name"] for c in found["claims"]] == [c.name for c in recipe.claims]
        assert [c["expected"] for c in found["claims"]] == [c.expect for c in recipe.claims]
        assert found["verdict"] in set(Verdict)


def test_plots_are_well_formed_and_escape_text():
    lines = Panel("a < b", "s", "edges", log_x=True, log_y=True, limit=0.5)
    lines.line("x & y", [(10, 0.1), (1000, 10)]).line("z", [(10, 1)])
    bars = Panel("bars", "y").bar("long name", 0.5, 0.1).bar("none", 0.0)
    text = figure("title", [lines, bars, Panel("empty", "y")])
    root = ET.fromstring(text)
    assert root.get("viewBox") == "0 0 920 600" and "prefers-color-scheme: dark" in text
    assert "x &amp; y" in text and len(root.findall(".//{*}circle")) == 3 and "nan" not in text


def test_the_page_shows_every_paper_and_loads_nothing():
    states = {entry.slug: "implemented" if entry.slug == "fastrp" else "not yet" for entry in papers.LISTING}
    page = render(papers.LISTING, states)
    assert page.count("<tr><td>") == 69 and "69 papers, 1 implemented" in page
    assert "src=" not in page and "http" not in page.replace("http-equiv", "")
