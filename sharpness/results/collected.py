"""Collections of saved results that can share a table or picture."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sharpness.errors import UserError
from sharpness.results.base import Result
from sharpness.results.comparison import Comparison, compare
from sharpness.results.runs import Runs
from sharpness.results.saved import load_result

logger = logging.getLogger("sharpness")
#: The label of a single training, as ``figures`` writes it.
SEEDED = re.compile(r"(?P<label>.+?)[-_, ]+seed[-_ ]?(?P<seed>\d+)")
#: A seed in the path of a file.
SEED = re.compile(r"seed[-_ ]?(\d+)")


class Saved(NamedTuple):
    """The result of one training, and its source; ``run`` names the training if its model has several."""

    label: str
    run: str | None
    result: Result
    path: Path | None


@dataclass
class Collection:
    """Results of one kind that can be compared with each other.

    Attributes:
        members: trainings by model.
        refused: why a result of this kind could not be added, or an empty text.
    """

    members: dict[str, list[Saved]] = field(default_factory=dict)
    refused: str = ""

    @property
    def kind(self) -> type[Result]:
        return type(next(self._each()).result)

    @property
    def paths(self) -> list[Path]:
        return list(dict.fromkeys(one.path for one in self._each() if one.path is not None))

    @property
    def name(self) -> str:
        """The common part of the names of its files, without labels of models and seeds."""
        stems = [path.stem for path in self.paths]
        for one in self._each():
            stems = [re.sub(rf"[-_.]*{re.escape(one.label)}([-_.]*seed[-_.]?\d+)?$", "", stem) for stem in stems]
        return os.path.commonprefix(stems).strip("-_. ") or self.kind.__name__.removesuffix("Result").lower()

    @property
    def results(self) -> Comparison[Any]:
        """One result for every model, :class:`Runs` where it has several trainings."""
        found: Comparison[Any] = Comparison()
        for label, of_label in self.members.items():
            if len(of_label) == 1 and of_label[0].run is None:
                found[label] = of_label[0].result
            else:
                ordered = sorted(of_label, key=lambda one: _number(one.run))
                found[label] = Runs([one.result for one in ordered], [str(one.run) for one in ordered])
        return found

    def take(self, one: Saved) -> bool:
        """Add a result if it can be compared with the others; a second copy of one of them is ignored.

        If the result differs in a setting, ``refused`` gives the reason.
        """
        first = next(self._each(), None)
        if first is not None and type(first.result) is not type(one.result):
            return False
        for other in self.members.get(one.label, []):
            if other.run == one.run:
                if is_copy(other.result, one.result):
                    return True
                self.refused = self.refused or _difference(other, one)
                return False
            if None in (other.run, one.run):
                self.refused = (
                    self.refused or f"{named(other)} and {named(one)}: one of them does not name its training"
                )
                return False
        if first is not None:
            try:
                compare({named(first): first.result, named(one): one.result})
            except UserError as error:
                self.refused = str(error)
                return False
        self.members.setdefault(one.label, []).append(one)
        return True

    def _each(self) -> Iterator[Saved]:
        return (one for of_label in self.members.values() for one in of_label)


def collect(results: Any) -> list[Collection]:
    """Group saved results, or results in memory, into collections that can be compared.

    Args:
        results: a file, or a folder, in which every ``.nc`` file that holds a result counts; a result, :class:`Runs`, a
            :class:`Comparison`, a mapping of labels to results; or any number of these, such as a list or what ``glob``
            finds.

    Raises:
        UserError: an unsupported object, a missing source, a file that is not a result, or no results.
    """
    single = isinstance(results, str | Mapping | Result | Runs) or not isinstance(results, Iterable)
    listed = [results] if single else list(results)
    paths = [str(one) for one in listed if isinstance(one, str | Path)]
    return gather(saved_in(listed), ", ".join(paths) or "what was given")


def saved_in(results: Any) -> list[Saved]:
    """Every result of what :func:`collect` takes.

    Raises:
        UserError: an unsupported object, a missing source, or a file that is not a result.
    """
    return list(_of_anything(results))


def gather(found: Sequence[Saved], where: str) -> list[Collection]:
    """Group results into collections, in the order in which they were found, with one order of models.

    Raises:
        UserError: there are none.
    """
    if not found:
        raise UserError(f"no saved results in {where}: write some with -o FILE.nc, or with result.save(path)")
    collections: list[Collection] = []
    for one in _numbered(found):
        if not any(known.take(one) for known in collections):
            known = Collection()
            known.take(one)
            collections.append(known)
    # Files of single models come in the order of their names; a file of several models has the order of its command.
    models = Counter(path for path, _ in {(one.path, one.label) for one in found})
    order = list(dict.fromkeys(one.label for one in sorted(found, key=lambda one: -models[one.path])))
    for known in collections:
        known.members = {label: known.members[label] for label in order if label in known.members}
    return collections


def _of_anything(results: Any, path: Path | None = None) -> Iterator[Saved]:
    """Every result of what :func:`collect` takes, or of what the file ``path`` held."""
    if isinstance(results, str | Path):
        yield from _of_source(Path(results))
    elif isinstance(results, Mapping):
        for label, entry in results.items():
            yield from _of_entry(str(label), entry, path)
    elif isinstance(results, Result):
        yield _saved(results, path)
    elif isinstance(results, Runs):
        yield from _of_entry(results.label, results, path)
    elif path is not None:
        raise UserError(f"{path} holds a {type(results).__name__}, a table of no single model: plot it by itself")
    elif isinstance(results, Iterable):
        for one in results:
            yield from _of_anything(one)
    else:
        raise UserError(f"{type(results).__name__} is no result: give what a probe returns, or the folder of its files")


def _of_source(source: Path) -> Iterator[Saved]:
    if not source.is_dir():
        yield from _of_anything(load_result(source), source)
        return
    for path in sorted(source.rglob("*.nc")):
        try:
            read = list(_of_source(path))
        except UserError as error:
            logger.info("left out: %s", error)
            continue
        yield from read


def _of_entry(label: str, entry: Any, path: Path | None) -> Iterator[Saved]:
    if isinstance(entry, Result):
        yield _saved(entry, path, label)
    elif isinstance(entry, Runs | list | tuple):
        runs = entry if isinstance(entry, Runs) else Runs(entry)
        for name, one in zip(runs.names, runs, strict=True):
            yield Saved(label, name, one, path)
    else:
        raise UserError(f"{label!r}: {type(entry).__name__} is no result: give what a probe or load_result returns")


def _saved(result: Result, path: Path | None, label: str | None = None) -> Saved:
    """A single result. Its label may include the seed; without a label, the name of the file is used."""
    label = label or str(result.provenance.get("label") or (path.stem if path is not None else "model"))
    run = result.provenance.get("run")
    seeded = SEEDED.fullmatch(label)
    if run is None and seeded:
        label, run = seeded["label"], f"seed {seeded['seed']}"
    return Saved(label, None if run is None else str(run), result, path)


def named(one: Saved) -> str:
    """The file, or the label, of a result in messages."""
    label = one.label if one.run is None else f"{one.label}, {one.run}"
    return label if one.path is None else f"{one.path} ({label})"


def _numbered(found: Sequence[Saved]) -> list[Saved]:
    """Name trainings of a model that have no name: by the seeds in their paths, or by number."""
    models: dict[str, dict[Any, list[Saved]]] = {}
    for one in found:
        if one.run is None:
            models.setdefault(one.label, {}).setdefault(one.result.provenance.get("model_sha256"), []).append(one)
    names: dict[tuple[str, Any], str] = {}
    for label, trainings in models.items():
        if len(trainings) < 2 or None in trainings:
            continue
        seeds = [SEED.findall(str(ones[0].path)) for ones in trainings.values()]
        told = [f"seed {found[-1]}" if found else "" for found in seeds]
        distinct = all(told) and len(set(told)) == len(told)
        for i, sha256 in enumerate(trainings):
            names[label, sha256] = told[i] if distinct else f"run {i + 1}"
    return [
        one
        if one.run is not None
        else one._replace(run=names.get((one.label, one.result.provenance.get("model_sha256"))))
        for one in found
    ]


def is_copy(a: Result, b: Result) -> bool:
    """True for two copies of one result: equal numbers and settings, under any label."""
    first, second = (replace(one, provenance={**one.provenance, "label": "", "run": ""}).to_dataset() for one in (a, b))
    return first.attrs == second.attrs and bool(first.equals(second))


def _difference(a: Saved, b: Saved) -> str:
    """The first difference of two results of one training: a setting, or their numbers."""
    try:
        compare({named(a): a.result, f"{named(b)} ": b.result})
    except UserError as error:
        return str(error)
    return f"{named(a)} and {named(b)} are of one training and have other numbers"


def _number(run: str | None) -> tuple[int, str]:
    """Return the sort key of a training: its seed, then its name."""
    digits = re.search(r"\d+", run or "")
    return (int(digits[0]) if digits else -1, run or "")
