"""Loss along a line of parameter space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sharpness.results.comparison import each, first_of
from sharpness.results.estimates import Subset
from sharpness.results.landscape import Landscape, require_samples
from sharpness.results.picture import picture
from sharpness.results.same import noise_fields, require_same


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LineResult(Landscape):
    """``L(w + x d)`` and ``L_c(w + x d)``.

    Attributes:
        x: (n,).
        losses: (n,).
        class_losses: (C, n).
        class_accuracies: (C, n), fractions.
    """

    AXES: ClassVar = ("x",)
    COMPARED: ClassVar = ("directions", "x")

    @picture("plot_lines", "plot_line_panels")
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        of: Subset | Sequence[Subset] = None,
        quantity: str = "loss",
        **options: Any,
    ) -> Any:
        """Draw the curves of all models in one panel; for a list of subsets, a panel of their curves for each model.

        For several trainings, the curve is their mean, with a band of one standard deviation.

        Args:
            ax: an Axes; for several models and a list of subsets, one for each model.
            of: all samples (None or ``"all"``), a class, a group, or a list of these.
            quantity: ``"loss"``, ``"rise"`` above the model's own unperturbed loss, or ``"accuracy"``.
        """
        from sharpness.results.pictures import draw_lines

        first = first_of(results)
        require_same(each(results), noise_fields(first, cls.COMPARED))
        require_samples(first, of)
        return draw_lines(results, ax, of, quantity, options)

    def _summary(self) -> str:
        return f"{len(self.x)} points, {self._extent()}"
