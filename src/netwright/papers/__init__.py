"""The papers: what each claims, the recipes that measure it, and the evidence."""

from netwright.papers.catalogue import LISTING, Entry
from netwright.papers.claims import FURTHER, Claim, Expectation, Measured, Outcome, Verdict, verdict
from netwright.papers.evidence import document, markdown_table, read_folder, save
from netwright.papers.frame import Paper, find, implemented, listing, load, paper
from netwright.papers.run import Run, Table, execute

__all__ = [
    "FURTHER",
    "LISTING",
    "Claim",
    "Entry",
    "Expectation",
    "Measured",
    "Outcome",
    "Paper",
    "Run",
    "Table",
    "Verdict",
    "document",
    "execute",
    "find",
    "implemented",
    "listing",
    "load",
    "markdown_table",
    "paper",
    "read_folder",
    "save",
    "verdict",
]
