"""Pictures of lines and planes: their curves, panels, marks and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpness.errors import UserError
from sharpness.plots import Marks, Panel, plot_line_panels, plot_lines, plot_plane_grid, plot_planes
from sharpness.plots.colors import SIGNED_COLORS
from sharpness.plots.interactive import interactive_surfaces
from sharpness.plots.lines import SUBSET_COLORS
from sharpness.plots.options import options_in_force
from sharpness.results.axes import line_label, plane_label
from sharpness.results.comparison import first_of, means, spreads
from sharpness.results.estimates import Subset
from sharpness.results.picture import applying
from sharpness.results.subsets import drawable, plain_subset, several, subset_title, values_of

LABELS = {"loss": "Loss", "rise": "Rise of the loss", "accuracy": "Accuracy"}
#: How planes of a quantity look: good accuracies are dark, as low losses are; rises have a sign.
LOOKS: dict[str, dict[str, Any]] = {
    "accuracy": {"scale": "linear", "label": "Accuracy", "colors": "viridis_r"},
    "rise": {"label": "Rise of the loss", "colors": SIGNED_COLORS},
}


def draw_lines(results: Mapping[str, Any], ax: Any, subset: Any, quantity: str, options: dict[str, Any]) -> Any:
    """Draw models in one panel, or subsets in a panel per model; for several trainings, mean and spread."""
    first = first_of(results)
    options = {
        "xlabel": line_label(first.directions, first.normalization),
        "ylabel": LABELS.get(quantity),
        "marks": line_marks(first),
        **options,
    }

    def numbers(subset: Subset) -> tuple[dict[str, Any], dict[str, Any]]:
        """Curves by label, and those of every training for models with several."""
        found = [of(results, lambda r: values_of(r, subset, quantity)) for of in (means, spreads)]
        return {label: (first.x, y) for label, y in found[0].items()}, found[1]

    subsets = several(subset)
    if subsets is None:
        curves, trainings = numbers(subset)
        return plot_lines(curves, ax, **applying(plot_lines, {"trainings": trainings, **options}))
    found = {subset_title(first, one): numbers(one) for one in subsets}
    panels = {label: {title: curves[label] for title, (curves, _) in found.items()} for label in results}
    bands = {label: {title: of[label] for title, (_, of) in found.items() if label in of} for label in results}
    # All samples have the first colour, whatever their position in the list.
    others = iter(SUBSET_COLORS[1:] * (1 + len(subsets)))
    shades = [SUBSET_COLORS[0] if plain_subset(first, s) is None else next(others) for s in subsets]
    options = {"colors": shades, **options}
    if len(results) == 1:
        ((label, panel),) = panels.items()
        return plot_lines(panel, ax, **applying(plot_lines, {"trainings": bands[label], **options}))
    return plot_line_panels(panels, ax, **applying(plot_line_panels, {"trainings": bands, **options}))


def draw_planes(
    results: Mapping[str, Any],
    ax: Any,
    subset: Any,
    kind: str,
    quantity: str,
    options: dict[str, Any],
) -> Any:
    """Draw models side by side; several subsets become rows, or entries in the menu of an interactive picture."""
    first = next(iter(results.values()))
    explained = first.provenance.get("explained")
    options = {
        "xlabel": plane_label(first.directions, first.normalization, 0, explained),
        "ylabel": plane_label(first.directions, first.normalization, 1, explained),
        **LOOKS.get(quantity, {"label": LABELS.get(quantity)}),
        **options,
    }
    subsets = several(subset)
    if kind == "interactive":
        if ax is not None:
            raise UserError("an interactive picture takes no ax: it is a figure of plotly's")
        if options_in_force().inches is not None:
            raise UserError("width and figsize do not apply to an interactive picture, which fills its window")
        chosen = subsets or (first.subsets() if subset is None else [subset])
        rows = _rows(results, drawable(results, chosen, quantity), quantity)
        return interactive_surfaces(rows, **applying(interactive_surfaces, options))
    if subsets is None:
        panels = {label: panel_of(r, subset, quantity) for label, r in results.items()}
        places = plot_planes(panels, ax, kind=kind, **applying(plot_plane_grid, options))
    else:
        # On given Axes, every subset keeps its place, even if it cannot be drawn.
        chosen = drawable(results, subsets, quantity) if ax is None else subsets
        rows = _rows(results, chosen, quantity)
        places = plot_plane_grid(rows, ax, kind=kind, **applying(plot_plane_grid, options))
    return places[0] if len(places) == 1 else places


def _rows(results: Mapping[str, Any], subsets: Sequence[Subset], quantity: str) -> dict[str, dict[str, Panel]]:
    first = next(iter(results.values()))
    return {subset_title(first, s): {label: panel_of(r, s, quantity) for label, r in results.items()} for s in subsets}


def panel_of(result: Any, subset: Subset, quantity: str = "loss") -> Panel:
    """A plane, its marks, and where it was evaluated."""
    marks = None
    if result.marks is not None:
        marks = Marks(result.marks, result.mark_names, connected="trajectory" in result.directions.split("+"))
    return Panel(result.x, result.y, values_of(result, subset, quantity), marks, result.evaluated)


def line_marks(result: Any) -> list[tuple[str, float]]:
    """Names and positions of the models on a line."""
    if result.marks is None:
        return []
    names = [*result.mark_names, *[""] * len(result.marks)]
    return [(name, float(x)) for name, x in zip(names, result.marks[:, 0], strict=False)]
