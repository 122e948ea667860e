"""Calls of probes: a model gives a result, a mapping of models a comparison with shared settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, cast, overload

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.utils.data import DataLoader, Dataset

from sharpness.checkpoints import Checkpoint
from sharpness.data import DATASETS, ForeignData, ImageSet, is_data, read_once
from sharpness.engine.undisturbed import undisturbed
from sharpness.errors import UserError
from sharpness.keywords import typed_keywords
from sharpness.objective import Objective
from sharpness.probes.shared.as_objective import Subject, as_objective
from sharpness.probes.shared.comparison import is_random, side_by_side, warn_of_shapes
from sharpness.probes.shared.options import Options
from sharpness.probes.shared.trainings import Training, compared, named
from sharpness.results import Comparison, MeasureResult, Result

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", bound=Result)
L = TypeVar("L", bound=Result)
#: Data that may follow a model without a keyword.
Data = tuple[Any, Any] | list[Any] | Mapping[str, Any] | Dataset[Any] | DataLoader[Any] | ImageSet | ForeignData | str


class Given(TypedDict, total=False):
    """Arguments common to all probes: how a model or a checkpoint becomes an objective.

    Attributes:
        data: data for a model, as :class:`~sharpness.Objective` takes it, or for a checkpoint that does not record its
            own, as :func:`~sharpness.checkpoint_objective` takes it. May also be passed positionally after the model.
        options: options of :class:`~sharpness.Objective` for models, or of :func:`~sharpness.checkpoint_objective` for
            checkpoints, such as ``{"parameters": "classifier"}``.
    """

    data: Any
    options: Options | None


class Resumed(Given, total=False):
    """Arguments of probes that save unfinished work.

    Attributes:
        resume: folder for unfinished work. The same call resumes from it and gives bitwise identical results.
    """

    resume: str | Path | None


class Probe(Protocol[P, R]):
    """A probe as users call it: a model gives a result, a mapping gives one result per label."""

    @overload
    def __call__(self, objective: Mapping[str, Any], *args: P.args, **kwargs: P.kwargs) -> Comparison[R]: ...
    @overload
    def __call__(self, objective: Subject, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self, objective: Mapping[str, Any], data: Data, /, *args: P.args, **kwargs: P.kwargs
    ) -> Comparison[R]: ...
    @overload
    def __call__(self, objective: Subject, data: Data, /, *args: P.args, **kwargs: P.kwargs) -> R: ...


class ProbeByLayer(Protocol[P, R, Q, L]):
    """A probe whose results per layer have another type and take fewer settings."""

    @overload
    def __call__(self, objective: Mapping[str, Any], *args: Q.args, **kwargs: Q.kwargs) -> Comparison[L]: ...
    @overload
    def __call__(self, objective: Subject, *args: Q.args, **kwargs: Q.kwargs) -> L: ...
    @overload
    def __call__(self, objective: Mapping[str, Any], *args: P.args, **kwargs: P.kwargs) -> Comparison[R]: ...
    @overload
    def __call__(self, objective: Subject, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self, objective: Mapping[str, Any], data: Data, /, *args: P.args, **kwargs: P.kwargs
    ) -> Comparison[R]: ...
    @overload
    def __call__(self, objective: Subject, data: Data, /, *args: P.args, **kwargs: P.kwargs) -> R: ...


class TableProbe(Protocol[P]):
    """:func:`~sharpness.measure` as users call it: a path may be a folder of several checkpoints."""

    @overload
    def __call__(
        self, subject: str | Path, *args: P.args, **kwargs: P.kwargs
    ) -> MeasureResult | Comparison[MeasureResult]: ...
    @overload
    def __call__(self, subject: Mapping[str, Any], *args: P.args, **kwargs: P.kwargs) -> Comparison[MeasureResult]: ...
    @overload
    def __call__(
        self, subject: Objective | nn.Module | Checkpoint, *args: P.args, **kwargs: P.kwargs
    ) -> MeasureResult: ...


def table_probe(measure: Callable[Concatenate[Any, P], Any]) -> TableProbe[P]:
    """Return the function itself, typed as a :class:`TableProbe`."""
    return cast("TableProbe[P]", measure)


def comparable(probe: Callable[Concatenate[Objective, P], R]) -> Probe[P, R]:
    """Let a probe of an objective also take models and checkpoints, and mappings of any of these by label.

    A mapping returns a :class:`Comparison`: every model is probed with the same arguments and seed, and thus in the
    same random directions. A list under a label means several trainings of one model, whose results are :class:`Runs`.

    The probe must declare ``**given: Unpack[Given]``, or a group of keywords that extends it. This decorator builds the
    objective from these keywords.
    """
    return cast("Probe[P, R]", _comparable(probe))


def comparable_by_layer(
    by_layer: Callable[Concatenate[Objective, Q], L],
) -> Callable[[Callable[Concatenate[Objective, P], R]], ProbeByLayer[P, R, Q, L]]:
    """Like :func:`comparable`, with another function in place of the probe if ``per_layer=True``."""

    def decorate(probe: Callable[Concatenate[Objective, P], R]) -> ProbeByLayer[P, R, Q, L]:
        return cast("ProbeByLayer[P, R, Q, L]", _comparable(probe, by_layer))

    return decorate


def _comparable(probe: Callable[..., Any], by_layer: Callable[..., Any] | None = None) -> Any:
    probe = typed_keywords()(probe)
    signature = _signature(probe)

    @functools.wraps(probe)
    @undisturbed()
    def probe_all(*args: Any, **settings: Any) -> Any:
        if settings.get("data") is None and len(args) > 1 and _can_only_be_data(args[1]):
            subject, settings["data"], *rest = args
            args = (subject, *rest)
        try:
            given = signature.bind(*args, **settings).arguments
        except TypeError as error:
            raise TypeError(f"{probe.__name__}(): {error}") from None
        # Data are read once for all models, because the first one would use up an iterator.
        subject, data = given.pop("objective"), read_once(given.pop("data", None))
        options = dict(given.pop("options", None) or {})
        # The third argument is the loss in Objective, but a setting here.
        if (loss := next((v for v in given.values() if isinstance(v, _Loss)), None)) is not None:
            raise UserError(f"{type(loss).__name__} stands where {probe.__name__} has no loss: give it as loss=")
        # Listed for all models, because the first one would use up an iterator.
        given = {name: list(value) if isinstance(value, Iterator) else value for name, value in given.items()}
        given = {
            name: plain_number(name, value, signature.parameters[name].annotation) for name, value in given.items()
        }
        chosen = probe
        if by_layer is not None and given.get("per_layer"):
            chosen, given = by_layer, _settings_of(by_layer, probe, given)
        if not isinstance(subject, Mapping):
            return chosen(as_objective(subject, data, **options), **given)
        own_losses = options.get("loss") == "training"
        models = side_by_side(subject, lambda one: as_objective(one, data, **options), own_losses)

        def probed(one: Training) -> Any:
            result = chosen(one.subject, **given)
            if one is models[0] and is_random(result):
                warn_of_shapes({named(model): model.subject for model in models})
            return result

        return compared(models, probed)

    probe_all.__signature__ = signature  # type: ignore[attr-defined]
    return probe_all


def plain(value: Any) -> Any:
    """Convert a number of any kind, or an array or tensor that holds a single one, to a Python number.

    Settings are written to files as JSON, which has no other numbers, and torch takes no NumPy seeds. Other values are
    returned unchanged.

    >>> plain(np.int64(3)), plain(np.array(0.5)), plain(Tensor([2]).sum()), plain("all")
    (3, 0.5, 2.0, 'all')
    """
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def plain_number(name: str, value: Any, annotation: Any) -> Any:
    """Convert a setting by :func:`plain`, and check one that is annotated as a number.

    Raises:
        UserError: the value is not a number of this kind, or a seed is out of range.
    """
    kind = {"int": Integral, "float": Real}.get(str(annotation).removesuffix(" | None"))
    value = plain(value)
    if kind is None or (value is None and str(annotation).endswith("None")):
        return value
    if not isinstance(value, kind):
        told = f"an integer, at least {0 if name == 'seed' else 1}" if kind is Integral else "a number"
        raise UserError(f"{name}={value!r}: give {told}")
    if name == "seed" and not 0 <= int(value) < 2**63:  # type: ignore[call-overload]
        raise UserError(f"seed={value!r}: give an integer, at least 0 and below 2**63")
    return value


def _can_only_be_data(value: Any) -> bool:
    """True for objects that can only be data, and for names of data sets."""
    return is_data(value) or (isinstance(value, str) and value in DATASETS)


def _signature(probe: Callable[..., Any]) -> inspect.Signature:
    """The signature of the probe as users call it."""
    own = inspect.signature(probe)
    first, *others = own.parameters.values()
    others = [p.replace(annotation="bool") if p.name == "per_layer" else p for p in others]
    result = own.return_annotation
    return own.replace(
        parameters=[first.replace(annotation="Subject | Mapping[str, Any]"), *others],
        return_annotation=f"{result} | Comparison[{result}]",
    )


def _settings_of(by_layer: Callable[..., Any], probe: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Select the settings that the function for layers takes.

    Raises:
        UserError: other settings were given as well.
    """
    known, usual = inspect.signature(by_layer).parameters, inspect.signature(probe).parameters
    others = [f"{n}={value!r}" for n, value in given.items() if n not in known and value != usual[n].default]
    if others:
        raise UserError(f"{probe.__name__}(per_layer=True) does not take {', '.join(others)}: leave out what it names")
    return {name: value for name, value in given.items() if name in known}
