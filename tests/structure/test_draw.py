from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.shaping.browser import Browser, chromium
from torch import Tensor, nn

from netwright import models
from netwright.structure import Structure, trace
from netwright.structure.draw import bytes_text, count_text, table
from netwright.structure.facts import describe, frozen, savings, uses, width
from netwright.structure.picture import Picture, draw
from netwright.structure.sources import place, unknown
from netwright.structure.tree import Row, open_depth, tree

needs_chromium = pytest.mark.skipif(chromium() is None, reason="chromium is not installed")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm(self.conv1(x))))


def deep(blocks: int) -> nn.Module:
    """Five operators a block."""
    body = nn.Sequential(*[nn.Sequential(*[Block(4) for _ in range(10)]) for _ in range(blocks // 10)])
    return nn.Sequential(nn.Conv2d(3, 4, 1), body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Odd(nn.Module):
    """Names that HTML knows, a parameter of its own, a module called twice and an operator without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"<b>&amp;</script>": nn.Linear(6, 8)})
        self.scale = nn.Parameter(torch.ones(8))
        self.act = nn.ReLU()
        self.left = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.act(self.parts["<b>&amp;</script>"](x)) * self.scale)
        return self.left(torch.renorm(x, 2, 0, 1.0))


class Bare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.fixture(scope="module")
def resnet() -> Structure:
    return trace(models.load("resnet8", num_classes=10).model, torch.zeros(2, 3, 32, 32))


@pytest.fixture(scope="module")
def odd() -> Structure:
    return trace(Odd(), torch.zeros(2, 6))


@pytest.fixture(scope="module")
def large() -> Structure:
    return trace(deep(200), torch.zeros(2, 3, 8, 8))


@pytest.fixture(scope="module")
def attention() -> Structure:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return trace(nn.Sequential(layer, nn.Linear(16, 3)), torch.zeros(2, 5, 16))


def test_table_says_what_there_is(resnet: Structure) -> None:
    text = table(resnet)
    assert text == str(resnet)
    first, second = text.splitlines()[:2]
    assert first.startswith("ResNetCifar: 12.5 M MACs, 78.0 K parameters, ")
    assert second == "6 of 8 axes can shrink; traced with 2×3×32×32"
    assert max(map(len, text.splitlines())) <= 110
    for operator in resnet.operators:
        if operator.macs:
            assert re.search(rf"^{re.escape(operator.module)} +{operator.kind} ", text, flags=re.MULTILINE)
    assert "operators have neither: relu 7, add 3, mean 1" in text
    assert re.search(r"^layer1\.0\.conv1 +16 +18\.9% MACs  6: layer1\.0\.conv1, ", text, flags=re.MULTILINE)
    assert "fc (10): it is an output of the network" in text
    assert re.search(r"\[convolution in conv1,\s+src/netwright/models/zoo/resnet_cifar\.py:\d+\]", text)


def test_long_networks_are_shown_by_their_blocks(large: Structure) -> None:
    text = table(large)
    assert len(text.splitlines()) < 80
    assert max(map(len, text.splitlines())) <= 110
    assert re.search(r"^1\.19 +50 operators ", text, flags=re.MULTILINE)
    assert f"… and {len(large.prunable) - 24} more axes" in text
    whole = table(large, everything=True)
    assert len(re.findall(r"^1\.19\.\d+(?:\.\w+)? ", whole, flags=re.MULTILINE)) >= 50
    assert "… and" not in whole
    assert all(str(use) in whole for found in uses(large)[: len(large.prunable)] for use in found)


def test_a_flat_network_is_cut_off() -> None:
    net = trace(nn.Sequential(*[nn.Linear(4, 4) for _ in range(50)]), torch.zeros(2, 4))
    assert "… and 14 more layers" in table(net)
    assert "… and" not in table(net, everything=True)


def test_operators_without_a_rule_and_notes_are_named(odd: Structure) -> None:
    text = table(odd)
    assert "no rule for renorm, which freezes what it touches: (top)" in text
    assert "- 2 parameters are not used by the forward pass: unused.bias, unused.weight" in text
    code = inspect.getsource(Odd.forward).splitlines()
    line = (
        1 + next(i for i, t in enumerate(code) if "renorm" in t) + inspect.getsourcelines(Odd.forward)[1] - 1
    )
    assert f"operator renorm has no rule [renorm, tests/structure/test_draw.py:{line}]" in text
    assert f"  tests/structure/test_draw.py:{line}: return self.left(torch.renorm(x, 2, 0, 1.0))" in text


def test_a_network_without_parameters() -> None:
    net = trace(Bare(), torch.zeros(2, 4))
    assert "1 operator has neither: mul 1" in table(net)
    assert "0 of 0 axes can shrink" in draw(net)
    assert savings(net).shape == (0, 2)


@pytest.mark.parametrize("name", ["resnet", "odd", "large", "attention"])
def test_uses_are_the_members(name: str, request: pytest.FixtureRequest) -> None:
    net: Structure = request.getfixturevalue(name)
    for axis, found in list(zip(net.axes, uses(net), strict=True))[:30]:
        members = {(m.name, m.dim): int((m.index >= 0).sum()) for m in net.members(axis)}
        assert {(u.name, u.dim): u.count for u in found} == members


@pytest.mark.parametrize("name", ["resnet", "attention"])
def test_savings_are_what_the_cost_model_says(name: str, request: pytest.FixtureRequest) -> None:
    net: Structure = request.getfixturevalue(name)
    for axis, (macs, params) in zip(net.prunable, savings(net).tolist(), strict=True):
        keep = net.everything
        keep[axis.cells[:, (axis.size + 1) // 2 :]] = False
        cost = net.cost(keep)
        assert macs == pytest.approx(1 - cost.macs / net.macs, abs=1e-12)
        assert params == pytest.approx(1 - cost.params / net.params, abs=1e-12)


def test_a_unit_of_a_head_is_as_wide_as_the_head(attention: Structure) -> None:
    wide = {a.name: width(attention, a, u) for a, u in zip(attention.axes, uses(attention), strict=True)}
    heads = [a for a in attention.prunable if a.size == 4]
    assert [wide[a.name] for a in heads] == [4]
    assert {wide[a.name] for a in attention.prunable if a not in heads} == {1}


def test_frozen_axes_are_grouped_by_reason(odd: Structure) -> None:
    groups = frozen(odd)
    assert sum(len(g.axes) for g in groups) == len(odd.axes) - len(odd.prunable)
    assert len({(g.reason, *g.where) for g in groups}) == len(groups)


def test_facts_are_complete_and_json(resnet: Structure) -> None:
    found = json.loads(json.dumps(describe(resnet)))
    assert found["macs"] == resnet.macs == sum(o["macs"] for o in found["operators"])
    assert found["params"] == sum(o["params"] for o in found["operators"])
    assert [a["name"] for a in found["axes"]] == [a.name for a in resnet.axes]
    assert all(a["prunable"] or a["reason"] for a in found["axes"])
    assert all(a["members"] for a in found["axes"])
    for axis in found["axes"]:
        if not axis["prunable"]:
            text = Path(axis["file"]).read_text().splitlines()[axis["line"] - 1]
            assert axis["operator"] and text.strip() == axis["text"]
    assert found["axes"][0]["half_saves"]["macs"] == pytest.approx(0.259, abs=1e-3)


def _leaves(row: Row) -> list[Row]:
    return [r for r in row.walk() if r.operator is not None]


@pytest.mark.parametrize("name", ["resnet", "odd", "large", "attention"])
def test_the_tree_holds_every_operator_and_tensor_once(name: str, request: pytest.FixtureRequest) -> None:
    net: Structure = request.getfixturevalue(name)
    root = tree(net)
    assert sorted(map(repr, net.operators)) == sorted(repr(r.operator) for r in _leaves(root))
    assert root.macs == net.macs
    assert root.params == net.params
    assert root.count == len(net.operators)
    assert sorted(t for r in root.walk() for t in r.tensors) == sorted(net.layers)
    assert [r.number for r in root.walk()] == list(range(sum(1 for _ in root.walk())))
    for row in root.walk():
        assert all(part.depth == row.depth + 1 for part in row.parts)
        if row.kind == "block":
            assert row.macs == sum(part.macs for part in row.parts)


def test_only_so_many_rows_are_open(large: Structure) -> None:
    root = tree(large)
    depth = open_depth(root)
    seen = [r for r in root.walk() if r.depth <= depth]
    assert 5 <= len(seen) <= 48
    assert open_depth(root, most=10**6) == max(r.depth for r in root.walk())


def test_numbers_as_text() -> None:
    values = (0, 7, 999, 1000, 1234, 41_200_000, 999_600, 4.29e9, 2.5e12)
    assert [count_text(v) for v in values] == [
        "0", "7", "999", "1.00 K", "1.23 K", "41.2 M", "1000 K", "4.29 G", "2.50 T",
    ]  # fmt: skip
    assert [bytes_text(v) for v in (12, 1500, 46_700_000)] == ["12 B", "1.50 kB", "46.7 MB"]


def test_the_page_is_one_file_without_addresses(odd: Structure, tmp_path: Path) -> None:
    page = draw(odd, tmp_path / "odd.html", title="<odd> & 'quoted'")
    assert (tmp_path / "odd.html").read_text() == page
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<b>" not in re.sub(r"<b>(?:–|[\d.]+%)</b>", "", page)
    assert page.count("</script>") == 2
    assert "&lt;odd&gt; &amp;" in page
    assert "No rule for operator renorm" in page
    assert isinstance(page, Picture)
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert [p.name for p in tmp_path.iterdir()] == ["odd.html"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["resnet", "odd", "large"])
def test_the_page_opens_without_complaint_or_request(
    name: str, request: pytest.FixtureRequest, browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    net: Structure = request.getfixturevalue(name)
    draw(net, tmp_path / "net.html")
    browser.events.clear()
    browser.open(tmp_path / "net.html", width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('.axis').length") == len(net.axes)
    browser.run("document.getElementById('open').click()")
    browser.run("document.querySelectorAll('.row:not(.block)').forEach(r => { r.open = true; })")
    browser.run("[...document.querySelectorAll('.axis')].slice(-12).forEach(a => a.click())")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    assert browser.requests() == []


@needs_chromium
def test_an_axis_lights_the_layers_that_it_ties(resnet: Structure, browser: Browser, tmp_path: Path) -> None:
    draw(resnet, tmp_path / "net.html")
    browser.events.clear()
    browser.open(tmp_path / "net.html", width=1280)
    lit = "[...document.querySelectorAll('.row.on > summary em')].map(e => e.textContent)"
    expected = {m.name.rpartition(".")[0].rpartition(".")[2] for m in resnet.members(resnet.axes[1])}
    browser.run("document.querySelector('.axis[data-a=\"1\"]').dispatchEvent(new Event('pointerenter'))")
    assert set(browser.run(lit)) == expected
    browser.run("document.querySelector('.axis[data-a=\"1\"]').dispatchEvent(new Event('pointerleave'))")
    assert browser.run(lit) == []
    browser.run("document.querySelector('.axis[data-a=\"1\"]').click()")
    assert set(browser.run(lit)) == expected
    assert browser.run("document.querySelectorAll('#map .now path').length") == len(expected) - 1
    assert browser.run("document.querySelectorAll('.more li').length") == len(expected)
    browser.run("document.getElementById('close').click()")
    assert browser.run("document.querySelector('.row.has > summary small').dataset.has") == str(len(expected))
    browser.run("document.querySelector('.more li button').click()")
    assert browser.run("document.querySelector('.row.on').offsetParent !== null") is True
    browser.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert browser.run(lit) == []
    assert browser.complaints() == []


@needs_chromium
def test_a_layer_says_its_costs_and_its_axes(resnet: Structure, browser: Browser, tmp_path: Path) -> None:
    draw(resnet, tmp_path / "net.html")
    browser.open(tmp_path / "net.html", width=1280)
    browser.run(
        "var fc = [...document.querySelectorAll('.row.layer')].find(r => r.innerText.startsWith('fc'))"
    )
    browser.run("fc.querySelector('summary').dispatchEvent(new Event('pointerenter'))")
    said = browser.run("document.querySelector('.state p').textContent")
    shapes = "fc · addmm · input 2×64 · weight 10×64 · output 2×10"
    assert said.startswith(f"{shapes} · 640 MACs (0.0%) · 650 parameters (0.8%)")
    assert re.search(r"resnet_cifar\.py:\d+ · on layer3\.0\.downsample\.0, fc \(stays\)$", said)
    # Each of its axes lights its layers in a colour of its own.
    lit = "[...document.querySelectorAll('.row.%s > summary em')].map(e => e.textContent)"
    assert browser.run(lit % "b") == ["fc"] and set(browser.run(lit % "on")) >= {"fc", "0", "conv2"}
    browser.run("fc.open = true")
    for _ in range(100):
        if browser.run("fc.querySelectorAll('.chip').length"):
            break
        time.sleep(0.02)
    chips = browser.run("[...fc.querySelectorAll('.chip')].map(c => c.textContent)")
    assert chips == ["dim 0: fc, stays", "dim 1: layer3.0.downsample.0", "dim 0: fc, stays"]
    browser.run("fc.querySelectorAll('.chip')[1].click()")
    assert browser.run("document.querySelector('.axis[aria-pressed=true] em').textContent") == (
        "layer3.0.downsample.0"
    )


@needs_chromium
def test_layers_are_found_by_name_and_walked_with_keys(
    resnet: Structure, browser: Browser, tmp_path: Path
) -> None:
    draw(resnet, tmp_path / "net.html")
    browser.events.clear()
    browser.open(tmp_path / "net.html", width=1280)
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.run("document.getElementById('close').click()")
    seen = (
        "[...document.querySelectorAll('.row')].filter(r => r.offsetParent && !r.classList.contains('miss'))"
    )
    closed = browser.run(f"{seen}.length")
    press = "dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true, cancelable: true}))"
    browser.run(press % "/")
    assert browser.run("document.activeElement.id") == "seek"
    browser.run("var field = document.getElementById('seek')")
    write = "field.value = '%s'; field.dispatchEvent(new Event('input'))"
    browser.run(write % "LAYER2.0.conv")
    names = [f"layer2.0.conv{i}" for i in (1, 2)]
    hits = "[...document.querySelectorAll('.row.hit')].filter(r => r.offsetParent).map(r => r.id)"
    rows = {r.path: f"r{r.number}" for r in tree(resnet).walk() if r.kind == "layer"}
    assert browser.run(hits) == [rows[name] for name in names]
    assert browser.run("document.getElementById('hits').textContent") == "2 found"
    browser.run(write % "nothing has this name")
    assert browser.run(f"{seen}.length") == 0
    browser.run(write % "")
    assert browser.run(f"{seen}.length") == closed
    browser.run("document.activeElement.blur()")
    at = "document.activeElement.parentElement.id"
    browser.run("document.querySelector('.tree summary').focus()")
    first = browser.run(at)
    browser.run("document.activeElement." + press % "ArrowDown")
    assert browser.run(at) != first
    browser.run("[...document.querySelectorAll('.row.block > summary')][0].focus()")
    block = browser.run(at)
    browser.run("document.activeElement." + press % "ArrowRight")
    browser.run("document.activeElement." + press % "ArrowRight")
    assert (
        browser.run("document.activeElement.closest('details').parentElement.closest('details').id") == block
    )
    browser.run("document.activeElement." + press % "ArrowLeft")
    browser.run("document.activeElement." + press % "ArrowLeft")
    assert browser.run(at) == block and browser.run("document.activeElement.parentElement.open") is False
    assert browser.complaints() == []


@needs_chromium
def test_the_map_shows_another_cost(resnet: Structure, browser: Browser, tmp_path: Path) -> None:
    draw(resnet, tmp_path / "net.html")
    browser.open(tmp_path / "net.html", width=1280)
    high = "[...document.querySelectorAll('#map rect')].map(r => +r.getAttribute('height'))"
    tallest = []
    for cost in range(3):
        browser.run(f"document.querySelector('[data-cost=\"{cost}\"]').click()")
        heights = browser.run(high)
        assert max(heights) == 60
        tallest.append(heights.index(60))
    assert len(set(tallest)) > 1


@needs_chromium
def test_an_operator_without_a_rule_is_shown_with_its_line(
    odd: Structure, browser: Browser, tmp_path: Path
) -> None:
    draw(odd, tmp_path / "net.html")
    browser.open(tmp_path / "net.html", width=1280)
    (node,) = unknown(odd)
    assert f"renorm, {place(node)}" in browser.run("document.querySelector('.notes .call').textContent")
    assert browser.run("document.querySelector('.notes .call code').textContent") == place(node).text
    assert browser.run("document.querySelector('.row small.bad').textContent") == "no rule"
    assert str(place(node)) in browser.run("document.querySelector('.axis.stays .why').textContent")


@needs_chromium
def test_axes_are_found_sorted_and_say_why_they_stay(
    resnet: Structure, browser: Browser, tmp_path: Path
) -> None:
    draw(resnet, tmp_path / "net.html")
    browser.open(tmp_path / "net.html", width=390)
    shown = "[...document.querySelectorAll('.axis')].filter(a => a.offsetParent)"
    names = f"{shown}.map(a => a.querySelector('em').textContent)"
    browser.run("document.querySelector('[data-kind=stays]').click()")
    assert set(browser.run(names)) == {a.name for a in resnet.axes if not a.prunable}
    assert "it is an output of the network" in browser.run(
        "[...document.querySelectorAll('.axis .why')].map(e => e.textContent).join()"
    )
    browser.run("document.querySelector('[data-kind=all]').click()")
    browser.run("var find_ = document.getElementById('find'); find_.value = 'LAYER2'")
    browser.run("find_.dispatchEvent(new Event('input'))")
    assert browser.run(names) == ["layer2.0.downsample.0", "layer2.0.conv1"]
    browser.run("find_.value = ''; find_.dispatchEvent(new Event('input'))")
    browser.run("sort.value = 'macs'; sort.dispatchEvent(new Event('change'))")
    order = savings(resnet)[:, 0].argsort(descending=True, stable=True).tolist()
    assert browser.run(names)[:6] == [resnet.prunable[i].name for i in order]
