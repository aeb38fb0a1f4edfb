"""A paper is a recipe: a function that measures the paper's claims with the packages of Netwright.

A recipe is one module of this package named after the slug (``rich-lazy`` is ``rich_lazy.py``), with a
function ``reproduce(run)`` under the decorator `paper`, and one entry in the ``catalogue_GROUP`` of its
group. Nothing else has to be told of it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netwright.errors import UsageError
from netwright.papers.catalogue import LISTING, Entry
from netwright.papers.claims import Claim

if TYPE_CHECKING:
    from netwright.papers.run import Run

Recipe = Callable[["Run"], None]


@dataclass(frozen=True)
class Paper:
    """A published system with its claims and the recipe that measures them.

    Attributes:
        slug: Short name, as on the command line.
        number: Number in the list of the 69.
        title: Title of the paper.
        year: Year of publication.
        link: Where to read it.
        package: The Netwright package that holds the method.
        claims: What the paper claims and what is expected here.
        recipe: Measures the claims on a `Run`.
    """

    slug: str
    number: int
    title: str
    year: int
    link: str
    package: str
    claims: tuple[Claim, ...]
    recipe: Recipe

    def claim(self, name: str) -> Claim:
        """The claim of a name.

        Raises:
            UsageError: if the paper has no such claim.
        """
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise UsageError(
            f"{self.slug} has no claim {name!r}", f"it has {', '.join(c.name for c in self.claims)}"
        )


def paper(
    *, slug: str, number: int, title: str, year: int, link: str, package: str, claims: Sequence[Claim]
) -> Callable[[Recipe], Paper]:
    """Declare the decorated function to be a paper's recipe; the arguments are the attributes of `Paper`.

    Raises:
        UsageError: if the slug, number, title or package differ from the paper's line in the list, or two
            claims have one name.
    """
    entry = find(slug)
    if (entry.number, entry.title, entry.package) != (number, title, package):
        raise UsageError(
            f"{slug} is not what the list of papers says", f"there: #{entry.number} {entry.title}"
        )
    if len({claim.name for claim in claims}) != len(claims):
        raise UsageError(f"two claims of {slug} have one name", "a claim is measured by its name")

    def declare(recipe: Recipe) -> Paper:
        return Paper(slug, number, title, year, link, package, tuple(claims), recipe)

    return declare


def find(slug: str) -> Entry:
    """The line of a slug in the list of papers.

    Raises:
        UsageError: if there is no such slug; names the nearest ones.
    """
    for entry in LISTING:
        if entry.slug == slug:
            return entry
    near = difflib.get_close_matches(slug.lower(), [entry.slug for entry in LISTING], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "netwright papers lists all of them"
    raise UsageError(f"there is no paper {slug!r}", hint)


def implemented(slug: str) -> bool:
    """Whether a module of this package registers a recipe for the slug."""
    return _load(slug) is not None


def load(slug: str) -> Paper:
    """Import a paper's recipe.

    Raises:
        UsageError: if there is no such paper, or it is not implemented yet.
    """
    entry = find(slug)
    found = _load(slug)
    if found is None:
        raise UsageError(
            f"{slug} (#{entry.number}, {entry.title}) is not implemented yet",
            "netwright papers --state implemented lists those that are",
        )
    return found


def _load(slug: str) -> Paper | None:
    name = f"netwright.papers.{slug.replace('-', '_')}"
    if importlib.util.find_spec(name) is None:
        return None
    found = getattr(importlib.import_module(name), "reproduce", None)
    return found if isinstance(found, Paper) and found.slug == slug else None


def listing(pattern: str = "", package: str | None = None, state: str | None = None) -> list[Entry]:
    """The papers of the list that match.

    Args:
        pattern: Words that must occur in the slug, title, package or description, in any case, or a number
            like ``#31``.
        package: Only papers whose method lives in this package.
        state: ``"implemented"`` or ``"not yet"``.

    Raises:
        UsageError: if no paper has that package, or the state is neither.
    """
    packages = sorted({entry.package for entry in LISTING})
    if package is not None and package not in packages:
        raise UsageError(f"no paper lives in the package {package!r}", f"packages: {', '.join(packages)}")
    if state not in (None, "implemented", "not yet"):
        raise UsageError(f"{state!r} is no state of a paper", "use 'implemented' or 'not yet'")
    return [
        entry
        for entry in LISTING
        if _matches(entry, pattern)
        and package in (None, entry.package)
        and (state is None or implemented(entry.slug) == (state == "implemented"))
    ]


def _matches(entry: Entry, pattern: str) -> bool:
    if pattern.startswith("#"):
        return pattern[1:] == str(entry.number)
    text = f"{entry.slug} {entry.title} {entry.package} {entry.what}".lower()
    return all(word in text for word in pattern.lower().split())
