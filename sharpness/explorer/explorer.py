"""An explorer of results in memory or of saved files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from sharpness.errors import UserError
from sharpness.explorer.page import module, style, write_page
from sharpness.explorer.payload import payload_of
from sharpness.results.collected import collect

#: The title for results that are not from a folder.
TITLE = "Results of sharpness"


class Explorer:
    """Interactive view of results (class bars, plane, spectrum, owners), shown in Jupyter or saved as a page.

    Args:
        results: see :func:`explore`.
        title: heading.

    Attributes:
        payload: the shown content, as plain values.
    """

    def __init__(self, results: Any, title: str) -> None:
        self.payload = payload_of(collect(results), title)

    def save(self, path: str | Path) -> Path:
        """Write one HTML file that works offline (atomically)."""
        return write_page(self.payload, path)

    @property
    def selection(self) -> dict[str, Any]:
        """The choices made in Jupyter: ``model``, ``run``, ``subset``, ``quantity``, and the ``point`` of the plane."""
        return dict(self.widget.selection)

    @cached_property
    def widget(self) -> Any:
        """The widget, for ``display`` or for layouts of ipywidgets.

        Raises:
            UserError: anywidget is not installed.
        """
        try:
            import anywidget
            import traitlets
        except ImportError:
            raise UserError(
                "anywidget is not installed: pip install 'sharpness[interactive]', or write a page with .save(path)"
            ) from None

        class ExplorerWidget(anywidget.AnyWidget):
            _esm, _css = module(), style()
            payload = traitlets.Dict().tag(sync=True)
            selection = traitlets.Dict().tag(sync=True)

        return ExplorerWidget(payload=self.payload)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        counts = f"{len(self.payload['classes'])} classes, {len(self.payload['trainings'])} trainings"
        return f"Explorer({self.payload['title']}: {counts}; .save('page.html') writes a page)"


def explore(results: Any, title: str | None = None) -> Explorer:
    """Explore results interactively: as a widget in Jupyter, or as a page with ``explore(folder).save("page.html")``.

    Click on the plane to see the loss and accuracy of every class at that point. Classes are listed with the sharpest
    first. Neither torch nor the models are needed.

    Args:
        results: a result, :class:`~sharpness.results.Runs`, a :class:`~sharpness.Comparison`, ``{label: result}``, a
            saved file, a folder of saved files, or a list of any of these.
        title: heading; by default the name of the folder.

    Returns:
        The explorer, which Jupyter displays, with ``.save(path)`` and, for the widget, ``.selection``.

    Raises:
        UserError: no results, files that are not results, or results of different classes or groups.

    >>> import tempfile, torch, sharpness
    >>> objective = sharpness.Objective(torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    >>> explorer = sharpness.explore({"linear": sharpness.measure(objective, "loss")})
    >>> explorer
    Explorer(Results of sharpness: 2 classes, 1 trainings; .save('page.html') writes a page)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     explorer.save(f"{folder}/page.html").stat().st_size > 10_000
    True
    """
    named = Path(results).resolve().name if isinstance(results, str | Path) else TITLE
    return Explorer(results, title or named)
