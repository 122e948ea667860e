"""Captions: the content of a picture, with its models, images, loss, normalisation, seeds and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from sharpness.files import picture_file, write_atomically
from sharpness.results.comparison import each, first_of, one_training
from sharpness.results.runs import Entry, Runs
from sharpness.results.words import told_temperature

#: Meaning of errors and spreads, by the kind of result.
ERRORS = {
    "MeasureResult": "bars are 95 % intervals, over {over}",
    "EigenvalueResult": "bars are 95 % intervals over {over}, where they were asked for",
    "SpectralDensityResult": "bands are 95 % intervals over random vectors; marks are the extreme Ritz values",
    "OptimaResult": "standard errors of lengths and losses over images are in the table",
    "OwnersResult": "standard errors over images are in the table",
    "PerturbationResult": "spread over {draws} draws of the perturbation",
}

#: Results whose derivatives depend on coordinates.
CURVATURE = ("MeasureResult", "EigenvalueResult", "SpectralDensityResult", "OwnersResult", "LayerResult")
#: Results whose pictures show a single training of each model.
OF_ONE = ("PlaneResult", "CharacteristicRadiusResult")
#: Results whose pictures are heat maps.
HEAT_MAPS = ("LayerResult", "OwnersResult", "OptimaResult")


def caption(
    what: str, results: Mapping[str, Entry], split: str = "", order: Sequence[str] | None = None
) -> dict[str, str]:
    """Describe a picture of results by headings, with all that a reader must know about its numbers.

    Facts that a result does not record are omitted.

    Args:
        what: description of the picture.
        results: results by label.
        split: name of the images.
        order: labels of the models in the picture; by default all.
    """
    from sharpness.plots.bars import CROWD  # here, because tables are described without matplotlib

    results = {label: results[label] for label in order or results}
    first = first_of(results)
    kind = type(first).__name__
    results = one_training(results) if kind in OF_ONE else results
    told: Mapping[str, Any] = first.provenance
    models = [
        f"{label} ({len(e)} trainings)" if isinstance(e, Runs) and len(e) > 1 else label for label, e in results.items()
    ]
    lines = {"Shows": what, "Models": ", ".join(models)}
    sizes = sorted({int(r.class_samples.sum()) for r in each(results).values()})
    number = " to ".join(map(str, dict.fromkeys([sizes[0], sizes[-1]])))
    present = int((first.class_samples > 0).sum())
    classes = f"{present} of {len(first.class_names)}" if present < len(first.class_names) else present
    lines["Images"] = f"{number} {split}".strip() + f", in {classes} {'groups' if first.of_groups else 'classes'}"
    if "loss" in told:
        scales = sorted({r.provenance.get("logit_scale", 1.0) for r in each(results).values()})
        lines["Loss"] = f"{told['loss']}, logits times {', '.join(f'{s:g}' for s in scales)}"
    if "coordinates" in told and kind in CURVATURE:
        lines["Curvature"] = f"in {told['coordinates']} coordinates"
    if "temperature" in told:
        found = {name: told_temperature(r.provenance) for name, r in each(results).items()}
        lines["Confidence"] = "; ".join(f"{name}: {line}" for name, one in found.items() for line in one)
    if hasattr(first, "normalization"):
        lines["Normalisation"] = f"{first.normalization or 'none'} of the directions"
    if getattr(first, "directions", None):
        lines["Directions"] = str(first.directions)
    trained = _trainings({label: e.names for label, e in results.items() if isinstance(e, Runs)})
    # A table has no field for its seed; its provenance has one if a measure uses random draws.
    seed = getattr(first, "seed", told.get("seed"))
    seeds = [*([] if seed is None else [f"probe {seed}"]), *trained]
    lines |= {"Seeds": "; ".join(seeds)} if seeds else {}
    over = getattr(first, "over", "")
    over = ", ".join(dict.fromkeys(over)) if isinstance(over, tuple) else over
    errors = ERRORS.get(kind, "none of a single training")
    errors = errors.format(over=over or "images, draws or vectors", draws=told.get("draws", "the"))
    several = [label for label, e in results.items() if isinstance(e, Runs) and len(e) > 1]
    crowd = "bars" in errors and getattr(first, "per_class", True) and len(first.class_names) > CROWD
    if crowd:
        errors = "none; bands have 5 to 95 % of classes that are neighbours by their training images"
    elif kind == "SpectralDensityResult" and len(several) == len(results):
        errors = errors.partition("; ")[2]  # no band is over random vectors
    parts = [errors]
    if several:
        # The marks of the others mean something else.
        those = f" of {', '.join(several)}" if len(several) < len(results) else ""
        parts.append(_spread(kind, crowd).format(those=those))
    lines["Errors"] = "; ".join(parts)
    return lines


def _spread(kind: str, crowd: bool) -> str:
    """One line on what a picture shows of several trainings, with a place for the models that have them."""
    if crowd or kind in HEAT_MAPS:
        return f"{'values' if crowd else 'cells'}{{those}} are means over trainings"
    return "bars, bands and boxes{those} are ± 1 sd over trainings, on logarithmic axes of single values their range"


def _trainings(names: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the trainings of every model, only once if all models share them.

    >>> _trainings({"CE": ["seed 0", "seed 1", "seed 2"], "SAM": ["seed 0", "seed 1", "seed 2"]})
    ['seeds 0 to 2 of each']
    >>> _trainings({"CE": ["seed 0"], "SAM": ["seed 1", "seed 4"]})
    ['seed 0 of CE', 'seeds 1, 4 of SAM']
    """
    told = {label: _several(of_label) for label, of_label in names.items()}
    if len(told) > 1 and len(set(told.values())) == 1:
        return [f"{next(iter(told.values()))} of each"]
    return [f"{one} of {label}" for label, one in told.items()]


def _several(names: Sequence[str]) -> str:
    """Join names of trainings; consecutive seeds become a range."""
    numbers = [name.removeprefix("seed ") for name in names]
    if len(names) < 2 or not all(n.isdecimal() and f"seed {n}" == name for n, name in zip(numbers, names, strict=True)):
        return ", ".join(names)
    seeds = sorted(map(int, numbers))
    row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"seeds {seeds[0]} to {seeds[-1]}" if row else f"seeds {', '.join(map(str, seeds))}"


def write_caption(path: Path, lines: Mapping[str, str]) -> Path:
    """Write the caption of a picture next to it, as ``NAME.txt``, and return its path.

    Args:
        path: path of the picture.
        lines: text by heading, from :func:`caption`.
    """
    target = picture_file(path, ".txt")
    text = "".join(fill(f"{name}: {line}", 100, subsequent_indent="    ") + "\n" for name, line in lines.items())
    write_atomically(target, lambda partial: partial.write_text(text, encoding="utf-8"))
    return target
