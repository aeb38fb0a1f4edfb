"""Other normalisations in the place of a network's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import ModelError
from netwright.structure.copying import deep_copy

_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: nn.InstanceNorm1d,
    nn.BatchNorm2d: nn.InstanceNorm2d,
    nn.BatchNorm3d: nn.InstanceNorm3d,
}


def with_instance_norm(model: nn.Module) -> nn.Module:
    """A copy whose batch normalisations take their statistics from each instance instead.

    Scales and shifts are those of the batch normalisations; nothing is left that a change of the network's
    width would make stale.

    Args:
        model: Any network; it is not touched.

    Raises:
        ModelError: if it has no batch normalisation of one of PyTorch's three kinds.
    """
    made = deep_copy(model)
    found = [(p, m) for p, m in made.named_modules() if type(m) in _KINDS and isinstance(m, _BatchNorm)]
    if not found:
        raise ModelError("there is no batch normalisation to replace", "use the model as it is")
    for path, norm in found:
        new = _KINDS[type(norm)](norm.num_features, norm.eps, affine=norm.affine)
        new.to(next((t.device for t in (*norm.parameters(), *norm.buffers())), torch.device("cpu")))
        new._parameters.update(norm._parameters)
        parent, _, name = path.rpartition(".")
        setattr(made.get_submodule(parent), name, new.train(norm.training))
    return made
