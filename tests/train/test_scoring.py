from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright.data import Splits
from netwright.errors import DataError, ModelError, UsageError
from netwright.train import Runtime, check_fits, evaluate, logits, main_output, resolve_device


def test_score_by_its_definition(net: nn.Module, digits: Splits) -> None:
    net.train()
    score = evaluate(net, digits.test, device="cpu", batch_size=100)
    answers = logits(net, digits.test, device="cpu", batch_size=64)
    labels = torch.cat([y for _, y in digits.test.batches(64)])
    assert net.training
    assert score.count == len(digits.test) == len(answers)
    assert score.accuracy == pytest.approx((answers.argmax(1) == labels).double().mean().item())
    assert score.loss == pytest.approx(nn.functional.cross_entropy(answers, labels).item(), rel=1e-5)
    assert score.correct == int((answers.argmax(1) == labels).sum())
    assert evaluate(net, digits.test, device="cpu", limit=50).count == 50


def test_rejected_batch_names_both_shapes(digits: Splits) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(ModelError, match=r"1, 8, 8.*\(4, 3, 3, 3\)"):
        evaluate(model, digits.test, device="cpu")


def test_too_few_classes_and_no_batch_dimension(digits: Splits) -> None:
    runtime = Runtime(torch.device("cpu"), bf16=False, channels_last=False)
    example = digits.example(2)
    with pytest.raises(ModelError, match="5 classes, the data have 10"):
        check_fits(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), example, 10, runtime)
    with pytest.raises(ModelError, match="classifier answers"):
        check_fits(nn.Flatten(0), example, 10, runtime)


def test_logits_are_found_in_tuples_and_mappings() -> None:
    x = torch.ones(1)
    assert main_output((x, None)) is x
    assert main_output({"aux": None, "logits": x}) is x
    with pytest.raises(ModelError, match="NoneType"):
        main_output(None)


def test_unlabelled_split_has_no_accuracy(net: nn.Module, unlabelled: Splits) -> None:
    with pytest.raises(DataError, match="labels"):
        evaluate(net, unlabelled.test)


def test_unknown_device() -> None:
    with pytest.raises(UsageError, match="warp"):
        resolve_device("warp")
