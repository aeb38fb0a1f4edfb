"""Full-size networks with random weights: the exact counts, and that everything is held."""

import pytest
from benchmarks.full_scale import Setting, run_case

#: Weights of convolutions and of the classifier of ResNet-50.
WEIGHTS = 25_502_912
SETTING = Setting(batch=2)
NAMES = ("random-pruning", "granet", "exchange", "lottery-rewinding")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("torchvision")
    return {name: run_case(name, SETTING) for name in NAMES}


def test_random_masks_have_exact_counts_by_erk(found):
    case = found["random-pruning"]
    assert case["weights"] == WEIGHTS and case["kept"] == round(0.2 * WEIGHTS) and case["held"]
    assert case["highest"] == 1.0 and 0.02 < case["lowest"] < 0.06


def test_granet_prunes_and_exchanges_half(found):
    case = found["granet"]
    # One of two events of the cubic schedule: 0.2 + 0.3 (1 - 1/2)^3 stays.
    assert case["keep1"] == pytest.approx(0.2 + 0.3 / 8, abs=1e-6)
    assert case["kept"] == round(0.2 * WEIGHTS) and case["held"]
    assert 0 < case["grown"] < case["pruned"]


def test_an_exchange_moves_as_many_as_come(found):
    case = found["exchange"]
    assert case["grown"] == case["pruned"] > 0 and case["kept"] == round(0.2 * WEIGHTS) and case["held"]


def test_lottery_tickets_are_rewound(found):
    case = found["lottery-rewinding"]
    assert case["kept0"] == WEIGHTS and case["kept1"] == WEIGHTS - -(-WEIGHTS // 5)
    assert case["held0"] and case["held1"] and case["rewound"]


def test_ap_prunes_as_many_as_its_host():
    pytest.importorskip("torchvision")
    case = run_case("activating-while-pruning", SETTING)
    assert case["kept_host"] == case["kept_ap"] == round(0.8 * WEIGHTS) and case["held"]
    assert 0 < case["dynamic"] < 1


@pytest.mark.parametrize(
    ("name", "weights"), [("iss-p-edsr-large", 43_070_976), ("iss-p-swinir-light", 854_820)]
)
def test_soft_shrinkage_ends_at_its_share_layer_by_layer(name, weights):
    case = run_case(name, Setting(batch=1))
    assert case["weights"] == weights and case["held"]


def test_wide_resnet_is_masked_by_erk():
    pytest.importorskip("torchvision")
    case = run_case("random-pruning-wide", Setting(batch=1))
    # The weights of convolutions and of the classifier; 68,883,240 parameters less those of norms and biases.
    assert case["weights"] == 68_814_016 and case["kept"] == round(0.2 * case["weights"]) and case["held"]


def test_recurrent_networks_at_the_thesis_sizes():
    case = run_case("rnn-sparsity", Setting())
    for cell, gates in (("tanh", 1), ("relu", 1), ("GRU", 3), ("LSTM", 4)):
        assert case[f"{cell}_weights"] == gates * 3 * 2 * 50 * 50
        assert case[f"{cell}_kept"] == case[f"{cell}_weights"] // 10
    assert case["held"]


def test_resnet110_through_mask_sparsity():
    case = run_case("masksparsity-resnet110", Setting(batch=2))
    assert case["macs"] == 253_149_824 and case["params"] == 1_730_714
    assert case["held"] and case["params_after"] < case["params"] and case["penalised"] > 0


def test_resnet110_through_tas():
    case = run_case("tas-resnet110", Setting(batch=2))
    assert case["macs"] == 253_149_824 and case["held"] and case["macs_after"] > 0.4 * case["macs"]
