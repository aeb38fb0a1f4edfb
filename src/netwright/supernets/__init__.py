"""Any network as a weight-sharing supernet: convert, sample, train, extract, rank."""

from netwright.supernets.blueprint import Blueprint
from netwright.supernets.dims import OneOf
from netwright.supernets.elastic import Elastic
from netwright.supernets.making import elastic

__all__ = ["Blueprint", "Elastic", "OneOf", "elastic"]
