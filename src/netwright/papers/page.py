"""The list of papers as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from netwright.papers.catalogue import Entry

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Netwright: the papers</title>
<style>
  :root {{ color-scheme: light dark; --line: #8886; --soft: #8882; }}
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
  input {{ font: inherit; padding: .4rem .6rem; width: min(24rem, 100%); box-sizing: border-box; }}
  table {{ border-collapse: collapse; width: 100%; margin-top: 1rem; }}
  th, td {{ text-align: left; padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align:
  top; }} td:first-child {{ text-align: right; font-variant-numeric: tabular-nums; }}
  code {{ background: var(--soft); padding: .1rem .3rem; border-radius: .25rem; overflow-wrap: anywhere; }}
  small {{ opacity: .75; display: block; }}
  .yes {{ font-weight: 600; }}
  @media (max-width: 40rem) {{
    thead {{ display: none; }}
    tr {{ display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); }}
    td, td:first-child {{ display: block; border: 0; padding: .1rem 0; text-align: left; }}
  }}
</style>
</head>
<body>
<h1>The papers</h1>
<p>{summary}</p>
<input type="search" placeholder="Filter" aria-label="Filter the papers" id="filter">
<table>
<thead><tr><th>#</th><th>paper</th><th>title</th><th>package</th><th>state</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<script>
  const rows = [...document.querySelectorAll("tbody tr")];
  document.getElementById("filter").addEventListener("input", (event) => {{
    const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  }});
</script>
</body>
</html>
"""


def render(entries: Sequence[Entry], states: Mapping[str, str]) -> str:
    """Make the page.

    Args:
        entries: The papers to show.
        states: What to show as the state of each slug.
    """
    done = sum(state != "not yet" for state in states.values())
    rows = "\n".join(
        f"<tr><td>{e.number}</td><td><code>{escape(e.slug)}</code></td>"
        f"<td>{escape(e.title)}<small>{escape(e.what)}</small></td><td>{escape(e.package)}</td>"
        f'<td class="{"no" if states[e.slug] == "not yet" else "yes"}">{escape(states[e.slug])}</td></tr>'
        for e in entries
    )
    return _PAGE.format(summary=f"{len(entries)} papers, {done} implemented.", rows=rows)
