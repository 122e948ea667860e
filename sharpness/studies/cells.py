"""Cells of studies: a training run and its measurements, which are stored in the folder of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpness.checkpoints import load_checkpoint
from sharpness.data import LongTailData
from sharpness.errors import SystemRefusal, UserError
from sharpness.flattening import operation_label
from sharpness.methods import METHODS, build_recipe, flattened
from sharpness.objective import Objective
from sharpness.probes import MEASURES, checkpoint_objective
from sharpness.probes.measures.registry import versions_of
from sharpness.probes.shared.work import kept_result
from sharpness.studies.settings import Settings, require_distinct
from sharpness.studies.summary import accuracies, summary_row
from sharpness.training import run_name, train

#: The operation that does nothing.
NONE = "none"


@dataclass(frozen=True)
class Cell:
    """One training run of a study.

    Args:
        method: a name in :data:`sharpness.methods.METHODS`.
        operation: a flattening operation such as ``"sam:0.1"``, or ``"none"``.
        options: (name, value) pairs of the method's options.
        seed: seed of the run.
        row, column: names of the cell's row and column in tables and pictures.
        path: the run's folder below that of all runs; ``DATA-NAME`` by default.
        checkpoint: file of a model that is already trained; ``path`` then only holds the results of its probes.
        shown: whether its planes and spectra are drawn; these pictures show one training of each model.
    """

    method: str
    operation: str = NONE
    options: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    row: str = ""
    column: str = ""
    path: str = ""
    checkpoint: str = ""
    shown: bool = True

    @property
    def flatten(self) -> tuple[str, ...]:
        return () if self.operation == NONE else (self.operation,)

    @property
    def name(self) -> str:
        """Name that distinguishes the run from others on the same data with the same augmentation."""
        return run_name(self.method, self.flatten, dict(self.options), self.seed)


def grid(methods: Sequence[str], operations: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return a cell for every method, operation and seed, ordered by seed.

    Raises:
        UserError: an empty list, a repeated entry, or operations without ``"none"`` or without another one.
    """
    require_distinct(methods=methods, operations=operations, seeds=seeds)
    if NONE not in operations or len(operations) == 1:
        raise UserError(f"operations {','.join(operations)!r}: give {NONE!r} and at least one to compare with it")
    return [
        Cell(
            m,
            operation,
            seed=seed,
            row=METHODS.label(m),
            column=NONE if operation == NONE else operation_label(operation),
        )
        for seed in seeds
        for m in methods
        for operation in operations
    ]


def check_cells(cells: Sequence[Cell], data: LongTailData) -> None:
    """Raise a :class:`UserError` before anything is trained if the recipe of a cell cannot be built."""
    for cell in cells:
        if cell.checkpoint:
            continue
        flattened(build_recipe(cell.method, data.longtail, **dict(cell.options)), cell.flatten)


def folder_of(cell: Cell, data: LongTailData, settings: Settings) -> Path:
    """Return the folder of a cell's training and measurements."""
    other = data.other_augmentation
    name = run_name(cell.method, cell.flatten, dict(cell.options), cell.seed, other)
    return settings.runs / (other or "" if cell.path else "") / (cell.path or f"{data.longtail.dataset}-{name}")


def result_file(cell: Cell, data: LongTailData, settings: Settings, name: str) -> Path:
    """Return the path of the result of a probe."""
    other = "" if settings.logits == "calibrated" else f"-{settings.logits}"
    other += "-plain" if settings.probes(cell)[name][1].get("coordinates") == "plain" else ""
    return folder_of(cell, data, settings) / "probes" / f"{name}-{cell.name}{other}.nc"


def is_done(cell: Cell, data: LongTailData, settings: Settings) -> bool:
    """Return True if a finished run and the results of all probes exist; they are checked when they are read."""
    results = [result_file(cell, data, settings, name) for name in settings.probes(cell)]
    trained = Path(cell.checkpoint or folder_of(cell, data, settings) / "last.pt")
    return all(file.exists() for file in [trained, *results])


def run_cell(cell: Cell, data: LongTailData, settings: Settings) -> dict[str, Any]:
    """Train and probe a cell as far as results are missing, and return its row with all columns of :class:`Settings`.

    A run that diverges, or a model that cannot be probed, is a result, not an error. The row records it in ``status``
    (``"diverged"`` or ``"not probed"``; otherwise ``"done"``) and ``reason``; missing values are NaN.
    """
    row: dict[str, Any] = {
        "row": cell.row, "column": cell.column, "method": cell.method, "operation": cell.operation,
        "options": " ".join(f"{k}={v}" for k, v in cell.options), "seed": cell.seed, "status": "done", "reason": "",
    }  # fmt: skip
    # All columns exist from the start, so that incomplete rows fit into the same table.
    row |= dict.fromkeys(settings.columns, float("nan"))
    folder = folder_of(cell, data, settings)
    try:
        if not cell.checkpoint:
            train(
                cell.method, data, folder, flatten=cell.flatten, seed=cell.seed, resume=True,
                **settings.training, **dict(cell.options),
            )  # fmt: skip
    except FloatingPointError as error:
        return row | {"status": "diverged", "reason": str(error)}
    # The file is probed, not the trained network, because stored results are identified by the digest of the file.
    checkpoint = load_checkpoint(cell.checkpoint or folder)
    row |= accuracies(checkpoint)
    objective = checkpoint_objective(
        checkpoint, settings.split, settings.loss, limit_per_class=settings.limit_per_class, data=data,
        device=settings.training.get("device"), logits=settings.logits,
    )  # fmt: skip
    try:
        found = {
            name: measured(probe, objective, cell.name, result_file(cell, data, settings, name), **options)
            for name, (probe, options) in settings.probes(cell).items()
        }
    except SystemRefusal:
        raise  # a full disk says nothing about the model
    except (FloatingPointError, UserError) as error:
        return row | {"status": "not probed", "reason": str(error)}
    table = found.get("measures")
    return row if table is None else row | summary_row(table, data.longtail.tail_class)


def measured(probe: Callable[..., Any], objective: Objective, label: str, path: Path, **settings: Any) -> Any:
    """Return ``probe(objective, **settings)``, and store it in a NetCDF file.

    An existing file is used instead if its model, data and settings are the same and this version can read it.
    """
    wanted = {**objective.provenance(), "settings": repr(sorted(settings.items())), "label": label}
    wanted["coordinates"] = settings.get("coordinates", objective.coordinates)
    wanted |= versions_of(MEASURES.choose(name) for name in settings.get("measures", ()))

    def made() -> Any:
        result = probe(objective, **settings)
        result.provenance.update(wanted)
        return result

    return kept_result(path, lambda found: all(found.provenance.get(k) == v for k, v in wanted.items()), made)
