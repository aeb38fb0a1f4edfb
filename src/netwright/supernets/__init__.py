"""Any network as a weight-sharing supernet: convert, sample, train, extract, rank."""

from netwright.supernets import samplers
from netwright.supernets.blueprint import Blueprint
from netwright.supernets.dims import OneOf
from netwright.supernets.elastic import Elastic
from netwright.supernets.making import elastic
from netwright.supernets.training import HardLabels, InplaceDistill, Paths, Rule, train

__all__ = [
    "Blueprint",
    "Elastic",
    "HardLabels",
    "InplaceDistill",
    "OneOf",
    "Paths",
    "Rule",
    "elastic",
    "samplers",
    "train",
]
