"""A line of the list of the 69 papers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One paper of the list.

    Attributes:
        number: Its number.
        slug: Its short name.
        package: The Netwright package that holds, or will hold, its method.
        title: Its title.
        what: What it is, in one line.
    """

    number: int
    slug: str
    package: str
    title: str
    what: str
