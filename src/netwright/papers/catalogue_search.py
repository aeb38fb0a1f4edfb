"""The papers on search strategies, search for hardware and quantisation, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

SEARCH: tuple[Entry, ...] = (
    Entry(
        5,
        "damo-yolo",
        "nas",
        "DAMO-YOLO : A Report on Real-Time Object Detection Design",
        "object detector with a searched backbone, a heavy neck and distillation",
    ),
    Entry(
        18,
        "quantized-resnet-pareto",
        "quantization",
        "Pareto-Optimal Quantized ResNet Is Mostly 4-bit",
        "accuracy against cost of ResNets at 4 and 8 bits",
    ),
    Entry(
        20,
        "nasnet",
        "nas",
        "Learning Transferable Architectures for Scalable Image Recognition",
        "cell search by reinforcement learning, transferred to larger images",
    ),
    Entry(
        22,
        "hardware-aware-search",
        "nas",
        "A Hardware-Aware System for Accelerating Deep Neural Network Optimization",
        "evolution with predictors on a supernet, for a given hardware",
    ),
    Entry(
        44,
        "eas",
        "compose",
        "Efficient Architecture Search by Network Transformation",
        "search by widening and deepening a trained network",
    ),
    Entry(
        45,
        "fbnetv3",
        "nas",
        "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining",
        "joint search of architecture and training recipe by a pretrained predictor",
    ),
    Entry(
        50,
        "auto-gnn",
        "nas",
        "Auto-GNN: Neural Architecture Search of Graph Neural Networks",
        "search of graph networks by conservative exploration with shared weights",
    ),
    Entry(
        53,
        "quantnas",
        "quantization",
        "QuantNAS for super resolution: searching for efficient quantization-friendly architectures "
        "against quantization noise",
        "search of super-resolution networks under quantisation noise",
    ),
    Entry(
        58,
        "nas-evaluation",
        "nas",
        "NAS evaluation is frustratingly hard",
        "search strategies against random sampling under one protocol",
    ),
    Entry(
        66,
        "calibration-study",
        "metrics",
        "A Benchmark Study on Calibration",
        "calibration of many architectures under many measures",
    ),
)
