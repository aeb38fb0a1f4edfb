"""Budgets: how large, slow or inaccurate a network may be, as a value that parses from and prints to text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from netwright.errors import BudgetError

_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_TIMES = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_SIZES = {
    "": 1.0,
    "b": 1.0,
    "k": 1e3,
    "kb": 1e3,
    "m": 1e6,
    "mb": 1e6,
    "g": 1e9,
    "gb": 1e9,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
}
_EXAMPLES = {
    "keep": "keep=0.5",
    "macs": "macs=0.5 or macs=300M",
    "params": "params=0.5 or params=2M",
    "latency": "latency=0.5 or latency=8ms",
    "size": "size=0.5 or size=2MB",
    "accuracy": "accuracy>=-1% or accuracy>=0.9",
}
_EXAMPLE = '"latency<=0.5, accuracy>=-1%"'
_NUMBER = r"(?P<number>[+\-−]?(?:\d+(?:[ _]\d{3})*\.?\d*|\.\d+)(?:[eE][+\-]?\d+)?)"
_VALUE = re.compile(rf"{_NUMBER}\s*(?P<unit>%|[a-zA-Zµμ]*)\s*(?P<word>[a-zA-Z]*)")
_PART = re.compile(r"(?P<name>[^=<>≤≥]+?)\s*(?P<sign><=|>=|=<|=>|==|=|<|>|≤|≥)\s*(?P<value>.*)")


@dataclass(frozen=True)
class Limit:
    """One limit of a budget.

    Args:
        value: A share of the dense network (0.5) or a number in the metric's unit (milliseconds, bytes).
            For accuracy a change in fraction (-0.01 is one point less) if relative, else a fraction.
        relative: Whether the value is relative to the dense network.
    """

    value: float
    relative: bool

    def against(self, dense: float) -> float:
        """The limit in the metric's unit, given the dense network's number (for accuracy see `Budget`)."""
        return self.value * dense if self.relative else self.value


@dataclass(frozen=True)
class Budget:
    """What the shaped network may cost at most, and how accurate it must be at least.

    Every field takes a `Limit`, a number or text. Numbers up to 1 are shares of the dense network; larger
    ones are absolute (counts or bytes). Latency above 1 needs its unit: ``latency="8ms"``.

    Args:
        keep: Share of every prunable axis that stays.
        macs: Multiply-accumulates of one example.
        params: Number of parameters.
        latency: Time for one example, in milliseconds.
        size: Size of the exported file, in bytes.
        accuracy: Least accuracy: a change (``-0.01``, ``"-1%"``) or a fraction (``0.9``, ``"90%"``).

    Raises:
        BudgetError: if a value does not make sense; the message names it and shows one that does.
    """

    keep: Limit | None = None
    macs: Limit | None = None
    params: Limit | None = None
    latency: Limit | None = None
    size: Limit | None = None
    accuracy: Limit | None = None

    def __init__(
        self,
        keep: Limit | float | str | None = None,
        macs: Limit | float | str | None = None,
        params: Limit | float | str | None = None,
        latency: Limit | float | str | None = None,
        size: Limit | float | str | None = None,
        accuracy: Limit | float | str | None = None,
    ) -> None:
        given = {"keep": keep, "macs": macs, "params": params, "latency": latency, "size": size}
        for name, value in {**given, "accuracy": accuracy}.items():
            object.__setattr__(self, name, _limit(name, value))

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read a budget such as ``"latency<=0.5, accuracy>=-1%"``, ``"macs=300M"``, ``"8 ms"`` or ``"none"``.

        ``=`` and ``<=`` both mean at most; for accuracy ``=`` and ``>=`` both mean at least.

        Raises:
            BudgetError: naming the part that is wrong, with an example of a right one.
        """
        if isinstance(text, Budget):
            return text
        if text.strip().lower() == "none":
            return cls()
        limits: dict[str, Limit] = {}
        for part in re.split(r"[,;]", text):
            name, value = _split(part.strip(), text)
            if name in limits:
                raise BudgetError(
                    f"budget names {name} twice: {text!r}", f"give it once, for instance {_EXAMPLES[name]}"
                )
            limits[name] = value
        return cls(**limits)

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that are set, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: limit for name, limit in pairs if limit is not None}

    def misses(self, name: str, value: float, dense: float) -> float:
        """By how much a network misses one limit: 0 if it meets it (or none is set), else the overshoot.

        Args:
            name: Field of the budget.
            value: The network's own number, in the field's unit.
            dense: The dense network's number, in the same unit.

        Returns:
            The overshoot as a share of the limit; for accuracy, the missing fraction.
        """
        limit: Limit | None = getattr(self, name)
        if limit is None:
            return 0.0
        if name == "accuracy":
            least = dense + limit.value if limit.relative else limit.value
            return max(0.0, least - value) if least - value > 1e-9 else 0.0
        most = limit.against(dense)
        return max(0.0, value / most - 1.0) if value > most * (1 + 1e-9) else 0.0

    def __bool__(self) -> bool:
        return bool(self.limits)

    def __str__(self) -> str:
        return ", ".join(_print(name, limit) for name, limit in self.limits.items()) or "none"


def _print(name: str, limit: Limit) -> str:
    sign = ">=" if name == "accuracy" else "<="
    if limit.relative:
        signed = name == "accuracy" and limit.value >= 0
        return f"{name}{sign}{'+' if signed else ''}{_plain(limit.value)}"
    if name == "latency":
        return f"{name}{sign}{_plain(limit.value)}ms"
    if name in ("macs", "params", "size"):
        for unit, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
            short = limit.value / factor
            if short >= 1 and short * factor == limit.value and len(_plain(short)) <= 6:
                return f"{name}{sign}{_plain(short)}{unit}{'B' if name == 'size' else ''}"
        return f"{name}{sign}{_plain(limit.value)}{'B' if name == 'size' else ''}"
    return f"{name}{sign}{_plain(limit.value)}"


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _split(part: str, text: str) -> tuple[str, Limit]:
    if not part:
        raise BudgetError(f"budget {text!r} has an empty part", f"write it like {_EXAMPLE}")
    match = _PART.fullmatch(part)
    if match is None:
        return _bare(part)
    name, sign = match["name"].strip().lower(), match["sign"]
    if name not in _EXAMPLES:
        raise BudgetError(
            f"budget part {part!r}: there is no metric {name!r}", f"choose from {', '.join(_EXAMPLES)}"
        )
    down = sign in ("<=", "=<", "<", "≤")
    up = sign in (">=", "=>", ">", "≥")
    if (up and name != "accuracy") or (down and name == "accuracy"):
        bound = "at least" if name == "accuracy" else "at most"
        raise BudgetError(
            f"budget part {part!r}: {name} is limited to {bound}", f"for instance {_EXAMPLES[name]}"
        )
    return name, _read(name, match["value"].strip(), part)


def _bare(part: str) -> tuple[str, Limit]:
    """A part without a metric, whose unit says it: ``8 ms``, ``2 MB``, ``300 M macs``."""
    match = _VALUE.fullmatch(part)
    if match is not None:
        unit, word = match["unit"].lower(), match["word"].lower()
        if (word or unit) in ("macs", "params"):
            name = word or unit
        elif unit in _TIMES:
            name = "latency"
        elif unit in _SIZES and unit.endswith("b"):
            name = "size"
        else:
            name = ""
        if name:
            return name, _read(name, part, part)
    raise BudgetError(f"budget part {part!r} is not a limit", f"write it like {_EXAMPLE}")


def _wrong(name: str, part: str, why: str) -> BudgetError:
    return BudgetError(f"budget part {part!r}: {why}", f"for instance {_EXAMPLES[name]}")


def _read(name: str, value: str, part: str) -> Limit:
    match = _VALUE.fullmatch(value)
    if match is None:
        raise _wrong(
            name, part, f"{value!r} is not a number with a unit" if value else "the value is missing"
        )
    digits = match["number"].replace("−", "-")
    number = float(re.sub(r"[ _]", "", digits))
    unit, word = match["unit"], match["word"]
    if unit.lower() == name and not word:
        unit = ""
    elif word and word.lower() != name:
        raise _wrong(name, part, f"{word!r} is not a unit of {name}")
    if name == "accuracy":
        return _accuracy(number, unit, digits[0] in "+-", part)
    if unit == "%":
        return _share(name, number / 100, part)
    units = {"latency": _TIMES, "size": _SIZES, "keep": {"": 1.0}}.get(name, _COUNTS)
    if unit.lower() not in units and unit:
        raise _wrong(name, part, f"{unit!r} is not a unit of {name}")
    if not unit and (number <= 1 or name == "keep"):
        return _share(name, number, part)
    if not unit and name == "latency":
        raise _wrong(name, part, f"{digits} needs a unit (ms) or must be a share of at most 1")
    return _absolute(name, number * units[unit.lower()], part)


def _share(name: str, value: float, part: str) -> Limit:
    if not (math.isfinite(value) and 0 < value <= 1):
        raise _wrong(name, part, "a share lies above 0 and is at most 1")
    return Limit(float(value), True)


def _absolute(name: str, value: float, part: str) -> Limit:
    if not (math.isfinite(value) and value > 0):
        raise _wrong(name, part, "the value must be positive")
    return Limit(float(value), False)


def _accuracy(number: float, unit: str, signed: bool, part: str) -> Limit:
    if unit not in ("", "%"):
        raise _wrong("accuracy", part, f"{unit!r} is not a unit of accuracy")
    value = number / 100 if unit == "%" else number
    if not -1 < value <= 1:
        raise _wrong("accuracy", part, "accuracy is a fraction up to 1 or 100 %, or a change such as -1%")
    return Limit(float(value), signed or value == 0)


def _limit(name: str, value: Limit | float | str | None) -> Limit | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _read(name, value.strip().lstrip("<>=≤≥").strip(), f"{name}={value}")
    if isinstance(value, Limit):
        part = f"{name}={value.value}"
        if name == "accuracy":
            return Limit(_accuracy(value.value, "", value.relative, part).value, value.relative)
        if name == "keep" and not value.relative:
            raise _wrong(name, part, "keep is a share")
        return _share(name, value.value, part) if value.relative else _absolute(name, value.value, part)
    part = f"{name}={value}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(name, part, f"{value!r} is not a number")
    if name == "accuracy":
        return _accuracy(float(value), "", value < 0, part)
    if value <= 1 or name == "keep":
        return _share(name, float(value), part)
    if name == "latency":
        raise _wrong(name, part, f"{value} needs a unit (ms) or must be a share of at most 1")
    return _absolute(name, float(value), part)
