"""The page of a report: one HTML file with embedded pictures, for screen and print."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import pandas as pd

from sharpness.reporting.sections import Section

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#16191f, #eceef2); --soft: light-dark(#4d5562, #aab2bf);
  --rule: light-dark(#c9ced6, #3b424d); --page: light-dark(#fff, #14171c); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1300px;
  margin: 0 auto; padding: 16px; overflow-wrap: anywhere; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 2em; border-bottom: 1px solid var(--rule); }
figure { margin: 12px 0; } figure img { max-width: 100%; background: #fff; }
figcaption, .soft { color: var(--soft); font-size: 13px; }
.math { font-family: "STIX Two Math", "Cambria Math", "DejaVu Serif", serif; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; border: 0; }
th, td { border: 0; padding: 2px 6px; text-align: right; white-space: nowrap; overflow-wrap: normal; }
.words td:nth-child(-n+3), .words th:nth-child(-n+3) { text-align: left; }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); }
tbody tr:last-child td { border-bottom: 2px solid var(--ink); }
pre { white-space: pre-wrap; font-size: 12.5px; border: 1px solid var(--rule); padding: 8px; }
@media print {
  :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 10.5pt; }
  .scroll { overflow: visible; } table { font-size: 7pt; } th, td { padding: 1px 3px; white-space: normal; }
  .files td { overflow-wrap: anywhere; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  details > summary { list-style: none; }
}
@page { size: A4; margin: 15mm; }
"""


def page_of(
    title: str, methods: str, sections: Sequence[Section], trainings: pd.DataFrame, sources: pd.DataFrame, bib: str
) -> str:
    """Combine the parts of a report into a page.

    Args:
        title: heading.
        methods: HTML of the paragraph of methods.
        sections: pictures and tables.
        trainings: one row per trained model: its identity, and how it was probed.
        sources: the files that were read, with their digests.
        bib: BibTeX.
    """
    parts = [f"<h1>{escape(title)}</h1>", "<h2>Methods</h2>", methods, *map(_section, sections)]
    parts += [
        "<h2>Provenance</h2>",
        _table(trainings),
        "<h3>Files that were read</h3>",
        f'<div class="files">{_table(sources)}</div>',
    ]
    parts += ["<h2>References</h2>", f"<pre>{escape(bib)}</pre>"]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no scripts, no network
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _section(one: Section) -> str:
    parts = [f"<h2>{escape(one.title)}</h2>"]
    if one.picture is not None:
        data = base64.b64encode(one.picture.read_bytes()).decode()
        told = "; ".join(f"{escape(name)}: {escape(line)}" for name, line in one.caption.items())
        image = f'<img alt="{escape(one.title)}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{told}</figcaption></figure>")
    if one.note:
        parts.append(f'<p class="soft">{escape(one.note)}</p>')
    for heading, table in one.tables.items():
        parts.append(f'<h3>{escape(heading)}</h3><div class="scroll words" tabindex="0">{table}</div>')
    names = ", ".join(escape(path.name) for path in one.files if not path.name.endswith(".json"))
    parts.append(f'<p class="soft">Files: {names}.</p>' if names else "")
    return "\n".join(parts)


def _table(frame: pd.DataFrame) -> str:
    return (
        f'<div class="scroll words" tabindex="0">{frame.to_html(index=False, escape=True, border=0, na_rep="")}</div>'
    )
