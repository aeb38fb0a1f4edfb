"""Readers of graph files: SNAP edge lists, MATLAB node-embedding benchmarks, NPZ, WordNet, contacts."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netwright.errors import DataError
from netwright.graphs.csr import CSRGraph

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: WordNet 3.0's lexicographer files in the order of their numbers.
LEXICOGRAPHER_FILES: tuple[str, ...] = (
    *("adj.all", "adj.pert", "adv.all"),
    *(
        "noun.Tops",
        "noun.act",
        "noun.animal",
        "noun.artifact",
        "noun.attribute",
        "noun.body",
        "noun.cognition",
    ),
    *("noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group", "noun.location"),
    *("noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession"),
    *(
        "noun.process",
        "noun.quantity",
        "noun.relation",
        "noun.shape",
        "noun.state",
        "noun.substance",
        "noun.time",
    ),
    *("verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition"),
    *("verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion", "verb.perception"),
    *("verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)


@dataclass(frozen=True)
class GraphData:
    """A graph with what is known of its nodes.

    Attributes:
        name: What to call it in reports.
        graph: The graph as the file gives it (directed where the file is).
        labels: Which classes each node has, (n, classes) bool as a sparse array, or None.
        classes: Names of the classes.
    """

    name: str
    graph: CSRGraph
    labels: csr_array | None = None
    classes: tuple[str, ...] = ()

    def subset(self, nodes: NDArray[np.int64]) -> GraphData:
        """The induced subgraph with its labels."""
        labels = None if self.labels is None else self.labels[nodes]
        return GraphData(self.name, self.graph.subgraph(nodes), labels, self.classes)


@dataclass(frozen=True)
class Contacts:
    """A contact stream: at time t the nodes i and j were in contact.

    Attributes:
        t: Seconds, (contacts,) int64.
        i: One person, (contacts,) index.
        j: The other person, (contacts,) index.
        data: The people with their labels; the graph has one edge a pair that ever met, weighing the
            contacts.
    """

    t: NDArray[np.int64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    data: GraphData


@dataclass(frozen=True)
class WordNet:
    """WordNet's pointers as its files give them.

    Attributes:
        source: Synset that each pointer leaves, (pointers,) index.
        target: Synset that it leads to, (pointers,) index.
        symbol: Its kind (``@`` hypernym, ``~`` hyponym ...), (pointers,) str.
        data: The synsets: a directed graph with each arc once, classes the lexicographer files.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    symbol: NDArray[np.str_]
    data: GraphData


def read(path: str | os.PathLike[str]) -> GraphData:
    """Read a graph from any file or folder that this module understands.

    A folder with ``data.noun`` is WordNet; ``.mat`` and ``.npz`` are matrices; any other file is an edge
    list. Labels of an edge list are read from a file beside it with the suffix ``.labels`` (``node label`` a
    line).

    Raises:
        DataError: if the path is missing, of no known kind, or corrupt.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no {path}", "give an edge list, a .mat, an .npz or a WordNet folder")
    if path.is_dir():
        if (path / "data.noun").exists():
            return read_wordnet(path).data
        raise DataError(
            f"the folder {path} holds no graph that is known", "a WordNet folder has data.noun in it"
        )
    if path.suffix == ".mat":
        return read_mat(path)
    if path.suffix == ".npz":
        return read_npz(path)
    return read_edges(path)


def indicator(codes: NDArray[Any], classes: int) -> csr_array:
    """One class a node as a sparse (n, classes) bool array; a negative code means no class."""
    from scipy.sparse import csr_array

    known = np.flatnonzero(np.asarray(codes) >= 0)
    entries = (np.ones(len(known), bool), (known, np.asarray(codes)[known]))
    return csr_array(entries, shape=(len(codes), classes))


def read_edges(path: str | os.PathLike[str], *, directed: bool = False, weighted: bool = False) -> GraphData:
    """Read an edge list, plain or gzipped: two columns of node names, comments start with # or %.

    Args:
        path: The file; columns are separated by white space or commas.
        directed: Keep the direction of the edges.
        weighted: Read the third column as the edge's weight (otherwise it is ignored: SNAP puts times there).

    Raises:
        DataError: if the file is empty or a line has fewer columns than needed.
    """
    path = Path(path)
    rows, weights = _edge_columns(path, weighted)
    names, index = np.unique(rows, return_inverse=True)
    index = index.reshape(rows.shape)
    plain = names.dtype.kind in "iu" and len(names) and names[0] == 0 and names[-1] == len(names) - 1
    ids = None if plain else names.tolist()
    graph = CSRGraph.from_edges(
        index[:, 0], index[:, 1], len(names), weight=weights, directed=directed, ids=ids
    )
    labels, classes = _labels_beside(path, names)
    return GraphData(path.name.split(".")[0], graph, labels, classes)


def _edge_columns(path: Path, weighted: bool) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    first = _first_line(path)
    if not first:
        raise DataError(f"{path} has no edge in it", "an edge list has two node names a line")
    delimiter = "," if "," in first else None
    kinds: tuple[type, ...] = (np.int64, str)  # numbers are far quicker to read, and the common case
    for kind in kinds:
        try:
            rows: NDArray[Any] = np.loadtxt(
                path,
                dtype=kind,
                comments=("#", "%"),
                delimiter=delimiter,
                usecols=(0, 1),
                ndmin=2,
                encoding="utf-8",
            )
            if not weighted:
                return rows, None
            return rows, np.loadtxt(
                path, comments=("#", "%"), delimiter=delimiter, usecols=2, ndmin=1, encoding="utf-8"
            )
        except (ValueError, IndexError) as error:
            failure = error
        except (OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read ({error})", "fetch or unpack it again") from error
    raise DataError(
        f"{path} is not an edge list ({failure})", "every line has the same columns, two at least"
    )


def _first_line(path: Path) -> str:
    import gzip

    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip() and line[0] not in "#%":
                    return str(line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text ({error})", "give an edge list, a .mat or an .npz"
        ) from error
    return ""


def _labels_beside(path: Path, names: NDArray[Any]) -> tuple[csr_array | None, tuple[str, ...]]:
    from scipy.sparse import csr_array

    beside = path.with_name(path.name.split(".")[0] + ".labels")
    if not beside.exists():
        return None, ()
    place = {str(name): i for i, name in enumerate(names.tolist())}
    rows = [line.replace(",", " ").split() for line in beside.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row and row[0][0] not in "#%"]
    bad = next((row for row in rows if len(row) < 2 or row[0] not in place), None)
    if bad is not None:
        raise DataError(
            f"{beside}: {' '.join(bad)!r} is no node of {path.name} with a label", "a line is: node label"
        )
    classes = sorted({row[1] for row in rows})
    code = {name: k for k, name in enumerate(classes)}
    at = ([place[row[0]] for row in rows], [code[row[1]] for row in rows])
    return csr_array((np.ones(len(rows), bool), at), shape=(len(names), len(classes))), tuple(classes)


def read_mat(path: str | os.PathLike[str]) -> GraphData:
    """Read a MATLAB file with ``network`` (n, n) and, if there, ``group`` (n, classes).

    Raises:
        DataError: if the file is no such MATLAB file.
    """
    from scipy.io import loadmat
    from scipy.sparse import csr_array, issparse

    path = Path(path)
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a file that is not MATLAB's
        raise DataError(
            f"{path} is not a MATLAB 5 file ({error})", "it holds `network` and `group`"
        ) from error
    if "network" not in content:
        raise DataError(
            f"{path} has no variable `network`", "it holds `network` (n x n) and `group` (n x classes)"
        )
    graph = CSRGraph.from_scipy(csr_array(content["network"]))
    if "group" not in content:
        return GraphData(path.stem, graph)
    group = content["group"]
    labels = csr_array(group if issparse(group) else np.asarray(group)) != 0
    if labels.shape[0] != graph.n:
        raise DataError(f"{path}: `group` has {labels.shape[0]} rows for {graph.n} nodes", "one row a node")
    return GraphData(path.stem, graph, csr_array(labels), tuple(str(k) for k in range(labels.shape[1])))


def read_npz(path: str | os.PathLike[str]) -> GraphData:
    """Read an NPZ with ``indptr``, ``indices`` and maybe ``data`` and ``labels`` (one code a node, or -1).

    The three matrix arrays are what `scipy.sparse.save_npz` writes.

    Raises:
        DataError: if the file is no such NPZ.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not an NPZ of plain arrays ({error})", "save it with numpy.savez"
        ) from error
    if "indptr" not in arrays or "indices" not in arrays:
        raise DataError(f"{path} has no `indptr` and `indices`", "save it with scipy.sparse.save_npz (CSR)")
    from scipy.sparse import csr_array

    n = len(arrays["indptr"]) - 1
    data = arrays.get("data", np.ones(len(arrays["indices"])))
    try:
        matrix = csr_array((data, arrays["indices"], arrays["indptr"]), shape=(n, n))
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise DataError(
            f"{path} is not a square matrix in CSR ({error})", "save it with scipy.sparse.save_npz"
        ) from error
    graph = CSRGraph.from_scipy(matrix)
    codes = arrays.get("labels")
    if codes is None:
        return GraphData(path.stem, graph)
    classes = int(codes.max()) + 1
    return GraphData(path.stem, graph, indicator(codes, classes), tuple(str(k) for k in range(classes)))


def save_npz(path: str | os.PathLike[str], graph: CSRGraph) -> Path:
    """Write a graph as an NPZ that `read_npz` and `scipy.sparse.load_npz` read."""
    from scipy.sparse import save_npz as save

    from netwright._files import atomic

    with atomic(path) as temporary:
        save(temporary, graph.csr)
    return Path(path)


def read_wordnet(folder: str | os.PathLike[str]) -> WordNet:
    """Read WordNet's ``data.*`` files.

    The ids of the graph are ``pos:offset`` with pos one of n, v, a, r.

    Raises:
        DataError: if a file is missing or a line is broken.
    """
    folder = Path(folder)
    index: dict[str, int] = {}
    codes: list[int] = []
    pointers: list[tuple[int, str, str]] = []
    for kind, pos in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        file = folder / f"data.{kind}"
        if not file.exists():
            raise DataError(f"{folder} has no data.{kind}", "netwright data fetch wordnet")
        for number, line in enumerate(file.read_text(encoding="latin-1").splitlines(), 1):
            if line.startswith("  "):
                continue  # the licence
            try:
                offset, code, targets = _synset(line)
            except (IndexError, ValueError) as error:
                raise DataError(
                    f"{file}, line {number} is not a synset ({error})", "fetch it again"
                ) from error
            index[f"{pos}:{offset}"] = node = len(codes)
            codes.append(code)
            pointers += [(node, symbol, target) for symbol, target in targets]
    source = np.fromiter((u for u, _, _ in pointers), np.int64, len(pointers))
    try:
        target = np.fromiter((index[v] for _, _, v in pointers), np.int64, len(pointers))
    except KeyError as error:
        raise DataError(f"{folder}: a pointer to {error} leads nowhere", "fetch it again") from error
    graph = CSRGraph.from_edges(source, target, len(codes), directed=True, ids=list(index))
    labels = indicator(np.asarray(codes), len(LEXICOGRAPHER_FILES))
    data = GraphData("wordnet", graph, labels, LEXICOGRAPHER_FILES)
    return WordNet(source, target, np.asarray([s for _, s, _ in pointers]), data)


def _synset(line: str) -> tuple[str, int, list[tuple[str, str]]]:
    """Offset, lexicographer file and pointers (kind, ``pos:offset``) of one line of a data file."""
    field = line.split(" | ")[0].split()
    at = 4 + 2 * int(field[3], 16)  # the words, each with its sense number
    places = range(at + 1, at + 1 + 4 * int(field[at]), 4)
    return field[0], int(field[1]), [(field[k], f"{_pos(field[k + 2])}:{field[k + 1]}") for k in places]


def _pos(letter: str) -> str:
    return "a" if letter == "s" else letter  # a satellite adjective lives in the adjectives' file


def read_contacts(path: str | os.PathLike[str]) -> Contacts:
    """Read a contact stream: ``t i j label_i label_j`` a line, separated by tabs.

    Raises:
        DataError: if the file is missing or a line has other columns.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no {path}", "netwright data fetch contacts")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    bad = next((k for k, row in enumerate(rows, 1) if len(row) != 5), None)
    if bad is not None or not rows:
        raise DataError(
            f"{path}, line {bad or 1} is not `t i j label_i label_j`", "columns are separated by tabs"
        )
    try:
        table = np.asarray([[int(row[0]), int(row[1]), int(row[2])] for row in rows], dtype=np.int64)
    except ValueError as error:
        raise DataError(
            f"{path} has a time or a person that is no number ({error})", "mend the line"
        ) from error
    people, pair = np.unique(table[:, 1:], return_inverse=True)
    pair = pair.reshape(-1, 2)
    label = dict(zip(table[:, 1].tolist(), (row[3] for row in rows), strict=True))
    label |= dict(zip(table[:, 2].tolist(), (row[4] for row in rows), strict=True))
    classes = sorted(set(label.values()))
    codes = np.asarray([classes.index(label[person]) for person in people.tolist()])
    graph = CSRGraph.from_edges(pair[:, 0], pair[:, 1], len(people), sum_weights=True, ids=people.tolist())
    data = GraphData(path.stem, graph, indicator(codes, len(classes)), tuple(classes))
    return Contacts(table[:, 0], pair[:, 0], pair[:, 1], data)
