"""Netwright shapes neural networks: give it a network, data and a budget; get back the right-sized networks."""

__version__ = "0.1.0"
