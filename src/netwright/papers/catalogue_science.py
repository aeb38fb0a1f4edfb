"""The papers on scientific, medical and financial systems, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

SCIENCE: tuple[Entry, ...] = (
    Entry(
        8,
        "resnls",
        "science",
        "ResNLS: An Improved Model for Stock Price Forecasting",
        "ResNet and LSTM in one network for stock prices",
    ),
    Entry(
        13,
        "rrnet",
        "science",
        "A Model RRNet for Spectral Information Exploitation and LAMOST Medium-resolution Spectrum "
        "Parameter Estimation",
        "residual recurrent network for stellar parameters from LAMOST spectra",
    ),
    Entry(
        17,
        "dr-baseline",
        "science",
        "A ResNet is All You Need? Modeling A Strong Baseline for Detecting Referable Diabetic "
        "Retinopathy in Fundus Images",
        "strong ResNet-18 baseline for referable diabetic retinopathy",
    ),
    Entry(
        42,
        "petct-slices",
        "science",
        "A slice classification neural network for automated classification of axial PET/CT slices from "
        "a multi-centric lymphoma dataset",
        "which PET/CT slices show lymphoma, and how a leaky split flatters",
    ),
    Entry(
        46,
        "rim-mri",
        "science",
        "Reconstructing unseen modalities and pathology with an efficient Recurrent Inference Machine",
        "recurrent inference machine with cheap cells for MRI reconstruction",
    ),
    Entry(
        56,
        "spatiospatial-mri",
        "science",
        "Classification of Brain Tumours in MR Images using Deep Spatiospatial Models",
        "(2+1)D and mixed-convolution networks for brain tumours in MRI",
    ),
    Entry(
        69,
        "rdesign",
        "science",
        "RDesign: Hierarchical Data-efficient Representation Learning for Tertiary Structure-based RNA "
        "Design",
        "RNA sequences for a given tertiary structure",
    ),
)
