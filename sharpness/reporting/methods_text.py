"""A methods paragraph for a paper: the measured quantities, with formulas and settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from sharpness.reporting.bibliography import authors_year
from sharpness.reporting.formulas import KINDS, MEASURES, OBJECTIVE, WORST_CASE, as_html
from sharpness.results.caption import CURVATURE
from sharpness.results.collected import Collection
from sharpness.results.latex import escaped
from sharpness.results.words import named_matrix

#: What the value of a group is, by whether rows of a result are groups instead of classes.
GROUPS = {
    False: "a group's value is the mean of its classes",
    True: "in results of groups alone, a group's value is that of all its images together",
}


class Sentence(NamedTuple):
    """One sentence: its words, its formula in LaTeX, and the keys of papers."""

    words: str
    formula: str = ""
    papers: tuple[str, ...] = ()


def sentences(collections: Sequence[Collection]) -> list[Sentence]:
    """Statements about the numbers of collected results: the loss and its samples, then every measure and probe once.

    Settings that differ between models, or that a file does not record, are left out.
    """
    found, usual = [_objective(collections)], _usual_size(collections)
    for c in collections:
        results = list(c.results.each().values())
        names = getattr(results[0], "names", ()) if c.kind.__name__ == "MeasureResult" else ()
        worst_case = _common("probe", results) == "worst_case"
        told = [(name, MEASURES[name]) for name in names if name in MEASURES and not worst_case]
        told += [("worst_rise", WORST_CASE)] if worst_case else []
        if c.kind.__name__ in KINDS:
            told.append(("", KINDS[c.kind.__name__]))
        for name, statement in told:
            words = _filled(statement.sentence, results)
            # Of probes, all that record a matrix are of it; of measures, those with second derivatives.
            if _common("kind", results) not in (None, "hessian") and (not name or r"\nabla^2" in statement.formula):
                words += f" (of the {named_matrix(results[0].provenance)} in the place of the Hessian)"
            sizes = sorted({int(r.class_samples.sum()) for r in results})
            if sizes != [usual]:
                words += f" (over {' to '.join(f'{n:,}' for n in dict.fromkeys([sizes[0], sizes[-1]]))} images)"
            found.append(Sentence(f"{name}: {words}" if name else words[0].upper() + words[1:], *statement[1:]))
    found.append(Sentence(_errors(collections)))
    return list({(one.words, one.formula): one for one in found}.values())


def as_paragraph(listed: Sequence[Sentence]) -> str:
    """The sentences in HTML."""
    parts = []
    for one in listed:
        cited = f" ({escape('; '.join(map(authors_year, one.papers)))})" if one.papers else ""
        formula = f", {as_html(one.formula)}" if one.formula else ""
        parts.append(f"{escape(one.words)}{formula}{cited}.")
    return "<p>" + " ".join(parts) + "</p>"


def as_latex(listed: Sequence[Sentence]) -> str:
    r"""The sentences in LaTeX, with citations as ``\cite``."""
    parts = []
    for one in listed:
        formula = f", ${one.formula}$" if one.formula else ""
        cited = rf"~\cite{{{','.join(one.papers)}}}" if one.papers else ""
        parts.append(f"{escaped(one.words)}{formula}{cited}.")
    return "\n".join(parts) + "\n"


def _objective(collections: Sequence[Collection]) -> Sentence:
    results = _results(collections)
    # Results of groups have the groups in the place of the classes.
    first = next((one for one in results if not one.of_groups), results[0])
    told: Mapping[str, Any] = first.provenance
    size = f"{_usual_size(collections):,}"
    row, rows = ("group", "groups") if first.of_groups else ("class", "classes")
    loss = {"ce": "cross-entropy of calibrated logits"}.get(str(told.get("loss")), str(told.get("loss", "the loss")))
    parts = [f"Losses are those of every {row} c over {size} images in {len(first.class_names)} {rows} ({loss}"]
    # Other results record plain coordinates, whatever those of the curvature are.
    curved = [one for one in results if _is_curvature(one)]
    shared = {
        "batchnorm": ("BatchNorm in mode {}", results),
        "scope": ("{} parameters", results),
        "dtype": ("{}", results),
        "coordinates": ("curvature in {} coordinates", curved),
    }
    for name, (words, those) in shared.items():
        if those and (value := _common(name, those)) is not None:
            parts.append(words.format(value))
    return Sentence(", ".join(parts) + ")", OBJECTIVE)


def _is_curvature(result: Any) -> bool:
    """True for second derivatives, which depend on coordinates; tables of measures may have none."""
    if type(result).__name__ == "MeasureResult":
        return any(name in MEASURES and r"\nabla^2" in MEASURES[name].formula for name in result.names)
    return type(result).__name__ in CURVATURE


def _usual_size(collections: Sequence[Collection]) -> int:
    """The number of samples of most results."""
    return Counter(int(r.class_samples.sum()) for r in _results(collections)).most_common(1)[0][0]


def _errors(collections: Sequence[Collection]) -> str:
    runs = sorted({len(of) for c in collections for of in c.members.values()})
    words = "Intervals are of 95 %, over images, draws or random vectors as stated beside them"
    if runs[-1] > 1:
        count = " to ".join(map(str, dict.fromkeys([runs[0], runs[-1]])))
        words += f"; means are over {count} trainings with other seeds, ± one standard deviation over them"
    grouped = {one.of_groups for one in _results(collections)}
    return "; ".join([words, *(told for of_groups, told in GROUPS.items() if of_groups in grouped)])


def _results(collections: Sequence[Collection]) -> list[Any]:
    return [one.result for c in collections for of in c.members.values() for one in of]


def _filled(sentence: str, results: Sequence[Any]) -> str:
    """Fill in settings that all results share; a part in brackets or after a comma that lacks its setting is removed.

    >>> from types import SimpleNamespace
    >>> _filled("the rise at r = {radius} (seed {seed}), to {tol}", [SimpleNamespace(provenance={"radius": 0.1})])
    'the rise at r = 0.1'
    """
    known = {name: _common(name, results) for name in _names(sentence)}
    for name, value in known.items():
        if value is None:
            # The shortest phrase that contains the setting is removed.
            sentence = re.sub(
                rf" \([^()]*\{{{name}\}}[^()]*\)|,[^,(]*\{{{name}\}}[^,]*| [\w= ]*\{{{name}\}}", "", sentence
            )
    return sentence.format(**{name: value for name, value in known.items() if value is not None})


def _names(sentence: str) -> Iterator[str]:
    return (name for _, name, _, _ in Formatter().parse(sentence) if name)


def _common(name: str, results: Sequence[Any]) -> Any:
    """A setting that all results share, as text if it is a number; None if they differ."""
    # The number of draws is in the provenance; the attribute of that name is a method.
    own = [getattr(r, name, None) for r in results]
    values = [
        r.provenance.get(name) if one is None or callable(one) else one for r, one in zip(results, own, strict=True)
    ]
    if isinstance(values[0], np.ndarray):
        same = all(np.array_equal(values[0], value) for value in values)
        return ", ".join(f"{v:g}" for v in values[0]) if same else None
    if any(value != values[0] for value in values):
        return None
    return f"{values[0]:g}" if isinstance(values[0], float) else values[0]
