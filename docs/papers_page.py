"""MkDocs hook: the page of the papers, made from the evidence files and the catalogue.

Run as a program it prints the slugs of the implemented papers: `python docs/papers_page.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from netwright.papers import implemented, listing, markdown_table, read_folder

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

EVIDENCE = Path(__file__).parents[1] / "evidence"

HEAD = """\
# Papers

Netwright runs published systems on its shared core, each from one command: `netwright reproduce SLUG`.
The verdict is computed from the claims and can be "not reproduced". This page is made from the files in
`evidence/`, which `make evidence` writes; each section names the command that repeats it.

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and the plots to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "papers.md", content=HEAD + results() + catalogue()))
    for plot in sorted(EVIDENCE.glob("*.svg")):
        if not plot.stem.endswith(".quick"):
            files.append(File.generated(config, f"evidence/{plot.name}", abs_src_path=str(plot)))
    return files


def results() -> str:
    """Verdicts and claims, each paper's section with its plot."""
    text = markdown_table(EVIDENCE)
    for found in read_folder(EVIDENCE):
        name = found["slug"] + (f" ({found['scope']})" if found.get("scope") else "")
        plot = EVIDENCE / Path(found["file"]).with_suffix(".svg")
        if plot.exists():
            heading = f"## {name}\n"
            picture = f"\n![What was measured for {name}](evidence/{plot.name})\n"
            text = text.replace(heading, heading + picture, 1)
    return text


def catalogue() -> str:
    """All papers with what they do and whether they run here."""
    lines = ["", "## All papers", "", "| # | slug | what it does | package | |", "|---|---|---|---|---|"]
    for entry in listing():
        state = "implemented" if implemented(entry.slug) else "not yet"
        what = entry.what.replace("|", "\\|")
        lines.append(f"| {entry.number} | `{entry.slug}` | {what} | {entry.package} | {state} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print("\n".join(entry.slug for entry in listing() if implemented(entry.slug)))
