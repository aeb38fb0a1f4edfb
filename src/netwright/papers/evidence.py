"""Evidence: what a run found, as a JSON file that is committed, and the docs' table made from such files."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from netwright._files import write_json, write_text
from netwright.errors import ArtefactError
from netwright.papers.catalogue import LISTING
from netwright.papers.claims import Outcome
from netwright.papers.run import Cell, Run
from netwright.papers.undecided import undecided

_PACKAGES = (
    "netwright",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "optuna",
    "onnxruntime",
    "torchvision",
    "timm",
)


def name_of(run: Run) -> str:
    """Stem of the evidence's files: the slug, with the scope and ``.quick`` where they apply.

    A quick run has a name of its own so that it never replaces the evidence of a full one.
    """
    scope = "-".join(re.findall(r"[\w.]+", run.scope))  # it may be named in words
    stem = f"{run.paper.slug}-{scope}" if scope else run.paper.slug
    return f"{stem}.quick" if run.quick else stem


def document(run: Run, command: str) -> dict[str, Any]:
    """The evidence of a finished run as plain data.

    Args:
        run: The run.
        command: The command that repeats it.
    """
    judged = run.verdict
    found = {
        "slug": run.paper.slug,
        "number": run.paper.number,
        "title": run.paper.title,
        "scope": run.scope,
        "verdict": None if judged is None else judged.value,
        "why_no_verdict": "quick run" if run.quick else run.without_verdict,
        "quick": run.quick,
        "claims": [_claim(outcome) for outcome in run.outcomes],
        "tables": [
            {
                "title": t.title,
                "columns": list(t.columns),
                "rows": [list(map(_plain, r)) for r in t.rows],
                "note": t.note,
            }
            for t in run.tables
        ],
        "settings": run.settings,
        "tried": run.tries,
        "seeds": run.seeds(),
        "seconds": round(run.timings.get("total", 0.0), 1),
        "timings": {name: round(seconds, 3) for name, seconds in run.timings.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(run.device),
        "command": command,
    }
    return found | {"undecided": undecided(found)}


def _claim(outcome: Outcome) -> dict[str, Any]:
    claim, measured = outcome.claim, outcome.measured
    return {
        "name": claim.name,
        "published": claim.published,
        "expected": claim.expect,
        "measured": None if measured is None else _plain(measured.value),
        "spread": None if measured is None else _plain(measured.spread),
        "holds": outcome.holds if outcome.counts else None,
        "state": outcome.state,
        "scope": claim.scope,
        "note": "" if measured is None else measured.note,
    }


def _plain(cell: Cell) -> Cell:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory in GiB, and the accelerator where one is used."""
    import psutil

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def save(run: Run, folder: str | os.PathLike[str], command: str) -> dict[str, Any]:
    """Write the evidence of a finished run: the JSON, and the SVG where there is a plot.

    Returns:
        The document that was written.

    Raises:
        ArtefactError: if the folder cannot be written to.
    """
    found = document(run, command)
    target = Path(folder) / f"{name_of(run)}.json"
    if run.svg is not None:
        write_text(target.with_suffix(".svg"), run.svg)
    write_json(target, found)
    return found


def read_folder(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All evidence of full runs in a folder, by number and scope.

    Raises:
        ArtefactError: if a file is no evidence.
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            keys = {"slug", "number", "verdict", "quick", "claims"} - set(content)
        except (OSError, ValueError, TypeError) as error:
            raise ArtefactError(
                f"{path} cannot be read as evidence ({error})", "remove it or run it again"
            ) from error
        if keys:
            raise ArtefactError(f"{path} is no evidence: it lacks {', '.join(sorted(keys))}", "run it again")
        if not content["quick"]:
            found.append(content | {"file": path.name})
    return sorted(found, key=lambda content: (content["number"], content.get("scope", "")))


def claim_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Rows claim | published | expected | measured | state of one evidence document."""
    return [
        (claim["name"], claim["published"], claim["expected"], measured_text(claim), claim["state"])
        for claim in found["claims"]
    ]


def measured_text(claim: Mapping[str, Any]) -> str:
    """A claim's measured value with its spread, as text; empty where nothing was measured."""
    if claim["measured"] is None:
        return ""
    text = f"{claim['measured']:,.4g}"
    return f"{text} ± {claim['spread']:.2g}" if claim["spread"] else text


def markdown_table(folder: str | os.PathLike[str]) -> str:
    """The docs' account of all evidence in a folder: a table of verdicts, then the claims of each paper.

    Args:
        folder: Where the evidence is.

    Returns:
        Markdown: a summary, then one section for each evidence file.
    """
    found = read_folder(folder)
    known = {entry.slug: entry for entry in LISTING}
    lines = [f"{len({f['slug'] for f in found})} of {len(LISTING)} papers have evidence.", ""]
    lines += ["| # | paper | title | verdict | claims that hold | time |", "|---|---|---|---|---|---|"]
    for f in found:
        counted = [c for c in f["claims"] if c["scope"] == f.get("scope", "")]
        name = f["slug"] + (f" ({f['scope']})" if f.get("scope") else "")
        holding = sum(c["holds"] is True for c in counted)
        title = known[f["slug"]].title if f["slug"] in known else f["title"]
        lines.append(
            f"| {f['number']} | [{name}](#{_anchor(name)}) | {_cell(title)} | {f['verdict'] or 'none'} "
            f"| {holding} of {len(counted)} | {f['seconds'] / 60:.1f} min |"
        )
    for f in found:
        lines += ["", *_section(f)]
    return "\n".join(lines) + "\n"


def _section(found: Mapping[str, Any]) -> list[str]:
    name = found["slug"] + (f" ({found['scope']})" if found.get("scope") else "")
    lines = [f"## {name}", "", f"{found['title']}: **{found['verdict'] or 'no verdict'}**.", ""]
    lines += ["| claim | published | expected here | measured | |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in claim_rows(found)]
    for table in found["tables"]:
        lines += [
            "",
            f"**{_cell(table['title'])}**",
            "",
            "| " + " | ".join(map(_cell, table["columns"])) + " |",
        ]
        lines += ["|" + "---|" * len(table["columns"])]
        lines += ["| " + " | ".join(_cell(cell_text(cell)) for cell in row) + " |" for row in table["rows"]]
        lines += ["", table["note"]] if table["note"] else []
    notes = [f"- Tried: {note}" for note in found["tried"]]
    notes += [f"- Undecided: {note}" for note in undecided(found)]
    lines += ["", *notes] if notes else []
    machine = found["hardware"]
    lines += [
        "",
        f"Seeds {found['seeds']}; {machine['processor']}, {machine['cores']} cores; `{found['command']}`",
    ]
    return lines


def cell_text(cell: Cell) -> str:
    """A table's cell as text: numbers with four digits, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _anchor(name: str) -> str:
    return "".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c == "-")
