"""A report on saved results: a page and its PDF, with pictures, tables, methods, provenance and references."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sharpness.errors import UserError, shown
from sharpness.files import write_atomically
from sharpness.reporting.bibliography import bibtex, paper_of
from sharpness.reporting.methods_text import as_latex, as_paragraph, sentences
from sharpness.reporting.page import page_of
from sharpness.reporting.printing import print_page
from sharpness.reporting.sections import SHOWN, names_of, section_of
from sharpness.results.collected import Collection, Saved, collect
from sharpness.results.same import require_equal
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused

#: Entries of a run's settings, and their names in the report.
TRAINED = {
    "method": "method", "model": "network", "epochs": "epochs", "batch_size": "batch size",
    "augmentation": "augmentation", "flatten": "flattening", "precision": "precision",
}  # fmt: skip
#: Maximum number of folders between a result and the settings of its run.
ABOVE = 3


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Attributes:
        page: the HTML file.
        pdf: its PDF, or None.
        files: all files.
        remark: why there is no PDF, or an empty text.
    """

    page: Path
    pdf: Path | None
    files: tuple[Path, ...]
    remark: str = ""


def report(
    sources: Sequence[str | Path], folder: str | Path = "report", title: str | None = None,
    command: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Write a report of saved results.

    Args:
        sources: result files, or folders of them, such as runs.
        folder: folder for the report: ``report.html``, ``report.pdf``, figures as PDF and PNG with captions, tables as
            CSV and LaTeX, ``methods.tex`` and ``references.bib``.
        title: heading; by default the names of the sources.
        command: ``name`` and ``options`` of the command that asked for it, which tables record.

    Returns:
        Its files.

    Raises:
        UserError: no results, or models that cannot share a figure; the message names the field that differs.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    # Kinds of the user's own come last.
    places = {kind: place for place, kind in enumerate(SHOWN)}
    collections = sorted(collect(listed), key=lambda c: places.get(c.kind.__name__, len(places)))
    _require_no_mixture(collections)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = title or "Sharpness of " + ", ".join(Path(one).resolve().name for one in listed)
    names = names_of(collections)
    sections = [section_of(c, name, folder, command) for c, name in zip(collections, names, strict=True)]
    for c, section in zip(collections, sections, strict=True):
        if [other.kind for other in collections].count(c.kind) > 1:
            section.title += f" ({c.name})"
    told = sentences(collections)
    members = [one for c in collections for of in c.members.values() for one in of]
    plans = {one.path: _plan(one.path) for one in members if one.path is not None}
    papers = [paper for one in told for paper in one.papers]
    papers += [paper for one in members for name in _used(one, plans) if (paper := paper_of(name)) is not None]
    bib = bibtex(papers)
    page = page_of(title, as_paragraph(told), sections, _trainings(members, plans), _files(list(plans)), bib)
    texts = {"report.html": page, "methods.tex": as_latex(told), "references.bib": bib}
    for name, text in texts.items():
        write_atomically(folder / name, lambda partial, text=text: partial.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    target = folder / "report.pdf"
    remark = print_page(folder / "report.html", target)
    if remark is not None:
        target.unlink(missing_ok=True)  # an older PDF would have other numbers
    written = [folder / name for name in texts] + ([target] if remark is None else [])
    every = [*written, *(path for section in sections for path in section.files)]
    return Report(folder / "report.html", target if remark is None else None, tuple(every), remark or "")


def _require_no_mixture(collections: Sequence[Collection]) -> None:
    """Refuse results of one kind whose models cannot be compared, and results with different classes or groups.

    Several tables of the same models, such as of training and test images, become separate sections.

    Raises:
        UserError: names the field that differs.
    """
    first: dict[type, Collection] = {}
    for c in collections:
        before = first.setdefault(c.kind, c)
        if set(before.members) != set(c.members):
            raise UserError(
                before.refused
                or f"{before.name} has {', '.join(before.members)} and {c.name} {', '.join(c.members)}: "
                "give results of the same models"
            )
    described = {}
    for c in collections:
        one = next(iter(next(iter(c.members.values()))))
        if not one.result.of_groups and one.result.has_classes:
            described[str(one.path)] = {"class_names": one.result.class_names, "groups": one.result.groups}
    if described:
        require_equal(described)


def _plan(path: Path) -> dict[str, Any]:
    """The settings of the run that contains a result, from its ``run.json``; empty without one."""
    for above in path.resolve().parents[:ABOVE]:
        try:
            found = parse_json((above / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, Refused):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _used(one: Saved, plans: Mapping[Path, dict[str, Any]]) -> list[str]:
    """Names of the method and the operations of a training, from its run, otherwise from its label."""
    plan = plans.get(one.path, {}) if one.path is not None else {}
    flatten = plan.get("flatten")
    operations = [str(name).partition("(")[0] for name in flatten] if isinstance(flatten, list) else []
    return [str(plan.get("method", one.label)), *operations, *one.label.split(" + ")]


def _trainings(members: Sequence[Saved], plans: Mapping[Path, dict[str, Any]]) -> pd.DataFrame:
    """One row per training: label, digests, versions, and the settings of its run if known."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in members:
        told, plan = one.result.provenance, plans.get(one.path, {}) if one.path is not None else {}
        row = rows.setdefault((one.label, one.run or ""), {"model": one.label, "training": one.run or ""})
        row |= {name: shown(str(plan[key])) for key, name in TRAINED.items() if plan.get(key) not in (None, "", [])}
        if isinstance(data := plan.get("data"), dict):
            row["data"] = shown(f"{data.get('dataset')}, imbalance {data.get('imbalance')}")
        for name, key in (("model sha256", "model_sha256"), ("images sha256", "images_sha256")):
            if key in told:
                row.setdefault(name, str(told[key])[:12])
        row |= {name: told[name] for name in ("num_parameters", "dtype", "sharpness", "torch") if name in told}
    return pd.DataFrame(list(rows.values()))


def _files(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.DataFrame([
        {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths
    ])  # fmt: skip
