from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.shaping.browser import Browser, chromium
from tests.shaping.test_front import finish

from netwright.shaping import chart, report
from netwright.shaping.front import Front
from netwright.shaping.state import Folder

needs_chromium = pytest.mark.skipif(chromium() is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    folder = tmp_path_factory.mktemp("study")
    result, _ = finish(folder, "latency<=0.5, accuracy>=-2%")
    report.write(Folder(folder), result)
    return result


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def test_the_report_is_one_small_file_without_addresses(front: Front) -> None:
    text = (front.folder / "report.html").read_text()
    assert len(text.encode()) < 300_000
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    for network in front.networks:
        assert network.name in text
    assert front.recommended is not None
    assert report.sentence(front, front.recommended) in text.replace("&#39;", "'")


@pytest.mark.parametrize("budget", ["none", "latency<=0.01", "macs=0.4", "size=300kB"])
def test_every_kind_of_budget_has_a_report(tmp_path: Path, budget: str) -> None:
    result, _ = finish(tmp_path, budget)
    text = report.render(result)
    assert ("Budget not met" in text) == (budget == "latency<=0.01")


def test_the_picture_is_valid_and_stands_alone(front: Front) -> None:
    root = ElementTree.fromstring((front.folder / "front.svg").read_text())
    assert root.tag.endswith("svg")
    text = ElementTree.tostring(root, encoding="unicode")
    assert "prefers-color-scheme:dark" in text
    assert "href" not in text


def test_marks_lie_inside_the_picture() -> None:
    points = [chart.Point(x, a, "fp32", "front", "") for x, a in ((0.1, 0.2), (5.0, 0.999), (9.0, 1.0))]
    for width in (380, 920):
        text = chart.scatter(points, x_title="x", y_title="y", x_limit=4.0, y_limit=0.9, width=width)
        places = re.findall(r'class="fp32" cx="([\d.]+)" cy="([\d.]+)"', text)
        assert len(places) >= 3
        assert all(0 <= float(x) <= width and 0 <= float(y) <= 440 for x, y in places)


def test_words_of_the_headline(front: Front) -> None:
    assert front.recommended is not None
    assert re.match(r"\d+\.\d× faster, ", report.headline(front.recommended, front.dense))
    assert report.headline(front.dense, front.dense).startswith("The dense network")
    assert report.count(41_200_000) == "41.2 M"
    assert report.size(1_080_000) == "1.08 MB"
    assert report.points(-0.004) == "−0.40 points"


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_without_complaint_or_request(
    front: Front, browser: Browser, width: int, dark: bool
) -> None:
    browser.events.clear()
    browser.open(front.folder / "report.html", width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('#layers .track').length") > 0
    browser.run("document.querySelector('.figure .pt').dispatchEvent(new Event('pointerenter'))")
    assert browser.run("document.querySelector('.tip b').textContent") in {n.name for n in front.networks}
    browser.run("document.querySelector('#tab-macs').click()")
    assert browser.run("document.getElementById('chart-latency').hidden") is True
    assert browser.run("document.getElementById('chart-macs').hidden") is False
    assert browser.complaints() == []
    assert browser.requests() == []


@needs_chromium
def test_trials_sort_and_layers_follow_the_network(front: Front, browser: Browser) -> None:
    browser.events.clear()
    browser.open(front.folder / "report.html", width=1280)
    column = "[...document.querySelectorAll('#trials tbody tr')].map(r => +r.cells[8].dataset.v)"
    browser.run("document.querySelectorAll('#trials th button')[8].click()")
    values = browser.run(column)
    assert values == sorted(values)
    browser.run("document.querySelectorAll('#trials th button')[8].click()")
    assert browser.run(column) == sorted(values, reverse=True)
    bars = "[...document.querySelectorAll('#layers .after')].map(e => e.style.width).join()"
    before = browser.run(bars)
    other = next(i for i, n in enumerate(front.networks) if n.outcome.macs < front.dense.outcome.macs * 0.3)
    browser.run(f"net.value = {other}; net.dispatchEvent(new Event('change'))")
    assert browser.run(bars) != before
    assert browser.complaints() == []
