"""What a network costs and how well it answers, measured."""

from netwright.metrics.latency import Latency, arguments, latencies, latency, quartiles
from netwright.metrics.memory import PeakMemory, net_memory, peak_memory
from netwright.metrics.quality import (
    Agreement,
    accuracy_interval,
    agreement,
    file_bytes,
    onnx_accuracy,
    onnx_logits,
)
from netwright.metrics.session import Example, feed, open_session, run_padded

__all__ = [
    "Agreement",
    "Example",
    "Latency",
    "PeakMemory",
    "accuracy_interval",
    "agreement",
    "arguments",
    "feed",
    "file_bytes",
    "latencies",
    "latency",
    "net_memory",
    "onnx_accuracy",
    "onnx_logits",
    "open_session",
    "peak_memory",
    "quartiles",
    "run_padded",
]
