"""Any network as a weight-sharing supernet: convert, sample, train, extract, rank."""

from netwright.supernets import samplers
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.cost_tables import CostTables, cost_tables
from netwright.supernets.network.dims import OneOf
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.generating import generate
from netwright.supernets.network.making import elastic
from netwright.supernets.network.saving import as_pruned, describe, is_saved, load, save
from netwright.supernets.network.sorting import Sorting, sort_channels
from netwright.supernets.samplers.generators import Bins, LSTMGenerator, RejectionGenerator
from netwright.supernets.samplers.gradient import GradientAlpha
from netwright.supernets.samplers.importance import ImportancePath
from netwright.supernets.samplers.regional import RegionalAlpha
from netwright.supernets.samplers.routing import BalancedRouter, accuracies
from netwright.supernets.samplers.shift import ProbabilityShift
from netwright.supernets.searching.differentiable import Derived, Differentiable
from netwright.supernets.searching.family import Family, Member, for_budget, search
from netwright.supernets.searching.fronts import pick, read_front, write_front
from netwright.supernets.searching.measures import Accuracy, Latency, Macs, Measure, Params
from netwright.supernets.searching.projection import project
from netwright.supernets.searching.standalone import spread, train_alone
from netwright.supernets.stores.experts import Experts, Routed
from netwright.supernets.stores.line import Line, OnLine
from netwright.supernets.stores.matching import gradient_distances, max_cut
from netwright.supernets.stores.mixture import Mixture, Supernets
from netwright.supernets.stores.siamese import Siamese
from netwright.supernets.stores.switchable import SwitchableNorm, Switched
from netwright.supernets.stores.tree import Node, Split
from netwright.supernets.training.blockwise import Blockwise, train_blockwise
from netwright.supernets.training.bootstrapping import EnsembleBootstrap, LocalLabels, PopulationCentre
from netwright.supernets.training.dividing import FewShot, few_shot
from netwright.supernets.training.paths import HardLabels, InplaceDistill, Paths, Rule, train
from netwright.supernets.training.reptile import Reptile
from netwright.supernets.training.variance import GradientVariance, gradient_variance

__all__ = [
    "Accuracy",
    "BalancedRouter",
    "Bins",
    "Blockwise",
    "Blueprint",
    "CostTables",
    "Derived",
    "Differentiable",
    "Elastic",
    "EnsembleBootstrap",
    "Experts",
    "Family",
    "FewShot",
    "GradientAlpha",
    "GradientVariance",
    "HardLabels",
    "ImportancePath",
    "InplaceDistill",
    "LSTMGenerator",
    "Latency",
    "Line",
    "LocalLabels",
    "Macs",
    "Measure",
    "Member",
    "Mixture",
    "Node",
    "OnLine",
    "OneOf",
    "Params",
    "Paths",
    "PopulationCentre",
    "ProbabilityShift",
    "RegionalAlpha",
    "RejectionGenerator",
    "Reptile",
    "Routed",
    "Rule",
    "Siamese",
    "Sorting",
    "Split",
    "Supernets",
    "SwitchableNorm",
    "Switched",
    "accuracies",
    "as_pruned",
    "cost_tables",
    "describe",
    "elastic",
    "few_shot",
    "for_budget",
    "generate",
    "gradient_distances",
    "gradient_variance",
    "is_saved",
    "load",
    "max_cut",
    "pick",
    "project",
    "read_front",
    "samplers",
    "save",
    "search",
    "sort_channels",
    "spread",
    "train",
    "train_alone",
    "train_blockwise",
    "write_front",
]
