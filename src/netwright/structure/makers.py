"""Which parameters make a tensor: where copies that a contraction counts can carry their shares instead.

`(s W x) k = s (W x) k`: the rows of the linear map that made a query take the share of the weight that the
product with the key cannot. That is right only for rows of which nothing else comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.cost import VIEWS
from netwright.structure.record import Node, Recording, Ref

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NORMS = frozenset({"native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm"})
RESHAPES = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_as as_strided".split()
)
#: A parameter, and which of its dimensions each dimension of a view of it is (-1: none, or several).
Root = tuple[int, tuple[int, ...]]
#: Operators that hand on all of their input.
_WHOLE = RESHAPES | frozenset("t transpose permute expand clone _to_copy alias".split())
#: Operators `f` with `f(s x) = s f(x)` for every positive `s`.
_HOMOGENEOUS = frozenset("relu amax max_pool2d_with_indices".split())
_MOVES = VIEWS | {"clone"}


@dataclass(frozen=True)
class Made:
    """A parameter that scales a tensor.

    Attributes:
        name: The parameter.
        dim: Along this dimension.
        rows: (size,) bool, the indices there that make the tensor; all when None.
    """

    name: str
    dim: int
    rows: Bools | None = None


class Makers:
    """What makes the tensors of one recording.

    Args:
        net: The structure.
        recording: One of its recordings.
        roots: Parameters and views of them, by number; filled while the recording is read.
    """

    def __init__(self, net: Structure, recording: Recording, roots: dict[int, Root]) -> None:
        self._net, self._recording, self._roots = net, recording, roots
        self._names = {number: name for name, number in reversed(recording.parameters.items())}
        self._made: dict[int, list[Node]] = {}
        self._readers: dict[int, list[Node]] = {}
        for node in recording.nodes:
            for number in node.outputs:
                self._made.setdefault(number, []).append(node)
            for number in set(node.inputs):
                self._readers.setdefault(number, []).append(node)

    def of(self, number: int, classes: Ints) -> list[Made] | None:
        """Parameters that scale all members of a tensor and nothing else: there copies can have their shares.

        Args:
            number: A tensor that one contraction reads.
            classes: What it contracts over.

        Returns:
            A norm's weight and bias, a scale, or a linear map's rows and bias; None where the tensor is read
            elsewhere too, made in another way, or where the parameters do not vary along the contracted axis
            (the rows of a linear map are no tokens).
        """
        made = self._of(number)
        if made is None:
            return None
        wanted = classes[classes != 0]
        for name in {one.name for one in made}:
            met = np.zeros(len(wanted), np.int64)  # along how many dimensions it meets each of them
            for dim, rows in {one.dim: one.rows for one in made if one.name == name}.items():
                layer = self._net.layers.get(name, {}).get(dim)
                if layer is not None:
                    labels = layer.numpy() if rows is None else layer.reshape(-1).numpy()[rows]
                    met += np.isin(wanted, labels)
            if (met != 1).any():
                return None
        return made

    def _of(self, number: int) -> list[Made] | None:
        while len(self._readers.get(number, ())) == 1 and len(self._made.get(number, ())) == 1:
            (node,) = self._made[number]
            if node.op in ("mul", *NORMS) and len(node.inputs) > 1:
                return self._scales(node.inputs[1:] if node.op != "mul" else node.inputs)
            if "batch_norm" in node.op or node.op in ("mm", "addmm", "convolution"):
                return self._channels(node)
            if node.op in _HOMOGENEOUS and len(node.inputs) == 1 and node.outputs[0] == number:
                number = node.inputs[0]
                continue
            if len(node.inputs) != 1:
                return None
            source = node.inputs[0]
            whole = len(node.outputs) == 1 and _whole(node)
            if not whole or len(self._readers[source]) != 1:
                return self._part(number) if node.op in _MOVES else None
            number = source
        return None

    def _part(self, number: int) -> list[Made] | None:
        """The makers of one of several parts that views take of what a linear map or a batch norm made."""
        root = number
        while len(self._made.get(root, ())) == 1 and self._made[root][0].op in _MOVES:
            root = self._made[root][0].inputs[0]
        if len(self._made.get(root, ())) != 1:
            return None
        node = self._made[root][0]
        if node.outputs[0] != root:
            return None
        made = self._channels(node)
        if made is None:
            return None
        shape = self._recording.shapes[root]
        dim = len(shape) - 1 if node.op in ("mm", "addmm") else 1
        along = [n if d == dim else 1 for d, n in enumerate(shape)]
        rows = self._rows_of(
            number, root, torch.arange(shape[dim], dtype=torch.int32).reshape(along).expand(shape)
        )
        if rows is None or any(len(rows) != self._size(one) for one in made):
            return None
        return [Made(one.name, one.dim, rows) for one in made]

    def _size(self, made: Made) -> int:
        return int(self._recording.shapes[self._recording.parameters[made.name]][made.dim])

    def _rows_of(self, wanted: int, root: int, index: Tensor) -> Bools | None:
        """The channels of a tensor that one view of it holds; None where another reader sees one of them.

        Args:
            wanted: The view.
            root: What it is a view of.
            index: The channel of every element of that.
        """
        mine = np.zeros(int(index.max()) + 1, np.bool_)
        others = mine.copy()
        ahead = [(root, index.contiguous())]
        while ahead:
            number, channel = ahead.pop()
            for node in self._readers.get(number, ()):
                if number == wanted or node.op not in _MOVES or len(node.inputs) != 1:
                    (mine if number == wanted else others)[channel.unique().numpy()] = True
                    continue
                ahead += zip(node.outputs, _moved(node, channel), strict=True)
            if number in self._recording.outputs:
                others[channel.unique().numpy()] = True
        return None if (mine & others).any() else mine

    def _alone(self, number: int) -> tuple[str, tuple[int, ...]] | None:
        """A parameter that is read once, by the chain of views that ends here."""
        root = self._roots.get(number)
        if root is None or any(len(self._readers.get(n, ())) != 1 for n in (number, root[0])):
            return None
        return self._names[root[0]], root[1]

    def _scales(self, numbers: list[int]) -> list[Made] | None:
        """Scales (and a norm's bias), along whatever they vary: exactly one product of them is meant."""
        found = [self._alone(n) for n in numbers if n in self._roots]
        if not found or any(f is None for f in found):
            return None
        return [Made(f[0], dim) for f in found if f is not None for dim in self._net.layers.get(f[0], {})]

    def _channels(self, node: Node) -> list[Made] | None:
        """The rows of a linear map or a convolution and its bias, or the scale and shift of a batch norm."""
        if "batch_norm" in node.op:
            return self._scales(node.inputs[1:3]) if len(node.inputs) == 5 else None
        if node.op not in ("mm", "addmm", "convolution"):
            return None
        conv = node.op == "convolution"
        weight = self._alone(node.inputs[1 if conv else -1])
        if weight is None or (conv and node.args[6]):  # a transposed convolution has its rows elsewhere
            return None
        row = weight[1][0 if conv else -1]
        if row < 0:
            return None
        found = [Made(weight[0], row)]
        if len(node.inputs) == 3:
            bias = self._alone(node.inputs[2 if conv else 0])
            if bias is None:
                return None
            found.append(Made(bias[0], 0))
        return found


def _whole(node: Node) -> bool:
    """Whether an operator hands on all of its input, scaled by a number at most."""
    by_number = node.op in ("mul", "div") and not any(isinstance(a, Ref) for a in node.args[1:])
    return by_number or node.op in _WHOLE


def _moved(node: Node, channel: Tensor) -> list[Tensor]:
    """What a view makes of the channels of its input."""
    if node.op in RESHAPES and node.op not in ("squeeze", "unsqueeze", "as_strided", "unflatten"):
        out = channel.reshape(node.args[1]) if node.op != "flatten" else node.target(channel, *node.args[1:])
    else:
        out = node.target(channel.contiguous(), *node.args[1:], **node.kwargs)
    return list(out) if isinstance(out, (list, tuple)) else [out]
