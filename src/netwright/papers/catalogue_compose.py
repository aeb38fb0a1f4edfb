"""The papers on composing and training networks, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

COMPOSE: tuple[Entry, ...] = (
    Entry(
        3,
        "meal-v2",
        "train",
        "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks",
        "distils an ensemble's soft labels into one network, with a discriminator on its outputs",
    ),
    Entry(
        7,
        "stitchable-nets",
        "compose",
        "Stitchable Neural Networks",
        "stitches pretrained networks of a family into many networks of sizes in between",
    ),
    Entry(
        9,
        "pleas",
        "compose",
        "PLeaS -- Merging Models with Permutations and Least Squares",
        "merges two networks by partial permutation and least squares",
    ),
    Entry(
        12,
        "hypernet-review",
        "compose",
        "A Brief Review of Hypernetworks in Deep Learning",
        "hypernetworks: networks that generate another network's weights, as a toolkit",
    ),
    Entry(
        34,
        "dependency-preserving-hypernets",
        "compose",
        "Continual Learning with Dependency Preserving Hypernetworks",
        "recurrent hypernetwork for continual learning",
    ),
    Entry(
        35,
        "mip-hypernets",
        "compose",
        "Magnitude Invariant Parametrizations Improve Hypernetwork Learning",
        "input encodings and residuals that make hypernetworks train well",
    ),
    Entry(
        37,
        "rich-lazy",
        "metrics",
        "How connectivity structure shapes rich and lazy learning in neural circuits",
        "how the rank of initial weights decides between rich and lazy learning",
    ),
    Entry(
        38,
        "learngene-pool",
        "compose",
        "Building Variable-sized Models via Learngene Pool",
        "networks of many sizes from a pool of distilled instances",
    ),
    Entry(
        47,
        "simclrv2",
        "train",
        "Big Self-Supervised Models are Strong Semi-Supervised Learners",
        "self-supervised pretraining, fine-tuning on few labels, distillation",
    ),
    Entry(
        54,
        "task-geometry",
        "metrics",
        "Task structure and nonlinearity jointly determine learned representational geometry",
        "geometry of learned representations from task and nonlinearity",
    ),
    Entry(
        65,
        "guidance",
        "train",
        "Training the Untrainable: Introducing Inductive Bias via Representational Alignment",
        "guides a network that does not train by the representation of another",
    ),
    Entry(
        67,
        "dataset-reinforcement",
        "data",
        "Reinforce Data, Multiply Impact: Improved Model Accuracy and Robustness with Dataset Reinforcement",
        "a data set reinforced once by a teacher's answers on augmented images",
    ),
)
