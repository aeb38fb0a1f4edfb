"""The papers on architectures, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

ARCHITECTURES: tuple[Entry, ...] = (
    Entry(
        2,
        "s4",
        "models",
        "Efficiently Modeling Long Sequences with Structured State Spaces",
        "sequence model on structured state spaces, for long-range dependencies",
    ),
    Entry(
        4,
        "paratranscnn",
        "models",
        "ParaTransCNN: Parallelized TransCNN Encoder for Medical Image Segmentation",
        "CNN and pyramid Transformer side by side as the encoder of a segmentation network",
    ),
    Entry(
        6,
        "resnet-rs",
        "nas",
        "Revisiting ResNets: Improved Training and Scaling Strategies",
        "ResNets with modern training and rules for scaling depth and resolution",
    ),
    Entry(
        11,
        "simplenet",
        "models",
        "Lets keep it simple, Using simple architectures to outperform deeper and more complex architectures",
        "plain convolutional network of 13 layers against deeper ones",
    ),
    Entry(16, "poincare-resnet", "models", "Poincaré ResNet", "residual network wholly in the Poincaré ball"),
    Entry(
        23,
        "inception-v4",
        "models",
        "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
        "Inception with residual connections",
    ),
    Entry(
        33,
        "vovnet",
        "models",
        "An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection",
        "one-shot aggregation backbone, cheap in energy and memory access",
    ),
    Entry(
        39,
        "recat",
        "models",
        "Augmenting Transformers with Recursively Composed Multi-grained Representations",
        "Transformer over recursively composed spans",
    ),
    Entry(
        41,
        "ibn-net",
        "models",
        "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
        "instance and batch normalisation together, for other domains",
    ),
    Entry(
        55,
        "grassmann-class-representation",
        "models",
        "Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class "
        "Representation",
        "classes as subspaces, for accuracy and transfer",
    ),
)
