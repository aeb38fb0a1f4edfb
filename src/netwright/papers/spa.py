"""SPA and OBSPA (#64): prune any architecture, from any framework, at any time, also without data.

The ordinary run prunes a trained residual network on Fashion-MNIST without training it again. The further
arms prune before training and with fine-tuning, many architectures, and files of other frameworks. With
``--data`` the same arms run on ResNet-50 and the user's images.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_DATA = "OBSPA: state of the art without fine-tuning"
_FREE = "OBSPA: neither fine-tuning nor calibration data"
_BEFORE = "pruning before training"
_AFTER = "group importances, with fine-tuning"
_ANY = "any architecture"
_FRAMEWORK = "any framework, through ONNX"
FULL = "full scale"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("accuracy lost by OBSPA with data, 25 %", _DATA, "<= 0.05"),
    Claim("OBSPA with data above L1 and BN statistics, 25 %", _DATA, "> 0"),
    Claim("OBSPA with data above L1 and BN statistics, 50 %", _DATA, "> 0"),
    Claim("OBSPA with data above L1 alone, 25 %", _DATA, "> 0"),
    Claim("OBSPA with data above L1 alone, 50 %", _DATA, "> 0"),
    Claim("OBSPA without data above L1 alone, 25 %", _FREE, "> 0"),
    Claim("OBSPA without data above L1 alone, 50 %", _FREE, "> 0"),
    Claim("before training: mean of the group scores against random channels", _BEFORE, ">= 0", FURTHER),
    Claim("fine-tuned: group against producer alone, L1", _AFTER, ">= 0", FURTHER),
    Claim("fine-tuned: group against producer alone, SNIP", _AFTER, ">= 0", FURTHER),
    Claim("fine-tuned: group against producer alone, Taylor", _AFTER, ">= 0", FURTHER),
    Claim("architectures pruned, run and exported", _ANY, "within 0 of 1", FURTHER),
    Claim("largest difference from ONNX Runtime", _ANY, "< 1e-4", FURTHER),
    Claim("files of other frameworks pruned and run", _FRAMEWORK, "within 0 of 1", FURTHER),
    Claim("accuracy lost by OBSPA with data, 25 %, full scale", _DATA, "<= 0.05", FULL),
)


@paper(
    slug="spa",
    number=64,
    title="Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
    year=2024,
    link="https://arxiv.org/abs/2403.18955",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import spa_further, spa_parts

    if run.data is not None:
        spa_parts.full(run, run.data)
    elif run.scope == FURTHER:
        spa_further.measure(run)
    else:
        spa_parts.headline(run)
