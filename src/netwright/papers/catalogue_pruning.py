"""The papers on pruning and sparsity, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

PRUNING: tuple[Entry, ...] = (
    Entry(
        1,
        "precropping",
        "pruning",
        "Structured Pruning is All You Need for Pruning CNNs at Initialization",
        "channel widths before training, from scores at initialisation",
    ),
    Entry(
        15,
        "rnn-sparsity",
        "pruning",
        "Investigating Sparsity in Recurrent Neural Networks",
        "pruned and randomly structured recurrent networks",
    ),
    Entry(
        26,
        "tas",
        "pruning",
        "Network Pruning via Transformable Architecture Search",
        "widths and depths of a pruned network by gradient, then distillation",
    ),
    Entry(
        28,
        "random-pruning",
        "pruning",
        "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse "
        "Training",
        "random pruning at initialisation with good layer-wise ratios",
    ),
    Entry(
        32,
        "masksparsity",
        "pruning",
        "Pruning-aware Sparse Regularization for Network Pruning",
        "sparse regularisation of only those channels that will be pruned",
    ),
    Entry(
        36,
        "n2n",
        "pruning",
        "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning",
        "compresses a network by reinforcement learning on its layers",
    ),
    Entry(
        43,
        "activating-while-pruning",
        "pruning",
        "AP: Selective Activation for De-sparsifying Pruned Neural Networks",
        "wakes dead units while pruning",
    ),
    Entry(
        51,
        "iss-p",
        "pruning",
        "Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution",
        "soft shrinkage of small weights while training super-resolution networks",
    ),
    Entry(
        57,
        "random-search-sparse",
        "pruning",
        "Random Search as a Baseline for Sparse Neural Network Architecture Search",
        "random search as the baseline of sparse architecture search",
    ),
    Entry(
        59,
        "exssnet",
        "pruning",
        "Exclusive Supermask Subnetwork Training for Continual Learning",
        "continual learning by exclusive sub-networks under supermasks",
    ),
    Entry(
        61,
        "supertickets",
        "pruning",
        "SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly Architecture "
        "Searching and Parameter Pruning",
        "lottery tickets drawn from a supernet while it is searched",
    ),
    Entry(
        62,
        "lottery-rewinding",
        "pruning",
        "Stabilizing the Lottery Ticket Hypothesis",
        "iterative pruning with rewinding to an early step",
    ),
    Entry(
        64,
        "spa",
        "pruning",
        "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
        "structured pruning of any architecture, before, after or without training",
    ),
    Entry(
        68,
        "granet",
        "pruning",
        "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration",
        "gradual pruning with regrowth at no cost",
    ),
)
