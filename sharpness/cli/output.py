"""Output of tables and files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpness.cli.work import finish, work_beside
from sharpness.errors import UserError, printable, shown
from sharpness.files import PICTURES, picture_file, refusal, write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from sharpness.results import Comparison


#: Suffixes of files written by ``write_results``.
RESULTS = (".csv", ".json", ".tex", ".nc", ".parquet")
#: Suffixes of tables written by ``write``.
TABLES = (".csv", ".json", ".parquet")  # as in results.record, whose import is slow


def say(what: object, err: bool = False) -> None:
    """Print a text with control characters escaped, because it may contain text from foreign files.

    Raises:
        SystemRefusal: stdout cannot be written to; errors of stderr are ignored.
    """
    try:
        click.echo(printable(str(what), kept="\n"), err=err)
    except OSError as error:
        if not err:
            raise refusal("stdout cannot be used", error) from None


def as_text(frame: pd.DataFrame) -> str:
    """Format a table as text, with numbers rounded to their errors."""
    from sharpness.results import with_errors

    lines = with_errors(frame).to_string(index=False, na_rep="-").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def as_noted(results: Comparison) -> str:
    """Format the table of results with notes on its marks; with many classes, only the sharpest are shown."""
    from sharpness.results.tabular import brief

    table, notes = brief(alone(results))
    return "\n".join([as_text(table), *notes])


def alone(results: Comparison) -> Any:
    """Return the result of a single model, or the comparison of several."""
    return next(iter(results.values())) if len(results) == 1 else results


def as_records(frame: pd.DataFrame) -> str:
    """Return a table as JSON, one object per row."""
    from sharpness.results.record import plain

    # Not DataFrame.to_json, which rounds to ten decimal places: 1e-11 would be 0.
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return json.dumps(plain(rows), indent=1, allow_nan=False)


def require_file(option: str, path: str | Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that cannot be written, before any work; None means no file.

    Raises:
        UserError: another suffix, a folder of that name, or a folder that cannot be created or written to.
    """
    if path is None:
        return
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        raise UserError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # require_folder names a parent that is a file
    except (OSError, ValueError) as error:
        raise _unusable(option, path, error) from None
    if path.is_dir():
        raise UserError(f"{option} {path}: that is a folder, give the name of a file")
    require_folder(option, path.parent)


def require_folder(option: str, path: str | Path | None) -> None:
    """Refuse a folder that cannot be written to, before any work; it need not exist."""
    if path is None:
        return
    try:
        nearest = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        raise _unusable(option, path, error) from None
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file, give a folder")
    # The next command would take a folder of that name for a file.
    if Path(path).suffix in (*RESULTS, ".html", ".pdf", ".png") and not Path(path).exists():
        raise UserError(f"{option} {path}: a folder is written, give a name without {Path(path).suffix}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {nearest} may not be written to, give another folder")


def _unusable(option: str, path: str | Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or "it has a zero byte"
    return UserError(f"{option} {shown(str(path))}: {reason}: give another name")


def require_picture(option: str, path: str | None) -> None:
    """Refuse a picture whose files cannot be written, before any work."""
    if path is not None:
        if not Path(path).name:
            raise UserError(f"{option} {path}: give the name of a file")
        try:
            files = [picture_file(path, suffix) for suffix in (*PICTURES, ".txt")]
        except UserError as error:
            raise UserError(f"{option} {error}") from None
        for file in files:
            require_file(option, file)


def _first() -> bool:
    """Return True in the first or only process of a command."""
    return os.environ.get("RANK", "0") == "0"


def write_results(results: Comparison, path: Path) -> None:
    """Write results as NetCDF, as a table, or as a LaTeX table, by the suffix of the path.

    Here and below, only the first of several processes writes.
    """
    if not _first():
        return
    shown = alone(results)
    if path.suffix == ".nc":
        shown.save(path)
    elif path.suffix == ".tex":
        from sharpness.results.record import record, write_sidecar

        text = shown.to_latex()
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
        write_sidecar(path, text, record(shown.to_frame(), results, command_at_hand()))
    else:
        write(shown.to_frame(), path, results)


def write(frame: pd.DataFrame, path: Path, results: Comparison | None = None) -> None:
    """Write a table and its provenance as CSV, JSON or Parquet."""
    if not _first():
        return
    from sharpness.results.record import write_table

    write_table(frame, path, results, command_at_hand())


def command_at_hand() -> dict[str, Any] | None:
    """Return the name and options of the running command, or None."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    given = {name: value for name, value in context.params.items() if value is not None}
    return {"name": str(context.info_name), "options": given}


def save_drawn(drawn: Any, path: Path, caption: Mapping[str, str], err: bool = False) -> None:
    """Save a figure as PDF and PNG with a caption file, and print the names of the files.

    Args:
        drawn: an Axes, several of them, or a Figure.
        path: path of the picture.
        caption: texts by heading.
        err: print on stderr, because stdout has a table.
    """
    if not _first():
        return
    from sharpness.plots import figure_of, save_figure
    from sharpness.results.caption import write_caption

    for written in [*save_figure(figure_of(drawn, outermost=True), path), write_caption(path, caption)]:
        say(written, err=err)


def split_of(given: dict[str, Any]) -> str:
    """Return the probed split of recorded or named data; empty for the user's own images."""
    return "" if given["images"] is not None else given["split"] or "train"


def measured_on(given: dict[str, Any]) -> str:
    """Describe the probed images: the split, whether it is the default, and which images of each class."""
    number = given["limit_per_class"]
    part = "all" if number is None else f"the first {number} of every class, in the order of the data,"
    # Of commands that draw images at random, from those that the limit leaves.
    if given.get("match_samples") is not None:
        those = "every class," if number is None else part
        part = f"{given['match_samples']} of {those} drawn at random (seed {given['seed']}),"
    if given["images"] is not None:
        return f"images: {part} of {given['images']}"
    chosen = "" if given["split"] is not None else ", the default; papers report accuracy on --split test"
    return f"images: {part} of the {split_of(given)} split{chosen}"


@dataclass(frozen=True)
class Delivery:
    """Output of results: table or JSON on stdout, file and picture; the values of ``result_options``."""

    as_json: bool
    output: str | None
    plot: str | None

    def require(self, suffixes: Sequence[str] = RESULTS) -> None:
        """Refuse files that cannot be written, before any work."""
        require_file("-o", self.output, suffixes)
        require_picture("--plot", self.plot)

    def work(self, beside_picture: bool = False) -> tuple[Any, Path | None]:
        """Create the work folder next to the output or picture; return None, None if nothing is written."""
        written = self.output or (self.plot if beside_picture else None)
        return work_beside(written) if written is not None else (None, None)

    def table(self, frame: pd.DataFrame, text: Callable[[], str], draw: Callable[[], tuple[Any, Any]]) -> None:
        """Write, draw and print a table without a result; ``draw`` returns a picture and its caption."""
        if self.output is not None:
            write(frame, Path(self.output))
        if self.plot is not None:
            drawn, caption = draw()
            save_drawn(drawn, Path(self.plot), caption, err=True)
        say(as_records(frame) if self.as_json else text())

    def results(
        self, results: Comparison, what: str, probed: dict[str, Any], look: dict[str, Any], work: Any,
        remarks: Callable[[], Sequence[str]] = tuple,
    ) -> None:  # fmt: skip
        """Write, draw and print the results of one or several models.

        Args:
            results: results by label.
            what: description of the picture for its caption.
            probed: values of ``probing_options`` by name, and ``match_samples`` and ``seed`` if images may be drawn.
            look: options of the picture.
            work: the work folder, which is removed.
            remarks: function that returns lines to print below the table.
        """
        # Write files before printing, because the pipe may be closed.
        shown = alone(results)
        if self.output is not None:
            write_results(results, Path(self.output))
        if self.plot is not None and _first():
            from sharpness.results.caption import caption

            told = caption(what, results, split_of(probed), look.get("order"))
            save_drawn(shown.plot(**look), Path(self.plot), told, err=True)
        finish(work)
        text = as_records(shown.to_frame()) if self.as_json else "\n".join([as_noted(results), measured_on(probed)])
        say("\n".join([text, *([] if self.as_json else remarks())]))
