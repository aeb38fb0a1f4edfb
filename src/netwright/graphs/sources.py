"""The fixed graphs of the recipes, fetched once through the data catalogue."""

from __future__ import annotations

from pathlib import Path

from netwright.errors import DataError
from netwright.graphs.readers import Contacts, WordNet, read_contacts, read_wordnet

#: The contact streams of the set `contacts`.
CONTACTS = ("Primary_School", "thiers_2012", "Contacts_Hospital")


def wordnet(folder: Path | None = None) -> WordNet:
    """WordNet 3.0: 117,659 synsets, 377,592 pointers, 45 lexicographer files.

    Args:
        folder: Where its ``data.*`` files are; the set `wordnet` of the catalogue if None.
    """
    return read_wordnet(_member(folder or _fetch("wordnet"), "data.noun").parent)


def contacts(name: str = "Primary_School", folder: Path | None = None) -> Contacts:
    """One of the SocioPatterns contact streams.

    Args:
        name: One of `CONTACTS`.
        folder: Where the files are; the set `contacts` of the catalogue if None.

    Raises:
        DataError: if there is no stream of that name.
    """
    if name not in CONTACTS:
        raise DataError(f"there is no contact stream {name!r}", f"there are {', '.join(CONTACTS)}")
    return read_contacts(_member(folder or _fetch("contacts"), f"{name}.csv"))


def _fetch(name: str) -> Path:
    from netwright import data

    return Path(data.fetch(name))


def _member(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"{folder} has no {name}", "remove the folder and fetch the data set again")
    return found[0]
