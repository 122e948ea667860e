"""Settings that all trainings of a study share, and the columns of their measures in tables."""

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
#: The measure that is recorded by the run on the test set, and its groups.
ACCURACY = "accuracy"
GROUPS = ("many", "medium", "few")
ACCURACIES = (ACCURACY, *(f"{ACCURACY} {group}" for group in GROUPS))
#: Up to ``ALL_PROBED`` images are all probed; of more images, ``PROBED`` in total, but at least ``LEAST`` per class.
ALL_PROBED, PROBED, LEAST = 400, 200, 5
#: Measures that a study only includes if they are named, because they do not measure sharpness.
LEFT_OUT = (ACCURACY, "loss")


def study_measures(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a study's measures, in addition to the test accuracy, which every table has.

    Raises:
        UserError: an unknown measure, or no measure.
    """
    chosen = [one.name for one in chosen_measures(names)]
    return tuple(name for name in chosen if name not in (LEFT_OUT if names is None else (ACCURACY,)))


def probed_of(data: LongTailData, split: str, limit: int | None) -> int | None:
    """Return the largest number of probed images per class: ``limit``, or a default for large data; None for all.

    Probing five networks on all images of CIFAR-10-LT would take a day on one processor.
    """
    images = len(data.part(split))
    return limit if limit is not None or images <= ALL_PROBED else max(LEAST, PROBED // data.num_classes)


def require_distinct(**lists: Sequence[Any]) -> None:
    """Refuse lists that are empty or have repeated entries.

    Raises:
        UserError: a list is not valid; the message has its keyword.
    """
    for what, given in lists.items():
        if len(set(given)) < len(given) or not given:
            raise UserError(f"{what} {','.join(map(str, given))!r}: name at least one, and each only once")


def measure_of(column: str) -> Measure:
    """Return the measure of a column such as ``"lambda_max tail"``."""
    return MEASURES.choose(column.split()[0])


@dataclass(frozen=True)
class Settings:
    """The common settings of all cells of a study.

    Args:
        runs: folder of the runs.
        split, loss, limit_per_class: arguments of :func:`sharpness.checkpoint_objective`; for the default of the last
            one see :func:`probed_of`.
        draws: number of random perturbations.
        max_iterations, tol: settings of the Lanczos algorithm, for each spectrum.
        training: arguments of :func:`sharpness.train`: epochs, model, batch_size, precision, device.
        measures: names of the measures of every training, see :func:`study_measures`.
        logits: argument of :class:`sharpness.Objective`.
        coordinates: coordinates of curvature, in which models are compared. By default these are invariant to rescaling
            of filters; ``"plain"`` ones are not.
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
        """Arguments of :func:`sharpness.measure`; all cells use the same directions."""
        numbers = {"draws": self.draws, "max_iterations": self.max_iterations, "tol": self.tol, "seed": 0}
        return {**numbers, "coordinates": self.coordinates}

    @property
    def columns(self) -> tuple[str, ...]:
        """Numeric columns of the table of cells."""
        tail = (f"{name}{subset}{end}" for name in self.measures for subset in ("", " tail") for end in ("", " se"))
        return (*ACCURACIES, *tail)

    def probes(self, cell: Cell) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
        """Return the probes of a cell with their settings, by the names of their files."""
        if not self.measures:
            return {}
        return {"measures": (measure, {"measures": self.measures, **self.measuring})}


@dataclass(frozen=True)
class Making:
    """Place where the cells of a study are executed, and the part to execute.

    Args:
        jobs: number of cells at a time, each in its own process with its share of the threads. None is one per
            processor, up to four, or one in total with a GPU. On small images, several threads per process gain little.
        executor: executor of the cells, instead of local processes, see :func:`sharpness.cluster`.
        part: (i, n) executes only part i of n, counted from 1, for an array of jobs.

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
        """Return the cells of the part, every n-th, so that all parts have a similar mixture of cells."""
        return cells if self.part is None else cells[self.part[0] - 1 :: self.part[1]]


class StudyOptions(TypedDict, total=False):
    """Options of all studies: those of :class:`Settings`, of their execution and of training.

    Attributes:
        measures: measures of the table, in addition to the test accuracy; by default those of
            :func:`sharpness.measure`.
        jobs, executor, part: place of execution, and the part of the cells to execute, see :class:`Making`.
        augmentation: augmentation of all trainings; this and the following options are those of
            :func:`sharpness.train`.
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
    """Convert the options of a study to data with the augmentation, settings, and the place of execution."""
    given: dict[str, Any] = {**options}
    making = Making(**{f.name: given.pop(f.name) for f in fields(Making) if f.name in given})
    data = data.augmented(given.pop("augmentation", None))
    measures = study_measures(given.pop("measures", None))
    known = [f.name for f in fields(Settings) if f.name in given]
    chosen = {name: given.pop(name) for name in known}
    chosen["limit_per_class"] = probed_of(data, chosen.get("split", "train"), chosen.get("limit_per_class"))
    return data, kind(Path(runs), training=given, measures=measures, **chosen, **own), making
