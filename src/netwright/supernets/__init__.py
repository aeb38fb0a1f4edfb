"""Any network as a weight-sharing supernet: convert, sample, train, extract, rank."""

from netwright.supernets import samplers
from netwright.supernets.blueprint import Blueprint
from netwright.supernets.dims import OneOf
from netwright.supernets.elastic import Elastic
from netwright.supernets.experts import Experts, Routed
from netwright.supernets.making import elastic
from netwright.supernets.measures import Accuracy, Latency, Macs, Measure, Params
from netwright.supernets.mixture import Mixture, Supernets
from netwright.supernets.routing import BalancedRouter, accuracies
from netwright.supernets.saving import as_pruned, describe, load, save
from netwright.supernets.searching import Family, Member, for_budget, search
from netwright.supernets.sorting import Sorting, sort_channels
from netwright.supernets.training import HardLabels, InplaceDistill, Paths, Rule, train

__all__ = [
    "Accuracy",
    "BalancedRouter",
    "Blueprint",
    "Elastic",
    "Experts",
    "Family",
    "HardLabels",
    "InplaceDistill",
    "Latency",
    "Macs",
    "Measure",
    "Member",
    "Mixture",
    "OneOf",
    "Params",
    "Paths",
    "Routed",
    "Rule",
    "Sorting",
    "Supernets",
    "accuracies",
    "as_pruned",
    "describe",
    "elastic",
    "for_budget",
    "load",
    "samplers",
    "save",
    "search",
    "sort_channels",
    "train",
]
