r"""The temperature of a model: the divisor of its logits that calibrates their probabilities on held-out images.

A loss and its curvature do not only depend on the minimum but also on the confidence of the network: as all logits
grow, the loss and curvature of correctly classified images vanish. To compare networks at equal confidence, the logits
of each are divided by its own temperature (Guo et al., "On calibration of modern neural networks", ICML 2017).
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import scipy
import torch
from torch import Tensor

from sharpness.data import ForeignData
from sharpness.engine.class_sums import PerSampleLoss
from sharpness.errors import UserError, choose
from sharpness.objective.samples import Samples

if TYPE_CHECKING:
    from sharpness.objective.values import Values

#: Logits that probes can use: the model's own, or these divided by its temperature.
LOGITS = ("calibrated", "temperature")
#: Search interval for the logarithm of the factor of logits with unit spread.
ENDS = (-12.0, 12.0)
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Temperature:
    """A temperature T, with the standard error of its fit.

    Attributes:
        value: T, by which logits are divided.
        standard_error: over the images of the fit; NaN for a given temperature.
        samples: number of images of the fit.
        images: description of these images.
    """

    value: float
    standard_error: float = math.nan
    samples: int = 0
    images: str = "given"

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value)):
            raise UserError(f"temperature {self.value}: give a positive number, or logits='temperature' to fit it")

    def provenance(self) -> dict[str, Any]:
        """Return plain values for a result."""
        named = {"value": "temperature", "standard_error": "temperature_se"}
        return {named.get(name, f"temperature_{name}"): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class AtTemperature:
    """A loss of logits divided by a temperature.

    >>> from sharpness.engine.class_sums import cross_entropy
    >>> halved = AtTemperature(cross_entropy, 2.0)
    >>> halved(torch.tensor([[2.0, 0.0]]), torch.tensor([0])) == cross_entropy(torch.eye(2)[:1], torch.tensor([0]))
    tensor([True])
    """

    loss: PerSampleLoss
    temperature: float

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs / self.temperature, targets)


def temperature_of_logits(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    r"""Fit the temperature of logits u by minimising the mean cross-entropy of ``u / T``.

    In :math:`\beta = 1 / T` the loss is convex, and its minimum is the root of the mean of
    :math:`s_i = E_{p_i} u_i - u_{i y_i}`, where :math:`p_i = \operatorname{softmax}(\beta u_i)`. The standard error is
    valid even if no temperature gives the true probabilities (sandwich estimate),

    .. math:: \mathrm{se}(\beta)^2 = \frac{n}{n - 1} \frac{\sum_i a_i^2 s_i^2}{(\sum_i a_i \operatorname{Var}_{p_i}
        u_i)^2}, \qquad \mathrm{se}(T) = T^2 \mathrm{se}(\beta).

    Args:
        logits: (n, C).
        labels: (n,)
        weights: a, (n,); by default 1.

    Returns:
        The temperature and its standard error.

    Raises:
        UserError: there is no minimum: every label has the largest logit, or the logits do not predict the labels.

    For three of four images, the label's logit is larger by 2 log 3; its probability is 3/4 at T = 2:

    >>> logits = torch.tensor([[2 * math.log(3.0), 0.0]] * 4)
    >>> round(temperature_of_logits(logits, torch.tensor([0, 0, 0, 1]))[0], 6)
    2.0
    """
    logits = logits.double() - logits.double().mean(dim=1, keepdim=True)
    a = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    n, spread = len(labels), float(a @ logits.square().mean(dim=1))
    # Independent of the scale of the logits: the interval far exceeds any temperature of logits with unit spread.
    scale = math.sqrt(spread / float(a.sum())) if spread > 0 else 1.0
    u = logits / scale

    def slopes(beta: float) -> tuple[Tensor, Tensor]:
        p = torch.softmax(beta * u, dim=1)
        mean = (p * u).sum(dim=1)
        variance = (p * (u - mean[:, None]).square()).sum(dim=1)
        return mean - u.gather(1, labels[:, None]).squeeze(1), variance

    def score(log_beta: float) -> float:
        return float(a @ slopes(math.exp(log_beta))[0])

    if not score(ENDS[0]) < 0:
        raise UserError(
            f"no temperature fits the logits of {n} images: they say less of the labels than chance; check the "
            "labels and their order"
        )
    if not score(ENDS[1]) > 0:
        raise UserError(
            f"no temperature fits the logits of {n} images: all are classified correctly, as training images may "
            "be; fit it on images that the model has not seen"
        )
    beta = math.exp(scipy.optimize.brentq(score, *ENDS, xtol=1e-12))
    s, variance = slopes(beta)
    error = math.sqrt(n / (n - 1) * float(a.square() @ s.square())) / float(a @ variance) if n > 1 else math.nan
    return scale / beta, scale / beta**2 * error


def require_answers(objective: Values) -> None:
    """Refuse targets to which no temperature can be fitted.

    Raises:
        UserError: they are not labels of the outputs.
    """
    if not objective.has_answers:
        raise UserError(
            "logits='temperature': a temperature is fitted to labels and logits (n, C), and these targets and outputs "
            "are others: leave it out, or give a number, logits=2.0"
        )


def fit_temperature(objective: Values, images: str) -> Temperature:
    """Fit the temperature of a model on the samples of an objective.

    Args:
        images: description of the samples.

    Raises:
        UserError: targets are not labels of the outputs, or there is no best temperature.
    """
    require_answers(objective)
    logits = objective.outputs()
    if not bool(logits.isfinite().all()):
        raise UserError(f"logits of the {images} are not finite: check the inputs' normalisation and the weights")
    try:
        found = temperature_of_logits(logits, objective.y, objective.weights)
    except UserError as error:
        raise UserError(f"{error} (other images: held_out=; a temperature of your own: logits=2.0)") from None
    return Temperature(*found, objective.num_samples, images)


def require_logits(logits: Any, held_out: Any) -> None:
    """Check ``logits`` and ``held_out``.

    Raises:
        UserError: ``logits`` is neither a kind of logits nor a temperature, or ``held_out`` would not be used.
    """
    if isinstance(logits, str):
        choose("logits", logits, LOGITS)
    elif isinstance(logits, bool) or not isinstance(logits, Real | Temperature):
        raise UserError(f"logits={logits!r}: give 'temperature', or a number to divide them by")
    if held_out is not None and logits != "temperature":
        raise UserError(f"held_out= is what a temperature is fitted on, and logits={logits!r}: leave it out")


def chosen_temperature(
    objective: Values, logits: str | float | Temperature, held_out: Any, **options: Any
) -> Temperature | None:
    """Return the temperature that ``logits`` and ``held_out`` of an objective specify; None for calibrated logits.

    Args:
        options: options of the objective of ``held_out``.
    """
    if not isinstance(logits, str):
        return logits if isinstance(logits, Temperature) else Temperature(float(logits))
    if logits == "calibrated":
        return None
    if held_out is not None:
        if isinstance(held_out, Samples):  # already described
            options["batch"] = None
        elif objective.has_answers and objective.classes_from == "labels" and not isinstance(held_out, ForeignData):
            options["class_names"] = objective.class_names  # labels may be names
        other = type(objective)(objective.model, held_out, batch_size=objective.batch_size or "auto", **options)
        return fit_temperature(other, "held-out images")
    logger.warning("logits='temperature': fitted on the probed images themselves; give others, held_out=(x, y)")
    return fit_temperature(objective, "probed images")
