"""Tables for LaTeX, with the rules of booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from sharpness.results.description import Description

#: Columns of names, which may look like numbers.
WORDS = ("model", "run", "class", "group", "layer")
#: LaTeX code for characters that LaTeX would interpret or cannot show.
ESCAPED = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "±": r"$\pm$", "°": r"$^\circ$", "λ": r"$\lambda$", "–": "--",
}  # fmt: skip
#: A number, whose minus sign and exponent need math mode.
NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)(?:e([+-]\d+))?(?![\w.])")


def as_latex(table: pd.DataFrame, notes: Sequence[str] = (), symbols: Mapping[str, str] | None = None) -> str:
    r"""A ``tabular`` of a table of text, for ``\usepackage{booktabs}``: numbers right, words left.

    Args:
        table: text, with as many digits as errors allow.
        notes: lines of a comment above it.
        symbols: mathtext for column heads, by name; those of this package's measures are known.

    >>> print(as_latex(pd.DataFrame({"class": ["a_b", "c"], "lambda_max": ["-0.5 ± 0.2", "1e-09"]}), ["±: one error"]))
    % ±: one error
    \begin{tabular}{lr}
    \toprule
    class & $\lambda_\mathrm{max}$ \\
    \midrule
    a\_b & $-0.5$ $\pm$ $0.2$ \\
    c & $1 \cdot 10^{-9}$ \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    words = [name for name in table if name in WORDS or not table[name].map(_is_number).all()]
    columns = "".join("l" if name in words else "r" for name in table)
    heads = [(symbols or {}).get(str(name)) or _head(str(name)) for name in table]
    rows = [
        [escaped(str(cell)) if name in words else _number(cell) for name, cell in zip(table, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    lines = [" & ".join(cells) + r" \\" for cells in (heads, *rows)]
    return "\n".join([
        *(f"% {line}" for note in notes for line in note.splitlines()),
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
        r"\end{tabular}", "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    r"""Escape text for LaTeX.

    >>> print(escaped("50%_of {all} ±"))
    50\%\_of \{all\} $\pm$
    """
    found = _between(" ".join(text.split()))
    # A bracket or a star at the beginning of a row would be an argument of the line's end before it.
    return f"{{}}{found}" if found.startswith(("[", "*")) else found


def _head(name: str) -> str:
    return Description.of(name).symbol or escaped(name.replace("_", " "))


def _is_number(cell: object) -> bool:
    return not isinstance(cell, str) or bool(re.match(r"\s*(-?\d|-\s*$|-?(nan|inf))", cell))


def _number(cell: object) -> str:
    text = str(cell).strip()
    if text == "-":
        return "--"
    parts, end = [], 0
    for found in NUMBER.finditer(text):
        power = "" if found[2] is None else rf" \cdot 10^{{{int(found[2])}}}"
        parts += [_between(text[end : found.start()]), f"${found[1]}{power}$"]
        end = found.end()
    return "".join([*parts, _between(text[end:])])


def _between(text: str) -> str:
    return "".join(ESCAPED.get(c, c) for c in re.sub(" +", " ", text))
