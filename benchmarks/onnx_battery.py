"""Networks exported to ONNX, pruned there by half, run in ONNX Runtime against the masked dense network.

    python benchmarks/onnx_battery.py                     # 25 networks by two exporters
    python benchmarks/onnx_battery.py resnet18 swin --exporter dynamo

The weights are random, the statistics of batch norms too, so that no two tensors are equal by accident. The
file is the source of everything after the export. Columns: nodes of the graph; share of the parameters that
stay; the difference of the file's own answer from PyTorch's, of the smaller file in ONNX Runtime (float32)
from the masked dense network (float64), of the same in float64; how much the removal changed; and whether the
ties that the file has are those of the module, over so many dimensions of parameters as could be matched.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import onnx
import onnx.version_converter
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright import structure
from netwright.errors import NetwrightError
from netwright.pruning import prune
from netwright.structure.onnx import read_onnx
from netwright.structure.onnx.checking import RuntimeNetwork, check_file

Build = Callable[[], tuple[nn.Module, Tensor]]
_NETWORKS: dict[str, Build] = {}


def network(function: Build) -> Build:
    _NETWORKS[function.__name__.replace("_", "-").strip("-")] = function
    return function


def _zoo(name: str, size: int, **options: object) -> Build:
    def build() -> tuple[nn.Module, Tensor]:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options), torch.randn(2, 3, size, size)

    return build


def _timm(name: str, size: int, **options: object) -> Build:
    def build() -> tuple[nn.Module, Tensor]:
        import timm

        return timm.create_model(name, num_classes=10, **options), torch.randn(2, 3, size, size)

    return build


for _name, _size in [
    ("resnet18", 64), ("resnet50", 64), ("mobilenet_v2", 64), ("mobilenet_v3_small", 64), ("densenet121", 64),
    ("shufflenet_v2_x0_5", 64), ("squeezenet1_1", 64), ("efficientnet_b0", 64), ("regnet_y_400mf", 64),
    ("mnasnet0_5", 64), ("convnext_tiny", 64), ("swin_t", 64),
]:  # fmt: skip
    _NETWORKS[_name] = _zoo(_name, _size, num_classes=10)
_NETWORKS["googlenet"] = _zoo("googlenet", 64, num_classes=10, init_weights=False, aux_logits=False)
_NETWORKS["lraspp"] = _zoo("lraspp_mobilenet_v3_large", 64, weights_backbone=None, num_classes=5)
_NETWORKS["timm-mixer"] = _timm("mixer_s32_224", 224)
_NETWORKS["timm-repvgg"] = _timm("repvgg_a0", 64)
_NETWORKS["timm-mobilevit"] = _timm("mobilevit_xxs", 64)


@network
def vit() -> tuple[nn.Module, Tensor]:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 3, 4, 64, 128, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    return model, torch.randn(2, 3, 32, 32)


@network
def mlp() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 3)
    ), torch.randn(2, 20)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 24, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(48, 20, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


@network
def recurrent() -> tuple[nn.Module, Tensor]:
    return _Recurrent(), torch.randn(2, 6, 8)


@network
def signal() -> tuple[nn.Module, Tensor]:
    """A 1-D CNN."""
    return nn.Sequential(
        nn.Conv1d(2, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 5, groups=4),
        nn.GroupNorm(4, 32), nn.GELU(), nn.MaxPool1d(2), nn.Conv1d(32, 32, 3, padding=1, groups=32),
        nn.Conv1d(32, 48, 1), nn.ELU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, 4),
    ), torch.randn(2, 2, 64)  # fmt: skip


@network
def encoder() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return nn.Sequential(
        nn.Linear(12, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 6)
    ), torch.randn(2, 9, 12)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@network
def super_resolution() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1), _Residual(24), _Residual(24), nn.Conv2d(24, 48, 3, 1, 1),
        nn.PixelShuffle(2), nn.Conv2d(12, 3, 3, 1, 1),
    ), torch.randn(2, 3, 12, 12)  # fmt: skip


@network
def generator() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(
        nn.ConvTranspose2d(16, 64, 4), nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.BatchNorm2d(32), nn.LeakyReLU(0.2), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    ), torch.randn(2, 16, 1, 1)  # fmt: skip


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b, affine=True), nn.ReLU())

        self.first, self.second, self.third = block(3, 16), block(16, 32), block(32, 64)
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.fourth, self.fifth = block(64, 32), block(48, 16)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(F.max_pool2d(a, 2))
        c = self.third(F.max_pool2d(b, 2))
        d = self.fourth(torch.cat([self.up(c), b], 1))
        up = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(self.fifth(torch.cat([up, a], 1)))


@network
def unet() -> tuple[nn.Module, Tensor]:
    return _UNet(), torch.randn(2, 3, 32, 32)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *args: object, **options: object
) -> Tensor:
    """Spelled out, for opset 13 of the exporter by tracing, which does not know the fused operator."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v


@contextmanager
def _spelled_out():
    fused, F.scaled_dot_product_attention = F.scaled_dot_product_attention, _attention
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused
        torch.backends.mha.set_fastpath_enabled(fast)


#: The newest opset that PyTorch's exporter writes by itself; its fallback for newer ones leaves bad graphs.
_EXPORTED = 25


def export(model: nn.Module, example: Tensor, exporter: str) -> bytes:
    """An ONNX file with an open batch: opset 13 by "torchscript", the newest that onnx knows by "dynamo"."""
    quiet = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            file = io.BytesIO()
            with _spelled_out():
                torch.onnx.export(
                    model, (example,), file, opset_version=13, dynamo=False, input_names=["x"],
                    dynamic_axes={"x": {0: "batch"}},
                )  # fmt: skip
            return file.getvalue()
        program = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=_EXPORTED, verbose=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
        return _newest(program.model_proto).SerializeToString()


def _newest(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in the newest opset: where the operators are the same ones, only the number changes."""
    newest = onnx.defs.onnx_opset_version()
    schema = onnx.defs.get_schema
    if all(
        schema(n.op_type, newest).since_version == schema(n.op_type, _EXPORTED).since_version
        for n in model.graph.node
    ):
        for entry in model.opset_import:
            entry.version = newest if not entry.domain else entry.version
        return model
    return onnx.version_converter.convert_version(model, newest)


def randomise(model: nn.Module) -> None:
    """Give every parameter and statistic values of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            else:  # copies of one layer must differ, too, and a last layer of zeros must answer
                tensor.add_((0.1 if tensor.dim() < 2 else 0.02) * noise)


def same_ties(
    module: nn.Module, traced: structure.Structure, graph: nn.Module, read: structure.Structure
) -> tuple[int, bool]:
    """Whether a module and a graph tie the same indices, over the parameters that both have.

    Parameters are matched by name and shape, else by value, transposed or not, else by value up to a factor a
    row (a batch norm that was folded in).

    Returns:
        Dimensions compared, and whether the ties among them, and what is frozen, agree.
    """
    ours, theirs = dict(module.named_parameters()), dict(graph.named_parameters())
    left, right = [], []
    compared = 0
    free = dict(theirs)
    for name, tensor in ours.items():
        found = _match(name, tensor.detach(), free)
        if found is None:
            continue
        other, turned = found
        del free[other]
        for dim, layer in traced.layers.get(name, {}).items():
            there = read.layers.get(other, {}).get(tensor.dim() - 1 - dim if turned else dim)
            if there is None:
                continue
            there = there.t() if turned else there
            a, b = torch.broadcast_tensors(layer, there)
            left.append(torch.where(traced.frozen[a], 0, a).reshape(-1))
            right.append(torch.where(read.frozen[b], 0, b).reshape(-1))
            compared += 1
    if not left:
        return 0, False
    pairs = torch.unique(torch.stack([torch.cat(left), torch.cat(right)]), dim=1)
    one_to_one = all(len(torch.unique(row)) == pairs.shape[1] for row in pairs)
    frozen_alike = bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
    return compared, one_to_one and frozen_alike


def _match(name: str, tensor: Tensor, free: dict[str, nn.Parameter]) -> tuple[str, bool] | None:
    if name in free and free[name].shape == tensor.shape:
        return name, False
    for other, value in free.items():
        if value.shape == tensor.shape and torch.equal(value, tensor):
            return other, False
        if value.dim() == 2 and value.t().shape == tensor.shape and torch.equal(value.t(), tensor):
            return other, True
    if tensor.dim() < 2:
        return None
    for other, value in free.items():
        if value.shape == tensor.shape and torch.allclose(_rows(value), _rows(tensor), atol=1e-4):
            return other, False
    return None


def _rows(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12) * flat[:, :1].sign()


def measure(name: str, exporter: str) -> dict[str, object]:
    torch.manual_seed(0)
    model, example = _NETWORKS[name]()
    model.eval()
    randomise(model)
    begun = time.perf_counter()
    content = export(model, example, exporter)
    exported = time.perf_counter() - begun
    with torch.no_grad():
        answer = model(example)
        answer = answer["out"] if isinstance(answer, dict) else answer
        dense = RuntimeNetwork(content)(example)
    scale = float(answer.abs().max())
    begun = time.perf_counter()
    graph = read_onnx(content)
    result = prune(graph, graph.example(), "keep=0.5", allocation="uniform")
    seconds = time.perf_counter() - begun
    small = result.model.proto()
    onnx.checker.check_model(small)
    content = small.SerializeToString()
    net = result.net
    wide = structure.check(graph, net, result.keep, result.model)
    narrow = check_file(graph, net, result.keep, content)
    three = RuntimeNetwork(content)(torch.cat([example, example[:1]]))
    assert (three if isinstance(three, Tensor) else three[0]).shape[0] == 3, "the batch is no longer open"
    compared, same = same_ties(model, structure.trace(model, example, heads=net.heads), graph, net)
    return {
        "network": name, "exporter": exporter, "opset": graph.program.version,
        "nodes": len(graph.program.steps),
        "params": net.params, "kept": result.after.params / result.before.params,
        "export_error": float((dense - answer).abs().max()) / scale,
        "runtime_error": narrow.error, "float64_error": wide.error, "change": wide.change,
        "dims_compared": compared, "same_ties": same, "unknown": sorted(net.labels.unknown),
        "export_seconds": exported, "prune_seconds": seconds,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=", ".join(_NETWORKS))
    parser.add_argument("--exporter", choices=["torchscript", "dynamo", "both"], default="both")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    exporters = ["torchscript", "dynamo"] if options.exporter == "both" else [options.exporter]
    print(
        f"{'network':<20}{'opset':>6}{'nodes':>7}{'kept':>7}{'export':>9}{'runtime':>9}{'float64':>9}"
        f"{'change':>9}{'ties':>12}{'s':>7}"
    )
    rows, bad = [], 0
    for name in options.names or _NETWORKS:
        for exporter in exporters:
            try:
                row = measure(name, exporter)
            except Exception as error:
                bad += 1
                text = " ".join(str(error).split())[:160]
                print(f"{name:<20}{exporter}: {type(error).__name__}: {text}", flush=True)
                if not isinstance(error, NetwrightError):
                    traceback.print_exc(file=sys.stderr)
                rows.append({"network": name, "exporter": exporter, "failure": text})
                continue
            rows.append(row)
            good = row["runtime_error"] <= 1e-5 and row["float64_error"] <= 1e-10 and row["change"] > 1e-6
            bad += not (good and row["same_ties"])
            ties = f"{'same' if row['same_ties'] else 'DIFFER'} {row['dims_compared']}"
            print(
                f"{name:<20}{row['opset']:>6}{row['nodes']:>7}{row['kept']:>7.2f}{row['export_error']:>9.0e}"
                f"{row['runtime_error']:>9.0e}{row['float64_error']:>9.0e}{row['change']:>9.0e}{ties:>12}"
                f"{row['prune_seconds']:>7.2f}{'' if good else '  FAILS'}", flush=True,
            )  # fmt: skip
    print(f"{len(rows) - bad} of {len(rows)} hold")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
