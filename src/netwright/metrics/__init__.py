"""What a network costs and how well it answers, measured."""

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
from netwright.metrics.session import Example, feed, open_session, run_padded
from netwright.metrics.table_source import latency_table

__all__ = [
    "Agreement",
    "Example",
    "Latency",
    "LatencyTable",
    "PeakMemory",
    "accuracy_interval",
    "agreement",
    "arguments",
    "feed",
    "file_bytes",
    "latencies",
    "latency",
    "latency_table",
    "net_memory",
    "onnx_accuracy",
    "onnx_logits",
    "open_session",
    "peak_memory",
    "quartiles",
    "run_padded",
]
