"""Graphs: one compressed type, readers, and node embeddings (FastRP, DeepWalk, node2vec)."""

from netwright.graphs.csr import CSRGraph, largest_ball
from netwright.graphs.embedding import Embedding
from netwright.graphs.features import STRUCTURE_FEATURES, structure_features
from netwright.graphs.projection import degree_weights, fastrp, random_projection
from netwright.graphs.readers import (
    Contacts,
    GraphData,
    WordNet,
    read,
    read_contacts,
    read_edges,
    read_mat,
    read_npz,
    read_wordnet,
    save_npz,
)
from netwright.graphs.sources import contacts, wordnet
from netwright.graphs.walks import deepwalk, node2vec, random_walks

__all__ = [
    "STRUCTURE_FEATURES",
    "CSRGraph",
    "Contacts",
    "Embedding",
    "GraphData",
    "WordNet",
    "contacts",
    "deepwalk",
    "degree_weights",
    "fastrp",
    "largest_ball",
    "node2vec",
    "random_projection",
    "random_walks",
    "read",
    "read_contacts",
    "read_edges",
    "read_mat",
    "read_npz",
    "read_wordnet",
    "save_npz",
    "structure_features",
    "wordnet",
]
