"""Removal in stages adds up to one removal: the same shapes, the same function, on many kinds of network."""

import copy

import pytest
import torch
from torch import nn

import netwright as nw
from netwright.errors import UsageError
from netwright.models import ResNetCifar
from netwright.pruning.removal.channels import remove_channels
from netwright.pruning.removal.stages import in_stages
from netwright.pruning.schedules.cycles import Cycles, iterative


class Separable(nn.Module):
    """Depthwise and grouped convolutions with a shuffle between the groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 1, groups=2)
        self.norm = nn.GroupNorm(2, 16)
        self.last = nn.Conv2d(16, 12, 3, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.norm(self.grouped(self.depthwise(self.stem(x))))
        x = torch.relu(nn.functional.channel_shuffle(x, 2))
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


class Dense(nn.Module):
    """Layers that read the concatenation of all earlier ones, and a flattened classifier."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(9, 6, 3, padding=1)
        self.three = nn.Conv2d(15, 8, 3, stride=2)
        self.head = nn.Linear(8 * 9, 5)

    def forward(self, x):
        for layer in (self.one, self.two):
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return self.head(torch.relu(self.three(x)).flatten(1))


class Attention(nn.Module):
    """Two encoder layers over patches."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, stride=2)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))


class Recurrent(nn.Module):
    """A stacked bidirectional LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(24, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(1, 2).flatten(2))[0].mean(dim=1))


NETS = {
    "residual": lambda: ResNetCifar(8, widths=(8, 16, 16)),
    "separable": Separable,
    "dense": Dense,
    "attention": Attention,
    "recurrent": Recurrent,
}


#: A file of the recurrent network is mostly its graph, which does not shrink.
CASES = [(n, b) for n in NETS for b in ("macs=0.4", "params=0.4", "keep=0.5")] + [("residual", "size=0.6")]


@pytest.mark.parametrize(("name", "budget"), CASES)
def test_stages_add_up_to_one_removal(name, budget):
    torch.manual_seed(0)
    model, x = NETS[name](), torch.randn(4, 3, 8, 8)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    states, last = {n: t.clone() for n, t in model.state_dict().items()}, []

    def train(network):
        """What a training does: other values everywhere."""
        twin = copy.deepcopy(network)
        with torch.no_grad():
            for number, parameter in enumerate(twin.parameters()):
                noise = torch.Generator().manual_seed(number)
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        last.append(twin)
        return twin, [{"epoch": 1, "accuracy": None}]

    def remove(network, bound, heads):
        return remove_channels(network, x, bound, repair="none", round_to=1, heads=heads)

    found = in_stages(model, x, budget, iterative(rounds=3), remove, train)
    assert len(last) == 3
    with torch.no_grad():
        torch.testing.assert_close(found.model.eval()(x), last[-1].eval()(x), rtol=1e-5, atol=1e-6)
    # Each stage is smaller than the one before, and what is reported is what there is.
    counts = [sum(p.numel() for p in n.parameters()) for n in (model, *last)]
    assert counts == sorted(counts, reverse=True)
    assert nw.trace(found.model, x).macs == found.after.macs
    limit = nw.Budget.parse(budget)
    if limit.macs is not None:
        assert found.after.macs <= 0.4 * found.before.macs
    if limit.params is not None:
        assert found.after.params <= 0.4 * found.before.params
    if limit.keep is not None:
        kept, total = (sum(w[k] for w in found.widths.values()) for k in (0, 1))
        assert kept <= 0.5 * total
    assert [record["stage"] for record in found.history] == [0, 1, 2]
    assert all(torch.equal(t, states[n]) for n, t in model.state_dict().items())


def test_the_fraction_says_how_many_stages():
    torch.manual_seed(0)
    model, x = Dense(), torch.randn(2, 3, 8, 8)
    seen = []

    def remove(network, bound, heads):
        seen.append(bound.macs.value)
        return remove_channels(network, x, bound, repair="none", round_to=1, heads=heads)

    in_stages(model, x, "macs=0.5", Cycles(fraction=0.2, what="none"), remove, lambda n: (n, []))
    dense = nw.trace(model, x).macs
    # 0.8^4 < 0.5 < 0.8^3: four stages, by the same factor each.
    assert seen == pytest.approx([dense * 0.5 ** (k / 4) for k in range(1, 5)])


@pytest.mark.parametrize("option", [{"heads": "width"}, {"round_to": 4}, {"check": True}, {"distill": True}])
def test_mask_sparsity_takes_no_choices_that_it_would_ignore(option):
    splits = nw.data.load("digits")
    with pytest.raises(UsageError, match="does not take"):
        nw.prune(
            ResNetCifar(8), splits.example(), "macs=0.5", schedule="mask-sparsity", data=splits, **option
        )
