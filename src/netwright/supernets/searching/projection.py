"""One network out of a mixture, decided dim after dim by what the supernet itself answers.

R. Wang, M. Cheng, X. Chen, X. Tang and C.-J. Hsieh, Rethinking Architecture Selection in Differentiable NAS,
ICLR 2021: the size of an architecture parameter does not tell how much a value matters; what the supernet
loses without the other values does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.stores.matching import only


def project(
    sup: Elastic,
    weights: Mapping[str, Tensor],
    judge: Callable[[Elastic], float],
    *,
    space: SearchSpace | None = None,
    seed: int = 0,
) -> Choice:
    """Decide a mixture's dims one by one, in a random order: the value that alone is judged best stays.

    While one dim is decided, those before it are at their values and those after it still mixed. The weights
    are not trained on in between.

    Args:
        sup: A supernet that was trained as a mixture; it is set to the choice in the end.
        weights: Name of a dim -> (values,) of the mixture.
        judge: Of the supernet as it is set: larger is better.
        space: The sub-networks to choose from, a part of the supernet's; all of it when None.
        seed: Of the order of the dims.
    """
    space = sup.space if space is None else space
    order = np.random.default_rng(seed).permutation([d.name for d in space.dims])
    mixed, values = dict(weights), {}
    training = sup.training
    sup.eval()
    with torch.no_grad():
        for name in map(str, order):
            scores = {}
            for value in space.dim(name).each():
                sup.set_mixture({**mixed, name: only(sup.space, name, value)})
                scores[value] = judge(sup)
            values[name] = max(scores, key=scores.__getitem__)
            mixed[name] = only(sup.space, name, values[name])
    choice = sup.space.canonical(Choice(values))
    sup.train(training).set(choice)
    return choice
