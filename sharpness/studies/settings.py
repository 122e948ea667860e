"""Settings that all trainings of a study share, and the columns that their measures take in its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.probes import MEASURES, Measure, measure
from sharpness.probes.measures.extreme_eigenvalues import Lanczos
from sharpness.probes.measures.registry import chosen_measures

if TYPE_CHECKING:
    from sharpness.studies.cells import Cell

S = TypeVar("S", bound="Settings")
#: The measure whose numbers are those of the test set, which the run recorded, and the groups that it has.
ACCURACY = "accuracy"
GROUPS = ("many", "medium", "few")
ACCURACIES = (ACCURACY, *(f"{ACCURACY} {group}" for group in GROUPS))
#: Images that are all probed, and how many of more there are of every class: 200 in all, but 5 of each at least.
ALL_PROBED, PROBED, LEAST = 400, 200, 5
#: Not among the measures of a study unless they are named: they are no sharpness.
LEFT_OUT = (ACCURACY, "loss")


def study_measures(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of a study's measures beside the accuracy on the test set, which every table of a study has.

    Raises:
        UserError: an unknown measure, or none.
    """
    chosen = [one.name for one in chosen_measures(names)]
    return tuple(name for name in chosen if name not in (LEFT_OUT if names is None else (ACCURACY,)))


def probed_of(data: LongTailData, split: str, limit: int | None) -> int | None:
    """Largest number of probed images of a class: as asked, else few where there are many; None for all.

    Five networks on all images of CIFAR-10-LT would take a day of a processor.
    """
    images = len(data.part(split))
    return limit if limit is not None or images <= ALL_PROBED else max(LEAST, PROBED // data.num_classes)


def require_distinct(**lists: Sequence[Any]) -> None:
    """Refuse lists by name that are empty or hold something twice.

    Raises:
        UserError: names the first.
    """
    for what, given in lists.items():
        if len(set(given)) < len(given) or not given:
            raise UserError(f"{what} {','.join(map(str, given))!r}: name at least one, and each only once")


def measure_of(column: str) -> Measure:
    """The measure of a column such as ``"lambda_max tail"``."""
    return MEASURES.choose(column.split()[0])


@dataclass(frozen=True)
class Settings:
    """The common settings of all cells of a study.

    Args:
        runs: folder of the runs.
        split, loss, limit_per_class: of :func:`sharpness.checkpoint_objective`; the last as :func:`probed_of` says.
        draws: of random perturbations.
        max_iterations, tol: of Lanczos' algorithm, for each spectrum.
        training: of :func:`sharpness.train`: epochs, model, batch_size, precision, device.
        measures: names of the measures that every training is probed for, see :func:`study_measures`.
        logits: of :class:`sharpness.Objective`.
        coordinates: of curvature, in which models are compared: those that no rescaling of filters changes unless
            ``"plain"``.
    """

    runs: Path
    split: str = "train"
    loss: str = "ce"
    limit_per_class: int | None = None
    draws: int = 5
    max_iterations: int = 100
    training: dict[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = field(default_factory=lambda: study_measures(None))
    tol: float = Lanczos.tol
    logits: str = "calibrated"
    coordinates: str = "filter"

    @property
    def measuring(self) -> dict[str, Any]:
        """Arguments of :func:`sharpness.measure`; directions are the same for all cells."""
        numbers = {"draws": self.draws, "max_iterations": self.max_iterations, "tol": self.tol, "seed": 0}
        return {**numbers, "coordinates": self.coordinates}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cells' table that hold numbers."""
        tail = (f"{name}{subset}{end}" for name in self.measures for subset in ("", " tail") for end in ("", " se"))
        return (*ACCURACIES, *tail)

    def probes(self, cell: Cell) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
        """Probes of a cell with their settings, by the names of their files."""
        if not self.measures:
            return {}
        return {"measures": (measure, {"measures": self.measures, **self.measuring})}


@dataclass(frozen=True)
class Making:
    """Place where the cells of a study are made, and the part of them.

    Args:
        jobs: cells at a time, each in a process of its own that takes its share of the threads; None is one for each
            processor, up to four, and a single one with a GPU. On small images the threads of one process gain little.
        executor: where cells are made instead, see :func:`sharpness.cluster`.
        part: (i, n): part i of n alone, from 1 on, for an array of jobs.

    >>> Making(part=(2, 3)).chosen("abcdefg")
    'be'
    """

    jobs: int | None = 1
    executor: Executor | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.executor is not None and self.jobs != 1:
            raise UserError(f"jobs={self.jobs} and an executor: give one of them")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise UserError(f"cells {self.part[0]}/{self.part[1]}: give part i of n, such as 3/60, with i from 1 to n")

    def chosen(self, cells: Any) -> Any:
        """The cells of the part: every n-th, so that all parts have some of each kind."""
        return cells if self.part is None else cells[self.part[0] - 1 :: self.part[1]]


class StudyOptions(TypedDict, total=False):
    """Options of all studies: settings of :class:`Settings`, and how the trainings are made.

    Attributes:
        measures: of the table beside the accuracy on the test set; those of :func:`sharpness.measure` unless given.
        jobs, executor, part: where trainings are made, and which of them, see :class:`Making`.
        augmentation: of all trainings, see :func:`sharpness.train`, as are the following ones.
    """

    split: str
    loss: str
    limit_per_class: int | None
    draws: int
    max_iterations: int
    coordinates: str
    measures: str | Sequence[str] | None
    jobs: int | None
    executor: Executor | None
    part: tuple[int, int] | None
    augmentation: str | None
    epochs: int | None
    model: Any
    batch_size: int | None
    precision: str
    device: str | None


def settings_of(
    data: LongTailData, runs: str | Path, options: StudyOptions, kind: type[S], **own: Any
) -> tuple[LongTailData, S, Making]:
    """Data as the trainings augment them, settings of a study, and how it is made, from the options of a study."""
    given: dict[str, Any] = {**options}
    making = Making(**{f.name: given.pop(f.name) for f in fields(Making) if f.name in given})
    data = data.augmented(given.pop("augmentation", None))
    measures = study_measures(given.pop("measures", None))
    known = [f.name for f in fields(Settings) if f.name in given]
    chosen = {name: given.pop(name) for name in known}
    chosen["limit_per_class"] = probed_of(data, chosen.get("split", "train"), chosen.get("limit_per_class"))
    return data, kind(Path(runs), training=given, measures=measures, **chosen, **own), making
