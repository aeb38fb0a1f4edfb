"""What a network costs and how well it answers, measured."""

from netwright.metrics.allocations import allocated_peak
from netwright.metrics.bleu import bleu
from netwright.metrics.calibration import calibration_error, negative_log_likelihood
from netwright.metrics.dead_neurons import DeadRates, dead_neurons
from netwright.metrics.images import luminance, psnr, psnr_y, ssim, ssim_y
from netwright.metrics.latency import Latency, arguments, latencies, latency, quartiles
from netwright.metrics.latency_table import LatencyTable
from netwright.metrics.memory import PeakMemory, net_memory, peak_memory
from netwright.metrics.quality import (
    Agreement,
    accuracy_interval,
    agreement,
    file_bytes,
    onnx_accuracy,
    onnx_logits,
)
from netwright.metrics.robustness import fgsm, fgsm_accuracy, outlier_auroc
from netwright.metrics.segmentation import confusion, intersection_over_union, mean_iou
from netwright.metrics.session import Example, feed, open_session, run_padded
from netwright.metrics.super_resolution import Enlarged, enlarging_quality
from netwright.metrics.table_source import latency_table

__all__ = [
    "Agreement",
    "DeadRates",
    "Enlarged",
    "Example",
    "Latency",
    "LatencyTable",
    "PeakMemory",
    "accuracy_interval",
    "agreement",
    "allocated_peak",
    "arguments",
    "bleu",
    "calibration_error",
    "confusion",
    "dead_neurons",
    "enlarging_quality",
    "feed",
    "fgsm",
    "fgsm_accuracy",
    "file_bytes",
    "intersection_over_union",
    "latencies",
    "latency",
    "latency_table",
    "luminance",
    "mean_iou",
    "negative_log_likelihood",
    "net_memory",
    "onnx_accuracy",
    "onnx_logits",
    "open_session",
    "outlier_auroc",
    "peak_memory",
    "psnr",
    "psnr_y",
    "quartiles",
    "run_padded",
    "ssim",
    "ssim_y",
]
