from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netwright.data import Splits, load
from netwright.errors import ArtefactError, DataError, UsageError
from netwright.metrics import (
    accuracy_interval,
    agreement,
    feed,
    file_bytes,
    onnx_accuracy,
    onnx_logits,
    open_session,
)
from netwright.quantization import export_onnx
from netwright.train import evaluate, logits


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)).eval()


@pytest.mark.parametrize("dynamic", [True, False])
def test_file_answers_and_scores_like_the_network(
    net: nn.Module, digits: Splits, tmp_path: Path, dynamic: bool
) -> None:
    part = digits.test.head(50)  # neither batch size divides 50
    path = export_onnx(net, digits.example(7), tmp_path / "net.onnx", dynamic_batch=dynamic).path
    answers = onnx_logits(path, part, batch_size=16)
    assert torch.allclose(answers, logits(net, part, device="cpu"), atol=1e-5)
    score, reference = onnx_accuracy(path, part, batch_size=16), evaluate(net, part, device="cpu")
    assert score.accuracy == reference.accuracy
    assert score.loss == pytest.approx(reference.loss, rel=1e-5)
    assert score.count == 50
    assert len(onnx_logits(path, part, limit=5)) == 5
    assert file_bytes(path) == path.stat().st_size


def test_file_that_is_no_network_or_missing(digits: Splits, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a network")
    for path in (bad, tmp_path / "none.onnx"):
        with pytest.raises(ArtefactError, match=path.name) as caught:
            onnx_accuracy(path, digits.test)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArtefactError, match="no file"):
        file_bytes(tmp_path / "none.onnx")


def test_inputs_are_checked_by_name_number_and_shape(net: nn.Module, digits: Splits, tmp_path: Path) -> None:
    session = open_session(export_onnx(net, digits.example(2), tmp_path / "net.onnx").path)
    x = torch.zeros(3, 1, 8, 8)
    assert feed(session, {"input": x})["input"].shape == (3, 1, 8, 8)
    assert feed(session, x.double())["input"].dtype.name == "float32"
    with pytest.raises(DataError, match="'input'"):
        feed(session, {"image": x})
    with pytest.raises(DataError, match="1 inputs, the example has 2"):
        feed(session, (x, x))
    with pytest.raises(DataError, match="batchx1x8x8, the example is 3x3x8x8"):
        feed(session, torch.zeros(3, 3, 8, 8))


def test_agreement_of_equal_and_shifted_answers() -> None:
    a = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    same = agreement(a, a)
    assert (same.top1, same.kl, same.relative_error) == (1.0, pytest.approx(0, abs=1e-12), 0.0)
    # A constant changes the logits, not the probabilities.
    shifted = agreement(a, a + 3)
    assert shifted.top1 == 1
    assert shifted.kl == pytest.approx(0, abs=1e-12)
    assert shifted.relative_error == pytest.approx((3 * 10 / a.double().norm()).item(), rel=1e-6)
    assert agreement(torch.eye(2), torch.eye(2).flip(0)).top1 == 0
    with pytest.raises(UsageError, match="cannot be compared"):
        agreement(a, a[:3])


def test_kl_by_its_definition() -> None:
    p, q = torch.tensor([[0.7, 0.3]]).double(), torch.tensor([[0.5, 0.5]]).double()
    assert agreement(p.log(), q.log()).kl == pytest.approx((p * (p / q).log()).sum().item())


@given(count=st.integers(1, 10_000), share=st.floats(0, 1))
def test_interval_holds_the_share_and_narrows(count: int, share: float) -> None:
    correct = round(share * count)
    low, high = accuracy_interval(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    wider = accuracy_interval(correct, count, confidence=0.99)
    assert wider[0] <= low
    assert wider[1] >= high


def test_interval_against_a_published_value() -> None:
    low, high = accuracy_interval(81, 263)  # Newcombe (1998), table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    with pytest.raises(UsageError, match="no share"):
        accuracy_interval(3, 2)
