"""The explorer as one HTML file, which works offline and cannot access a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sharpness.files import write_atomically

START = """
const page = document.getElementById("explorer");
explore(page, JSON.parse(document.getElementById("data").textContent));
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; background: light-dark(#fff, #14171c); }}
body {{ margin: 0; }}
{style}</style>
</head>
<body>
<main id="explorer"><noscript>This page shows its numbers with JavaScript, which is switched off here.</noscript></main>
<script type="application/json" id="data">{data}</script>
<script type="module">{module}</script>
</body>
</html>
"""


def module() -> str:
    """The JavaScript module of the page and the widget: one text, because neither can import other files."""
    return _read("drawing.js") + re.sub(r"^import .*\n", "", _read("explorer.js"), flags=re.MULTILINE)


def style() -> str:
    """The style sheet of the page and the widget."""
    return _read("explorer.css")


def _read(name: str) -> str:
    return files("sharpness.explorer").joinpath(name).read_text(encoding="utf-8")


def page_of(payload: dict[str, Any]) -> str:
    """The page of a payload.

    No text of a result can close the element that holds the data, and only the module can run: the content security
    policy contains its digest, and forbids all network access.
    """
    code = module() + START
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return PAGE.format(
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'",
        title=escape(payload["title"]), style=style(), data=embedded(payload), module=code,
    )  # fmt: skip


def embedded(value: Any) -> str:
    r"""JSON that is safe inside a ``script`` element, whatever texts it contains.

    >>> embedded(["</script><b>"])
    '["\\u003c/script>\\u003cb>"]'
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def write_page(payload: dict[str, Any], path: str | Path) -> Path:
    """Write the page of a payload (atomically)."""
    path, text = Path(path), page_of(payload)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path
