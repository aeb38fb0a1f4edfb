"""Sparse kernels answer as the masked network does, and what they cost is measured or not claimed."""

import copy

import pytest
import torch
from torch import Tensor, nn

import netwright as nw
from netwright.errors import UsageError
from netwright.pruning import MaskState, bake
from netwright.pruning.masks.sparse_kernels import SparseLinear, accelerate_sparse

HAS_SPARSE_CORES = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


class Mixed(nn.Module):
    """Linear layers of several shapes, one shared, one of sizes that no block divides, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 64)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.one = nn.Linear(64, 64, bias=False)
        self.two = nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.head = nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.embed(x))
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))))


X = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def answer(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("kernel", "granularity"), [("csr", "weight"), ("bsr", "block:8x8"), ("bsr", "weight")]
)
def test_answers_are_those_of_the_masked_network(mixed, kernel, granularity, soft):
    found = nw.sparsify(mixed, keep=0.2, granularity=granularity, exclude=["block.self_attn"])
    model = found.model
    if soft:
        model = copy.deepcopy(mixed)
        MaskState(model, found.masks, soft=True)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fast = accelerate_sparse(model, kernel)
    assert torch.allclose(answer(fast.model), answer(bake(model)), atol=1e-5)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    layers = {n for n, m in fast.model.named_modules() if isinstance(m, SparseLinear)}
    uneven = {"head", "embed"} if kernel == "bsr" else set()  # 7 rows and 10 columns
    assert layers == {"embed", "block.linear1", "block.linear2", "one", "two", "head"} - uneven
    assert {n for n, k in fast.kernels.items() if k == "dense"} == uneven
    assert fast.dense is None and any("not measured" in note for note in fast.notes)
    stored = fast.model.one.weight.values().numel()
    if granularity != "weight" or kernel == "csr":
        assert stored == found.kept["one.weight"]
    else:
        assert any("are zeros" in note for note in fast.notes)
    assert fast.model.one.block == (8 if granularity == "block:8x8" else 4)


def test_the_kernels_are_really_called(mixed):
    fast = accelerate_sparse(nw.sparsify(mixed, keep=0.2).model, "csr").model
    calls: list[str] = []
    for name, module in fast.named_modules():
        if isinstance(module, SparseLinear):
            module.register_forward_hook(lambda m, a, y, name=name: calls.append(name))
    with torch.inference_mode():
        fast(X)
    assert set(calls) == {"embed", "block.linear1", "block.linear2", "one", "two", "head"}


def test_auto_times_every_layer_and_the_whole(mixed):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8))
    x = torch.randn(32, 512)
    fast = accelerate_sparse(nw.sparsify(model, keep=0.01).model, example=x)
    assert set(fast.kernels) == {"0", "2"} and set(fast.kernels.values()) <= {"dense", "csr", "bsr"}
    assert fast.difference < 1e-5
    assert fast.dense.median_ms > 0 and fast.sparse.ratio > 0
    assert "ms dense" in str(fast) and fast.sparse.runtime == "torch"
    if set(fast.kernels.values()) == {"dense"}:
        assert torch.equal(answer(fast.model, x), answer(bake(model), x))


def test_copies_and_other_batches(mixed):
    fast = accelerate_sparse(nw.sparsify(mixed, keep=0.2).model, "csr").model
    twin = copy.deepcopy(fast)
    x = torch.randn(1, 2, 10)
    again = accelerate_sparse(nw.sparsify(Mixed(), keep=0.2, importance="random").model, "csr").model
    assert set(again.state_dict()) == set(fast.state_dict())
    assert torch.equal(answer(twin, x), answer(fast, x)) and answer(twin, x).shape == (1, 2, 7)
    assert answer(fast.one, torch.randn(64)).shape == (64,)


@pytest.mark.skipif(HAS_SPARSE_CORES, reason="the device has sparse tensor cores")
def test_devices_without_sparse_cores_are_named(mixed):
    model = nw.sparsify(mixed, granularity="2:4").model
    with pytest.raises(UsageError, match=r"sparse tensor cores.*the network is on CPU.*csr"):
        accelerate_sparse(model, "2:4")


@pytest.mark.skipif(not HAS_SPARSE_CORES, reason="needs sparse tensor cores")
def test_sparse_cores_answer_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128)).half().cuda()
    model = nw.sparsify(model, granularity="2:4").model
    x = torch.randn(64, 256).half().cuda()
    fast = accelerate_sparse(model, "2:4", example=x)
    assert set(fast.kernels.values()) == {"2:4"} and fast.difference < 2e-2


def test_what_makes_no_sense_is_refused(mixed):
    masked = nw.sparsify(mixed, keep=0.2).model
    with pytest.raises(UsageError, match="no kernel 'coo'"):
        accelerate_sparse(masked, "coo")
    with pytest.raises(UsageError, match="one linear layer"):
        accelerate_sparse(nw.sparsify(nn.Linear(8, 8), keep=0.5).model, "csr")
    with pytest.raises(UsageError, match="no masks"):
        accelerate_sparse(mixed, "csr")
    with pytest.raises(UsageError, match="example"):
        accelerate_sparse(masked)
    with pytest.raises(UsageError, match="no linear layer"):
        accelerate_sparse(nw.sparsify(nn.Sequential(nn.Conv2d(3, 8, 3)), keep=0.5).model, "csr")
    uneven = nn.Sequential(nn.Linear(7, 9))
    with pytest.raises(UsageError, match="no layer fits"):
        accelerate_sparse(nw.sparsify(uneven, keep=0.5).model, "bsr")
    with pytest.raises(UsageError, match=r"csr does not run on cpu in torch\.float16"):
        accelerate_sparse(nw.sparsify(nn.Sequential(nn.Linear(8, 8)), keep=0.5).model.half(), "csr")


def test_sparse_results_claim_no_speed(mixed):
    assert any("make nothing faster on dense kernels" in n for n in nw.sparsify(mixed, keep=0.5).notes)
