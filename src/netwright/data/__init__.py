"""Real data sets with fixed splits: a catalogue of what packages ship, and loaders for one's own files."""

from netwright.data.callables import import_callable, is_callable_spec, one_line
from netwright.data.canvases import canvases
from netwright.data.characters import characters
from netwright.data.fetching import fetch, is_fetched, path, root
from netwright.data.grammars import reber
from netwright.data.importance import ImportanceSampler, logit_gradient_norm
from netwright.data.loading import load
from netwright.data.pairs import PairSets, load_pairs
from netwright.data.parts import Part, Splits
from netwright.data.records import Record, catalogue
from netwright.data.super_resolution import PairSource, resize_bicubic, super_resolution

__all__ = [
    "ImportanceSampler",
    "PairSets",
    "PairSource",
    "Part",
    "Record",
    "Splits",
    "canvases",
    "catalogue",
    "characters",
    "fetch",
    "import_callable",
    "is_callable_spec",
    "is_fetched",
    "load",
    "load_pairs",
    "logit_gradient_norm",
    "one_line",
    "path",
    "reber",
    "resize_bicubic",
    "root",
    "super_resolution",
]
