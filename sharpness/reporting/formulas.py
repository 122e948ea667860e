r"""Formulas of measures and probes, written in LaTeX, and shown in HTML as text with indices."""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple


class Statement(NamedTuple):
    """A quantity in words, its formula, and the papers that introduced it.

    ``sentence`` may contain settings of a provenance in braces.
    """

    sentence: str
    formula: str
    papers: tuple[str, ...] = ()


OBJECTIVE = r"L_c(w) = \frac{\sum_{i \in c} a_i \ell(f_w(x_i), y_i)}{\sum_{i \in c} a_i}"
#: Statements about the measures of tables, by name.
MEASURES = {
    "accuracy": Statement("the share of right answers, with Wilson's interval", "", ("wilson1927inference",)),
    "loss": Statement("the loss of class c", OBJECTIVE),
    "lambda_max": Statement(
        "the largest eigenvalue of the Hessian of a class's loss, by Lanczos with full re-orthogonalisation, to a "
        "residual of {tol} of the largest absolute eigenvalue, in at most {max_iterations} products",
        r"\lambda_\mathrm{max}(\nabla^2 L_c(w))", ("lanczos1950iteration",),
    ),
    "lambda_min": Statement("the smallest eigenvalue likewise", r"\lambda_\mathrm{min}(\nabla^2 L_c(w))"),
    "trace": Statement(
        "the trace of the Hessian, exact where its error is over images, otherwise by Hutchinson's estimator with "
        "{trace_draws} vectors v of random signs",
        r"\mathbb{E}_v[v^\top \nabla^2 L_c(w) v]", ("hutchinson1990trace",),
    ),
    "random_rise": Statement(
        "the mean rise of the loss at r = {radius} along {draws} filter-normalised Gaussian directions d (seed {seed})",
        r"\mathbb{E}_d[L_c(w + r d)] - L_c(w)", ("li2018visualizing",),
    ),
    "worst_rise": Statement(
        "the rise of the loss after one step of length {rho} along the class's own gradient g",
        r"L_c(w + \rho g_c / \Vert g_c \Vert) - L_c(w)", ("foret2021sam",),
    ),
    "soft_rank": Statement(
        "the soft rank", r"\mathrm{tr}(\nabla^2 L_c(w)) / \lambda_\mathrm{max}(\nabla^2 L_c(w))"
    ),
    "relative_flatness": Statement(
        "relative flatness of the last linear map",
        r"\sum_{s,t} \langle w_s, w_t \rangle \mathrm{tr} \nabla_{w_s} \nabla_{w_t} L_c", ("petzka2021relative",),
    ),
    "fisher_rao_norm": Statement(
        "the Fisher-Rao norm", r"(\frac{\sum_i a_i \langle w, \nabla \ell_i \rangle^2}{\sum_i a_i})^{1/2}",
        ("liang2019fisherrao",),
    ),
    "critical_radius": Statement(
        "the distance in random directions, in norms of the weights, at which the loss doubles or accuracy falls by "
        "ten points", "",
    ),
    "update_radius": Statement(
        "the distance along the last update of training, in norms of the weights, at which the loss doubles or "
        "accuracy falls by ten points", "",
    ),
    "ece": Statement(
        "the expected calibration error over bins b of equal width",
        r"\sum_b (A_b / A) |\mathrm{acc}_b - \mathrm{conf}_b|", ("guo2017calibration",),
    ),
    "margin": Statement("the margin: the logit of the label less the largest other one", ""),
    "displacement": Statement("the distance to the optimum of the class's own loss", ""),
    "optimum_loss": Statement("the loss at that optimum", ""),
}  # fmt: skip
#: Statement about :func:`~sharpness.worst_case`, whose ball may have another norm, and whose ascent several steps.
WORST_CASE = Statement(
    "the largest rise of the loss in a ball of radius {rho} around the weights, by ascent ({norm} norm, "
    "{steps} steps, adaptive: {adaptive})",
    r"\mathrm{max}_{\Vert u \Vert < \rho} L_c(w + u) - L_c(w)", ("foret2021sam",),
)  # fmt: skip
#: Statements about other probes, by the kind of their results.
KINDS = {
    "EigenvalueResult": Statement(
        "extreme eigenvalues by Lanczos with full re-orthogonalisation, to a residual of {tol}, in at most "
        "{max_iterations} products",
        r"\lambda(\nabla^2 L_c(w))", ("lanczos1950iteration",),
    ),
    "SpectralDensityResult": Statement(
        "spectral densities by stochastic Lanczos quadrature of {draws} runs of {steps} steps (seed {seed}), smoothed "
        "with a Gaussian",
        r"\frac{1}{R} \sum_r \sum_j \omega_{rj} N(\lambda; \theta_{rj}, \sigma^2)",
        ("ubaru2017slq", "ghorbani2019density"),
    ),
    "PerturbationResult": Statement(
        "losses at the radii {radii} along {draws} random directions d, normalised by {normalization} (seed {seed})",
        r"L_c(w + r d_j)", ("li2018visualizing",),
    ),
    "PlaneResult": Statement(
        "losses over a plane of {directions} directions d, e, normalised by {normalization} (seed {seed})",
        r"L_c(w + x d + y e)", ("li2018visualizing",),
    ),
    "LineResult": Statement(
        "losses along a line of {directions} direction d, normalised by {normalization} (seed {seed})",
        r"L_c(w + x d)", ("li2018visualizing",),
    ),
    "OwnersResult": Statement(
        "the share of class c, of weight A, in eigenvalue j of the loss of all samples, whose eigenvector is v",
        r"(A_c / A) v_j^\top \nabla^2 L_c(w) v_j / \lambda_j", ("lanczos1950iteration",),
    ),
    "LayerResult": Statement(
        "the {measure} of the Hessian's diagonal block of every layer l", r"P_l^\top \nabla^2 L_c(w) P_l"
    ),
    "OptimaResult": Statement("the distance to the optimum of every class's own loss, damped, and the loss there", ""),
    "CharacteristicRadiusResult": Statement(
        "the characteristic radius of class c, with n training images, k parameters and gradient g",
        r"\rho_c = (\frac{\Vert w \Vert}{2 \Vert g_c \Vert})^{1/2} k^{-1/4} (n_c - 1)^{-1/4}", ("zhou2023ccsam",),
    ),
}  # fmt: skip
SYMBOLS = {
    "lambda": "λ", "nabla": "∇", "rho": "ρ", "sigma": "σ", "theta": "θ", "omega": "ω", "ell": "ℓ", "sum": "Σ",
    "in": "∈", "Vert": "‖", "top": "⊤", "langle": "⟨", "rangle": "⟩",
}  # fmt: skip


def as_html(formula: str) -> str:
    r"""A formula as HTML text with raised and lowered indices, which needs no fonts or scripts.

    >>> as_html(r"\lambda_\mathrm{max}(\nabla^2 L_c(w))")
    '<i class="math">λ<sub>max</sub>(∇<sup>2</sup> L<sub>c</sub>(w))</i>'
    >>> as_html(r"\frac{\sum_{i \in c} a_i}{2}")
    '<i class="math">(Σ<sub>i ∈ c</sub> a<sub>i</sub>) / (2)</i>'
    """
    text, last = escape(formula), ""
    text = re.sub(r"\\(?:mathrm|mathbb)\{(\w+)\}", r"{\1}", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: SYMBOLS.get(found[1], found[0]), text)
    while text != last:  # from the innermost braces outwards
        last = text
        text = re.sub(r"([_^])(?:\{([^{}]*)\}|(\w|⊤))", _index, text)
        text = re.sub(r"\\frac\{(\w)\}\{(\w)\}", r"\1/\2", text)
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1) / (\2)", text)
        text = re.sub(r"(?<!frac)(?<!\})\{([^{}]*)\}(?!\{)", r"\1", text)
    return f'<i class="math">{text}</i>'


def _index(found: re.Match[str]) -> str:
    kind = "sub" if found[1] == "_" else "sup"
    return f"<{kind}>{found[2] if found[2] is not None else found[3]}</{kind}>"
