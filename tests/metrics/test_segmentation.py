"""Intersection over union by hand, and over a split."""

import pytest
import torch
from torch import nn

from netwright.data import Part
from netwright.errors import DataError
from netwright.metrics import confusion, intersection_over_union, mean_iou


def test_counts_and_ratios_by_hand():
    labels = torch.tensor([[[0, 0, 1], [1, 2, -1]]])
    answers = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    counts = confusion(answers, labels, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    ratios = intersection_over_union(counts)
    assert ratios[:3].tolist() == pytest.approx([1 / 3, 2 / 3, 0]) and ratios[3].isnan()


class Says(nn.Module):
    """Answers the class that the image has written into its pixels."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0].round().long(), 3).permute(0, 3, 1, 2).float()


def test_over_a_split():
    labels = torch.randint(0, 3, (10, 4, 6), generator=torch.Generator().manual_seed(0))
    perfect = Part.from_tensors(labels[:, None].float(), labels)
    assert mean_iou(Says(), perfect, batch_size=3) == 1
    other = labels.clone()
    other[:5] = (other[:5] + 1) % 3
    wrong = Part.from_tensors(labels[:, None].float(), other)
    whole = intersection_over_union(confusion(labels, other, 3)).mean()
    assert mean_iou(Says(), wrong, batch_size=4) == pytest.approx(float(whole)) and whole < 1


def test_labels_of_whole_pictures_are_refused():
    with pytest.raises(DataError, match="every pixel"):
        mean_iou(Says(), Part.from_tensors(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)))
