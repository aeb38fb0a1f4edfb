"""The papers on weight-sharing supernets, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

SUPERNETS: tuple[Entry, ...] = (
    Entry(
        10,
        "vit-resnas",
        "supernets",
        "Searching for Efficient Multi-Stage Vision Transformers",
        "multi-stage vision Transformers by a weight-sharing search with several architectures a step",
    ),
    Entry(
        19,
        "mixture-of-supernets",
        "supernets",
        "Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with Architecture-Routed "
        "Mixture-of-Experts",
        "supernet whose weights an architecture-routed mixture of experts makes",
    ),
    Entry(
        21,
        "tanglenas",
        "supernets",
        "Weight-Entanglement Meets Gradient-Based Neural Architecture Search",
        "gradient-based search on entangled supernet weights",
    ),
    Entry(
        24,
        "shiftnas",
        "supernets",
        "ShiftNAS: Improving One-shot NAS via Probability Shift",
        "one-shot training whose path probabilities shift to what needs training",
    ),
    Entry(
        29,
        "bossnas",
        "supernets",
        "BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural "
        "Architecture Search",
        "block-wise self-supervised search over convolution and Transformer blocks",
    ),
    Entry(
        30,
        "balanced-supernet-mixture",
        "supernets",
        "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
        "where to pool in a network, by a balanced mixture of supernets",
    ),
    Entry(
        40,
        "bignas",
        "supernets",
        "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
        "single-stage supernet from which networks are used without retraining",
    ),
    Entry(
        48,
        "few-shot-nas-gm",
        "supernets",
        "Generalizing Few-Shot NAS with Gradient Matching",
        "splits a supernet by how well gradients match",
    ),
    Entry(
        49,
        "sortednet",
        "supernets",
        "SortedNet, a Place for Every Network and Every Network in its Place: Towards a Generalized "
        "Solution for Training Many-in-One Neural Networks",
        "nested sub-networks trained together, found without search",
    ),
    Entry(
        60,
        "pa-da",
        "supernets",
        "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS",
        "samples paths and data by importance for consistent one-shot search",
    ),
)
