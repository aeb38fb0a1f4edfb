"""The papers on graphs, as plain data."""

from __future__ import annotations

from netwright.papers.entry import Entry

GRAPHS: tuple[Entry, ...] = (
    Entry(
        14,
        "nat",
        "graphs",
        "Neighborhood-aware Scalable Temporal Network Representation Learning",
        "temporal graph representation with dictionaries of neighbours",
    ),
    Entry(
        25,
        "diskgnn",
        "graphs",
        "DiskGNN: Bridging I/O Efficiency and Model Accuracy for Out-of-Core GNN Training",
        "out-of-core training of graph networks with packed features",
    ),
    Entry(
        27,
        "protein-rpn",
        "science",
        "ProteinRPN: Towards Accurate Protein Function Prediction with Graph-Based Region Proposals",
        "protein function from proposed regions of the residue graph",
    ),
    Entry(
        31,
        "fastrp",
        "graphs",
        "Fast and Accurate Network Embeddings via Very Sparse Random Projection",
        "node embeddings by very sparse random projection",
    ),
    Entry(
        52,
        "simplicial-closure",
        "graphs",
        "Simplicial Closure and higher-order link prediction",
        "which sets of nodes close: higher-order link prediction",
    ),
    Entry(
        63,
        "atlantic",
        "graphs",
        "ATLANTIC: Structure-Aware Retrieval-Augmented Language Model for Interdisciplinary Science",
        "retrieval that knows the document graph, for science questions",
    ),
)
