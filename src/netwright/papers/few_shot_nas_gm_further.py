"""The further arms of few-shot search with gradient matching, one after another on one thread."""

from __future__ import annotations

from netwright.papers import few_shot_nas_gm_algorithms as algorithms
from netwright.papers import few_shot_nas_gm_full as full
from netwright.papers import few_shot_nas_gm_spaces as spaces
from netwright.papers.plot import figure
from netwright.papers.run import Run, one_thread


def measure(run: Run) -> None:
    """Several algorithms, an entangled space, photographs, and the paper's spaces for a few steps."""
    run.settings["further arms"] = {
        "seeds": 2,
        "kernels and widths": {
            "epochs of a way to a leaf": spaces.SANDWICH_EPOCHS,
            "kernels": spaces.KERNELS,
        },
        "photo-patches": {
            "epochs of a way to a leaf": spaces.CELL_EPOCHS,
            "patches to train, to judge by, to test": spaces.PATCHES,
            "networks trained alone": spaces.NETWORKS,
            "trainings of each": spaces.TRUTH_SEEDS,
        },
        "comparisons of gradients": spaces.REPEATS,
    }
    with one_thread():
        panels = algorithms.measure(run)
        panels.append(spaces.kernels_and_widths(run))
        panels.append(spaces.photographs(run))
        full.measure(run)
    title = "Few-shot NAS with gradient matching: other algorithms, spaces and images"
    run.plot(figure(title, panels, columns=2, width=520, height=320))
