"""Any network as a weight-sharing supernet: convert, sample, train, extract, rank."""

from netwright.supernets import samplers
from netwright.supernets.blockwise import Blockwise, train_blockwise
from netwright.supernets.blueprint import Blueprint
from netwright.supernets.bootstrapping import EnsembleBootstrap, LocalLabels, PopulationCentre
from netwright.supernets.cost_tables import CostTables, cost_tables
from netwright.supernets.differentiable import Derived, Differentiable
from netwright.supernets.dims import OneOf
from netwright.supernets.dividing import FewShot, few_shot
from netwright.supernets.elastic import Elastic
from netwright.supernets.experts import Experts, Routed
from netwright.supernets.fronts import pick, read_front, write_front
from netwright.supernets.generators import Bins, LSTMGenerator, RejectionGenerator, generate
from netwright.supernets.making import elastic
from netwright.supernets.matching import gradient_distances, max_cut
from netwright.supernets.measures import Accuracy, Latency, Macs, Measure, Params
from netwright.supernets.mixture import Mixture, Supernets
from netwright.supernets.routing import BalancedRouter, accuracies
from netwright.supernets.sampling_gradient import GradientAlpha
from netwright.supernets.sampling_importance import ImportancePath
from netwright.supernets.sampling_shift import ProbabilityShift
from netwright.supernets.saving import as_pruned, describe, load, save
from netwright.supernets.searching import Family, Member, for_budget, search
from netwright.supernets.siamese import Siamese
from netwright.supernets.sorting import Sorting, sort_channels
from netwright.supernets.standalone import spread, train_alone
from netwright.supernets.stores import Node, Split
from netwright.supernets.training import HardLabels, InplaceDistill, Paths, Rule, train
from netwright.supernets.variance import GradientVariance, gradient_variance

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
    "LocalLabels",
    "Macs",
    "Measure",
    "Member",
    "Mixture",
    "Node",
    "OneOf",
    "Params",
    "Paths",
    "PopulationCentre",
    "ProbabilityShift",
    "RejectionGenerator",
    "Routed",
    "Rule",
    "Siamese",
    "Sorting",
    "Split",
    "Supernets",
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
    "load",
    "max_cut",
    "pick",
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
