"""The radius of a PAC-Bayes bound for every class, and the loss where it leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.comparison import each, one_training
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.measures import MeasureResult
from sharpness.results.picture import applying, picture
from sharpness.results.same import require_same
from sharpness.results.subsets import several
from sharpness.untrusted.refused import Refused

if TYPE_CHECKING:
    from sharpness.plots import BoundCurve

#: Lower bound of gradient norms in the formula; repeats that of ``flattening.class_radius``, which needs torch.
TINY = 1e-12
NEEDED = ("loss", "rho", "bound", "step", "first_order", "second_order", "measured", "worst")
PICTURES = ("bound", "radius", "rise")
#: With more panels than this, only all samples and the most frequent, the middle and the rarest class are drawn.
PANELS = 12


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CharacteristicRadiusResult(MeasureResult):
    r"""The radius of CC-SAM's theorem and the losses there, for all samples together and for every class.

    ==============  ===========================================================================================
    loss            L_c(w)
    gradient_norm   :math:`\|g_c\|`
    rho             :math:`\rho_c^*`, where the bound is smallest
    bound           :math:`J_c(\rho_c^*)`
    step            length of the perturbation :math:`\epsilon_c`: ``scale`` times :math:`\sqrt{k}\,\rho_c^*`
    first_order     predicted rise, step times :math:`\|g_c\|`
    second_order    the same plus step² :math:`g_c' H_c g_c / 2 \|g_c\|^2`
    measured        :math:`L_c(w + \epsilon_c) - L_c(w)`
    worst           rise of L_c by projected ascent in the ball of radius ``step``, at least 0; NaN if not asked for
    curvature       :math:`g_c' H_c g_c / \|g_c\|^2`, NaN where the gradient is 0
    lambda_max      largest eigenvalue of the Hessian of L_c; NaN if not asked for, or not converged
    ==============  ===========================================================================================

    Attributes:
        train_counts: (C,) the n_c of the bound.
        factors: (F,) radii of the curves, relative to :math:`\rho_c^*`.
        class_losses: (C, F) :math:`L_c(w + \sqrt{k}\,\rho\,g_c / \|g_c\|)` there.
        losses: (F,) of all samples together.
        weight_norm: of the k parameters in scope.
        num_parameters: k.
        scale: of the radius.
    """

    COMPARED: ClassVar = ("scale",)

    factors: Annotated[np.ndarray, "factor"]
    class_losses: Annotated[np.ndarray, "class", "factor"]
    losses: Annotated[np.ndarray, "factor"]
    weight_norm: float
    num_parameters: int
    scale: float

    def validate(self) -> None:
        super().validate()
        if lacking := [name for name in NEEDED if name not in self.names]:
            raise Refused(f"lacks {', '.join(lacking)}: probe again")

    @property
    def main(self) -> str:
        return "rho"

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        """Return one measure for all samples or a class; a group has no radius of its own."""
        return super()._estimate(name, self._class(subset))

    @property
    def rho(self) -> np.ndarray:
        """:math:`\\rho_c^*`, (C,)."""
        return self["rho"].values

    @property
    def step(self) -> np.ndarray:
        """The length of :math:`\\epsilon_c`, (C,)."""
        return self["step"].values

    def count(self, subset: Subset = None) -> int:
        """The n of the bound."""
        return int(self.select(self.train_counts, self._class(subset), self.train_counts.sum()))

    def clamped(self, subset: Subset = None) -> bool:
        """True if n is below 2 or the gradient norm below 1e-12; the formula then uses these bounds instead."""
        return self.count(subset) < 2 or self.of("gradient_norm", subset) < TINY

    def curve(self, subset: Subset = None) -> BoundCurve:
        r"""The bound of all samples, or of a class, and the loss itself, at the radii ``factors`` times rho*."""
        from sharpness.plots import BoundCurve

        subset = self._class(subset)
        rho, loss, norm = (self.of(name, subset) for name in ("rho", "loss", "gradient_norm"))
        radii = self.factors * rho
        # With a clamped gradient, the perturbation is shorter than its radius implies.
        lengths = self.num_parameters**0.5 * radii * min(norm / TINY, 1.0)
        curvature = np.nan_to_num(self.of("curvature", subset))
        return BoundCurve(
            radii=radii,
            loss=loss,
            linear=loss + lengths * norm,
            quadratic=loss + lengths * norm + lengths**2 * curvature / 2,
            complexity=self.weight_norm / (2 * radii * max(self.count(subset) - 1, 1) ** 0.5),
            measured=self.select(self.class_losses, subset, self.losses),
            best=rho,
            lowest=self.of("bound", subset),
            used=self.scale * rho,
        )

    def curves(self) -> pd.DataFrame:
        """The curves as a tidy table: one row for all samples and each class, and radius."""
        frames = []
        for subset in (None, *range(len(self.class_names))):
            curve = self.curve(subset)
            columns = {
                **self.row(subset),
                "factor": self.factors,
                "rho": curve.radii,
                "length": self.num_parameters**0.5 * curve.radii,
                "linear": curve.linear,
                "quadratic": curve.quadratic,
                "complexity": curve.complexity,
                "bound": curve.bound,
                "measured": curve.measured,
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _frame(self) -> pd.DataFrame:
        """A row "all" and one per class."""
        rows = [
            {
                **self.row(subset),
                "n": self.count(subset),
                "k": self.num_parameters,
                "weight_norm": self.weight_norm,
                **{number: self.of(number, subset) for number in self.names},
                "clamped": self.clamped(subset),
            }
            for subset in (None, *range(len(self.class_names)))
        ]
        return pd.DataFrame(rows)

    @picture("plot_bound", "plot_bound_panels", "plot_radii", "plot_agreement", "plot_class_values", classes=True)
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        measure: str | None = None,
        kind: str | None = None,
        of: Subset | Sequence[Subset] = None,
        run: str | None = None,
        **options: Any,
    ) -> Any:
        r"""Draw theory against landscape.

        Args:
            measure: a column of the table, drawn per class as those of any table are; instead of ``kind``.
            kind: ``"bound"``, the bound, its terms and the loss itself over the radius, a panel for each model and
                class; ``"radius"``, :math:`\rho_c^*` over the training images of the class; ``"rise"``, the measured
                rise over the predicted one. The first for one model, the last for several, unless given.
            of: for ``"bound"``: None for all samples, a class, or a list of these; by default all samples and, on a new
                figure, every class.
            run: the training that these pictures show if a model has several; by default the first.

        Returns:
            The Axes, or a list of them.
        """
        from sharpness.plots import plot_agreement, plot_bound, plot_bound_panels, plot_class_values, plot_radii

        if measure is not None:
            return cls._draw(results, ax, measure, **applying(plot_class_values, options))
        require_same(each(results), shared=())
        if options.pop("log", None) is False:
            raise UserError("log=False: bounds, radii and rises are always on logarithmic axes, leave it out")
        # Bounds take a panel for each model and class; rises of several models fit into one picture.
        kind = kind or ("bound" if len(results) == 1 else "rise")
        choose("picture", kind, PICTURES)
        results = one_training(results, run)  # a bound is that of one network
        if kind == "radius":
            radii = {label: (r.train_counts, r.rho) for label, r in results.items()}
            return plot_radii(radii, ax, **applying(plot_radii, options))
        if kind == "rise":
            rises = {
                label: tuple(r[name].values for name in ("first_order", "second_order", "measured"))
                for label, r in results.items()
            }
            names = next(iter(results.values())).class_names if len(results) == 1 else None
            scales = {f"{r.scale:g}" for r in results.values()}
            at = rf" at {scales.pop()} $\rho_c^*$" if len(scales) == 1 else ""
            labels = {"xlabel": f"Predicted rise of the loss{at}", "ylabel": "Measured rise of the loss", **options}
            return plot_agreement(rises, ax, names=names, **applying(plot_agreement, labels))
        first = next(iter(results.values()))
        subsets = several(of)
        # The default on given Axes is all samples, because a panel for every class needs its own figure.
        if subsets is None:
            subsets = first.panels() if of is None and ax is None else [of]  # type: ignore[list-item]
        panels = {
            first.panel_title(s) if len(results) == 1 else f"{label}: {first.panel_title(s)}": r.curve(s)
            for label, r in results.items()
            for s in subsets
        }
        if len(panels) == 1:
            ((title, curve),) = panels.items()
            return plot_bound(curve, ax, **applying(plot_bound, {"title": title, **options}))
        return plot_bound_panels(
            panels, ax, columns=len(subsets) if len(results) > 1 else None, **applying(plot_bound_panels, options)
        )

    def panels(self) -> list[Subset]:
        """All samples, and classes with samples from most to fewest images; three of them if there are many."""
        order = [int(c) for c in np.argsort(-self.train_counts, kind="stable") if self.class_samples[c]]
        if len(order) >= PANELS:
            order = [order[0], order[len(order) // 2], order[-1]]
        return [None, *order]

    def panel_title(self, subset: Subset) -> str:
        subset = self._class(subset)
        name = "all" if subset is None else f"class {self.class_names[subset]}"
        return f"{name}, n = {self.count(subset)}"

    def _class(self, subset: Subset) -> int | None:
        """The index of a class, or None. A group has no radius of its own."""
        places = {name: c for c, name in enumerate(self.class_names)} | {c: c for c in range(len(self.class_names))}
        if subset is not None and subset not in places:
            raise UserError(f"no class {subset!r}: choose one of {', '.join(self.class_names)}, an index, or None")
        return None if subset is None else places[subset]

    def _summary(self) -> str:
        low, high = np.nanmin(self.rho), np.nanmax(self.rho)
        return f"rho* {self.of('rho'):.3g}, of classes {low:.3g} to {high:.3g}; scale {self.scale:g}"
