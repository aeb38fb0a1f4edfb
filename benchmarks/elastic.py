"""Supernets: what switching, running and training sub-networks costs, and that cutting them out is exact.

    python benchmarks/elastic.py switch            # ResNet-50: switching, the full width, memory of a step
    python benchmarks/elastic.py zoo [--choices 20]   # nine networks: extracted = sliced, costs, a step
    python benchmarks/elastic.py zoo --memory --only vit   # a step of the largest sub-network beside plain
    python benchmarks/elastic.py whittle           # a small GPT beside whittle (pip install whittle)

Times are medians of calls that alternate in one process on one thread (of a switch, its CPU time); memory is
the peak resident size of a process of its own, less its imports. Results are printed as JSON.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netwright as nw
from netwright import supernets
from netwright.errors import UsageError

WIDTHS = [0.25, 0.5, 0.75, 1.0]


def alternating(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call; they take turns, so that a busy machine meets all alike."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if turn:
                spent[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(times) for name, times in spent.items()}


def peak_mb(target: Callable[..., None], *args: Any) -> float:
    """Peak resident megabytes of a process that does one thing, above what its imports take."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(False)
    process = context.Process(target=_measured, args=(send, target, args))
    process.start()
    found: float = receive.recv()
    process.join()
    return found


def _resident(key: str) -> float:
    """VmRSS or VmHWM of this process, in megabytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _count_from_here() -> None:
    """Forget the peak of what was made before, and give back what it took."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _measured(send: Any, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    before = _resident("VmRSS")
    # The peak that a new process shows first is its parent's.
    Path("/proc/self/clear_refs").write_text("5")
    target(*args)
    send.send(_resident("VmHWM") - before)


# --- switching -------------------------------------------------------------------------------------------


def _resnet50() -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet50()
    return model.eval()


def _step(kind: str, size: int) -> None:
    """One training step of ResNet-50: plain, or the largest sub-network; the supernet is made before."""
    model, x = _resnet50(), torch.randn(4, 3, size, size)
    network = nw.elastic(model, x[:1], width=WIDTHS, depth=True) if kind != "plain" else model
    if kind == "plain":
        nw.trace(model, x[:1])  # what is only needed once is no part of the comparison
        network = copy.deepcopy(model)
    del model
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        network.train()(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def switch(size: int = 96, rounds: int = 9) -> dict[str, Any]:
    """Switching, the full width against the plain network, and memory."""
    plain, x = _resnet50(), torch.randn(1, 3, size, size)
    sup = nw.elastic(plain, x, width=WIDTHS, depth=True).eval()
    rng = np.random.default_rng(0)
    fresh = [sup.space.sample(rng) for _ in range(60)]
    times = []
    for choice in fresh:  # each for the first time
        begun = time.process_time()
        sup.set(choice)
        with sup.bound():
            pass
        times.append(1e3 * (time.process_time() - begun))
    again = []
    for choice in fresh:
        begun = time.process_time()
        sup.set(choice)
        with sup.bound():
            pass
        again.append(1e3 * (time.process_time() - begun))
    sup.set(sup.blueprint.full)
    with torch.no_grad():
        forward = alternating({"plain": lambda: plain(x), "supernet": lambda: sup(x)}, rounds)
        small = sup.space.min()
        cut = sup.extract(small)
        slices = alternating({"extracted": lambda: cut(x), "slice": lambda: sup.set(small)(x)}, rounds)
    own, shared = [sum(t.nbytes for t in m.state_dict().values()) for m in (plain, sup)]
    memory = {kind: peak_mb(_step, kind, size) for kind in ("plain", "supernet")}
    return {
        "sub_networks": f"{sup.space.size():.3g}",
        "switch_ms": {
            "first": statistics.median(times),
            "first_max": max(times),
            "again": statistics.median(again),
        },
        "full_forward_ms": forward,
        "full_forward_ratio": forward["supernet"] / forward["plain"],
        "smallest_ms": slices,
        "smallest_slice_ratio": slices["slice"] / slices["extracted"],
        "weights_ratio": shared / own,
        "step_peak_mb": memory,
        "step_memory_ratio": memory["supernet"] / memory["plain"],
    }


# --- nine networks ---------------------------------------------------------------------------------------


def networks() -> Iterator[tuple[str, nn.Module, Any]]:
    """Name, network, example: at sizes at which twenty choices of each take minutes."""
    import timm
    import torchvision
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    vision = torchvision.models
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in (
        "resnet50",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "densenet121",
        "convnext_tiny",
        "swin_t",
    ):
        torch.manual_seed(0)
        yield name, getattr(vision, name)(), image
    torch.manual_seed(0)
    yield "vit_base_patch16 (64 px)", timm.create_model("vit_base_patch16_224", img_size=64), image
    text = {"input_ids": torch.arange(64).reshape(2, 32) % 300, "use_cache": False}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    yield (
        "GPT-2 (6 layers, 192)",
        GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=192, n_head=6, vocab_size=300, **ends)),
        text,
    )
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "vocab_size": 300}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3}
    torch.manual_seed(0)
    yield "Llama (6 layers, 192)", LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends)), text


def _call(network: nn.Module, example: Any) -> Tensor:
    answer = network(**example) if isinstance(example, dict) else network(example)
    return answer if isinstance(answer, Tensor) else answer.logits


def _zoo_step(kind: str, name: str) -> None:
    """Two training steps of a network of the zoo: plain, or the largest sub-network."""
    model, example = next((m, x) for n, m, x in networks() if n == name)
    network = _supernet(model, example) if kind != "plain" else model
    if kind == "plain":
        nw.trace(model, example)  # what is only needed once is no part of the comparison
        network = copy.deepcopy(model)
    del model
    _count_from_here()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        _call(network.train(), example).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def memory(name: str) -> dict[str, Any]:
    """Peak memory of training steps, the supernet's largest sub-network beside the plain network."""
    found = {kind: peak_mb(_zoo_step, kind, name) for kind in ("plain", "supernet")}
    return {"network": name, "step_peak_mb": found, "ratio": found["supernet"] / found["plain"]}


def _supernet(model: nn.Module, example: Any) -> supernets.Elastic:
    """Of four widths, and of depths where the network has residual blocks."""
    try:
        return nw.elastic(model.eval(), example, width=WIDTHS, depth=True).eval()
    except UsageError:  # no residual block, or its code fixes sizes
        return nw.elastic(model.eval(), example, width=WIDTHS).eval()


def check(name: str, model: nn.Module, example: Any, count: int) -> dict[str, Any]:
    """Random choices: slice against extracted, predicted against retraced cost, a step on each."""
    begun = time.process_time()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # no zero and no one hides a mistake
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    sup = _supernet(model, example)
    made = time.process_time() - begun
    rng = np.random.default_rng(0)
    worst, wrong, steps = 0.0, {"macs": 0, "params": 0, "activation_bytes": 0}, 0
    for _ in range(count):
        choice = sup.space.sample(rng)
        sup.set(choice).eval()
        small = sup.extract(choice)
        with torch.no_grad():
            ours, theirs = _call(sup, example), _call(small, example)
        worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
        real, said = nw.trace(small, example).dense, sup.cost(choice)
        for figure in wrong:
            wrong[figure] += getattr(real, figure) != getattr(said, figure)
        sup.train().zero_grad()
        loss = _call(sup, example).float().square().mean()
        loss.backward()
        got = [p.grad for p in sup.parameters() if p.grad is not None]
        steps += bool(torch.isfinite(loss)) and bool(got) and all(bool(g.isfinite().all()) for g in got)
    return {
        "network": name,
        "sub_networks": f"{sup.space.size():.3g}",
        "surgery_for_each": sup.blueprint.rules is None,
        "choices": count,
        "largest_difference": worst,
        "costs_that_differ": wrong,
        "steps_that_worked": steps,
        "made_in_s": round(made, 2),
        "seconds": round(time.process_time() - begun, 1),
    }


# --- whittle ---------------------------------------------------------------------------------------------

LAYERS, EMBED, HEADS, INNER, CONTEXT, VOCABULARY = 6, 192, 6, 768, 64, 96


class Block(nn.Module):
    """A pre-norm block as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(EMBED), nn.LayerNorm(EMBED)
        self.qkv, self.proj = nn.Linear(EMBED, 3 * EMBED), nn.Linear(EMBED, EMBED)
        self.up, self.down = nn.Linear(EMBED, INNER), nn.Linear(INNER, EMBED)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        size = x.shape[:2]
        q, k, v = self.qkv(self.norm_1(x)).view(*size, 3, -1, EMBED // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(*size, -1))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Gpt(nn.Module):
    """The layers of whittle's GPT; positions are learned, so that none need rotations."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, EMBED), nn.Embedding(CONTEXT, EMBED)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(EMBED), nn.Linear(EMBED, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        at = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(at))))


def whittle_gpt() -> Any:
    """Whittle's GPT of the same layers; its rotary embedding turns a single pair, the least that it takes."""
    from litgpt import Config
    from whittle.models.gpt import GPT

    return GPT(
        Config(
            n_layer=LAYERS,
            n_embd=EMBED,
            n_head=HEADS,
            n_query_groups=HEADS,
            intermediate_size=INNER,
            block_size=CONTEXT,
            vocab_size=VOCABULARY,
            padded_vocab_size=VOCABULARY,
            bias=True,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            rotary_percentage=2 * HEADS / EMBED,
            parallel_residual=False,
        )
    )


def _sizes(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Embedding, heads, inner width, layers: one of each for the whole network, as whittle has it."""
    return (
        int(rng.choice([96, 144, 192])),
        int(rng.choice([2, 4, 6])),
        int(rng.choice([192, 384, 768])),
        int(rng.choice([3, 4, 5, 6])),
    )


def _ours() -> tuple[Any, Callable[[tuple[int, int, int, int]], None]]:
    torch.manual_seed(0)
    model, x = Gpt(), torch.zeros(1, CONTEXT, dtype=torch.long)
    net = nw.trace(model, x)
    inner = [a.name for a in net.prunable if a.size == INNER]
    heads = [a.name for a in net.prunable if a.size == HEADS]
    (stream,) = (a.name for a in net.prunable if a.size == EMBED)
    widths = {name: [192, 384, 768] for name in inner} | {name: [2, 4, 6] for name in heads}
    widths[stream] = [96, 144, 192]
    sup = nw.elastic(
        model, x, width=widths, depth=[3, 4, 5, 6], share={"inner": inner, "heads": heads, "stream": [stream]}
    )
    (depth,) = (d.name for d in sup.space.dims if d.name.startswith("depth:"))

    def choose(sizes: tuple[int, int, int, int]) -> None:
        names = ("width:stream", "width:heads", "width:inner", depth)
        sup.set(dict(zip(names, sizes, strict=True)))

    return sup, choose


def _theirs() -> tuple[Any, Callable[[tuple[int, int, int, int]], None]]:
    torch.manual_seed(0)
    model = whittle_gpt()

    def choose(sizes: tuple[int, int, int, int]) -> None:
        embed, heads, inner, layers = sizes
        model.set_sub_network(
            sub_network_n_embd=embed,
            sub_network_intermediate_size=inner,
            sub_network_num_heads=heads,
            sub_network_n_layers=layers,
            sub_network_query_groups=heads,
            sub_network_head_size=EMBED // HEADS,
        )

    return model, choose


def _batch(count: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, CONTEXT), generator=torch.Generator().manual_seed(0))


def _train_step(network: Any, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    logits = network(x)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _gpt_steps(kind: str, batch: int) -> None:
    """Some training steps on random sub-networks."""
    if kind == "plain":
        torch.manual_seed(0)
        _ours()
        network, choose = Gpt(), lambda sizes: None
    else:
        network, choose = _ours() if kind == "netwright" else _theirs()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rng, x = np.random.default_rng(0), _batch(batch)
    for _ in range(6):
        choose(_sizes(rng))
        _train_step(network, x, optimizer)


def whittle(batch: int = 8, rounds: int = 12) -> dict[str, Any]:
    """Steps on the same sub-networks in turn; a full step, and a switch by itself."""
    made = {"netwright": _ours(), "whittle": _theirs()}
    optimizers = {n: torch.optim.AdamW(m.parameters(), lr=1e-4) for n, (m, _) in made.items()}
    x = _batch(batch)
    plain = Gpt()
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    sizes = [_sizes(np.random.default_rng(i)) for i in range(rounds + 1)]

    def step(name: str, at: Callable[[], tuple[int, int, int, int]]) -> Callable[[], None]:
        network, choose = made[name]

        def call() -> None:
            choose(at())
            _train_step(network, x, optimizers[name])

        return call

    full = (EMBED, HEADS, INNER, LAYERS)
    turns = {name: iter(sizes) for name in made}
    random = alternating({n: step(n, lambda n=n: next(turns[n])) for n in made}, rounds)  # type: ignore[misc]
    whole = alternating(
        {
            "plain": lambda: _train_step(plain, x, plain_optimizer),
            **{n: step(n, lambda: full) for n in made},
        },
        rounds,
    )
    turns = {name: iter(sizes) for name in made}
    switches = alternating({n: lambda n=n: made[n][1](next(turns[n])) for n in made}, rounds)  # type: ignore[misc]
    memory = {kind: peak_mb(_gpt_steps, kind, batch) for kind in ("plain", "netwright", "whittle")}
    parameters = {n: sum(p.numel() for p in m.parameters()) for n, (m, _) in made.items()}
    return {
        "batch": batch,
        "parameters": parameters,
        "random_step_ms": random,
        "random_step_ratio": random["netwright"] / random["whittle"],
        "full_step_ms": whole,
        "full_step_ratio": whole["netwright"] / whole["whittle"],
        "full_step_over_plain": whole["netwright"] / whole["plain"],
        "switch_ms": switches,
        "peak_mb": memory,
        "memory_ratio": memory["netwright"] / memory["whittle"],
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("switch", "zoo", "whittle"))
    parser.add_argument("--choices", type=int, default=20, help="of each network of the zoo")
    parser.add_argument("--only", help="parts of names of networks of the zoo")
    parser.add_argument("--memory", action="store_true", help="of a training step, instead of the checks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "zoo":
        for name, model, example in networks():
            if not given.only or any(o in name.lower() for o in given.only.lower().split(",")):
                found = memory(name) if given.memory else check(name, model, example, given.choices)
                print(json.dumps(found), flush=True)
        return
    if given.what == "whittle":
        try:
            import whittle as _  # noqa: F401
        except ImportError:
            sys.exit("whittle is not installed: pip install whittle")
    print(json.dumps(switch() if given.what == "switch" else whittle(), indent=2))


if __name__ == "__main__":
    main()
