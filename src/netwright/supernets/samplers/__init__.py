"""Path samplers: which sub-networks a step trains, and what is learned about that on the way."""

from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.fixed import (
    FairCycle,
    MultiArch,
    Sandwich,
    SortedPrefix,
    Uniform,
    nested,
)
from netwright.supernets.samplers.gradient import GradientAlpha
from netwright.supernets.samplers.importance import ImportancePath
from netwright.supernets.samplers.progressive import ProgressiveShrinking
from netwright.supernets.samplers.regional import RegionalAlpha
from netwright.supernets.samplers.routing import BalancedRouter
from netwright.supernets.samplers.shift import ProbabilityShift
from netwright.supernets.samplers.subsets import RandomSubsets

__all__ = [
    "BalancedRouter",
    "Draw",
    "FairCycle",
    "GradientAlpha",
    "ImportancePath",
    "MultiArch",
    "ProbabilityShift",
    "ProgressiveShrinking",
    "RandomSubsets",
    "RegionalAlpha",
    "Sampler",
    "Sandwich",
    "SortedPrefix",
    "Uniform",
    "nested",
]
