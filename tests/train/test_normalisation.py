from __future__ import annotations

import torch
from torch import nn

from netwright.train import Average, recalibrate_, recalibrated


def test_statistics_become_those_of_the_batches(net: nn.Module) -> None:
    x = 3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    net.train()
    net.bn2.eval()
    assert recalibrate_(net, [x[:32], (x[32:], torch.zeros(32))]) == 2
    assert net.training
    assert not net.bn2.training
    assert net.bn1.momentum == 0.1
    with torch.no_grad():
        hidden = net.conv1(x)
    assert torch.allclose(net.bn1.running_mean, hidden.mean(dim=(0, 2, 3)), atol=1e-5)
    per_batch = torch.stack([h.transpose(0, 1).flatten(1).var(dim=1) for h in hidden.split(32)])
    assert torch.allclose(net.bn1.running_var, per_batch.mean(dim=0), rtol=1e-4)


def test_copy_leaves_the_original_and_limit_is_kept(net: nn.Module) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.ones(8, 1, 8, 8)
    other = recalibrated(net, [x, x, x], limit=2)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert int(other.bn1.num_batches_tracked) == 2


def test_nothing_changes_without_batch_norm_or_batches(net: nn.Module) -> None:
    before = net.bn1.running_var.clone()
    assert recalibrate_(nn.Linear(2, 2), [torch.zeros(2, 2)]) == 0
    assert recalibrate_(net, [torch.zeros(1, 1, 8, 8)]) == 0
    assert torch.equal(net.bn1.running_var, before)


def test_average_follows_weights_and_buffers(net: nn.Module) -> None:
    average = Average(net, 0.5)
    with torch.no_grad():
        start = net.fc.weight.clone()
        net.fc.weight += 1
        net.bn1.running_mean += 2
        net.bn1.num_batches_tracked += 5
    average.update(net)  # the first step's decay is 1 / 10
    assert torch.allclose(average.model.fc.weight, start + 0.9)
    assert torch.allclose(average.model.bn1.running_mean, torch.full((8,), 1.8))
    assert int(average.model.bn1.num_batches_tracked) == 5
