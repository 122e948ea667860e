"""A loss of a model over fixed samples, split by class: values, gradients and Hessian-vector products."""

from __future__ import annotations

import copy
import hashlib
import inspect
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharpness.data import are_labels, number_of, told_of
from sharpness.engine import distributed
from sharpness.engine.devices import full_precision
from sharpness.engine.double_backward import slopes, split
from sharpness.engine.memory import memory_budget
from sharpness.engine.modules import buffers_kept, require_eval
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products
from sharpness.engine.program import Untraceable
from sharpness.engine.scope import classifier_prefix
from sharpness.engine.second_order import SecondOrder
from sharpness.errors import UserError
from sharpness.keywords import keywords_of
from sharpness.objective.coordinates import scales_of
from sharpness.objective.description import SampleOptions
from sharpness.objective.samples import Samples, Selection
from sharpness.objective.values import Values
from sharpness.version import __version__


class SampleTraces(NamedTuple):
    """Traces of the Hessians of single samples.

    Attributes:
        values: (n, P) the traces of the blocks of all parameters in scope; their sums are those of the Hessians.
        left_out: names of parameters that they leave out: those of a head that normalises its features.
        passes: largest number of backward passes of a sample.
    """

    values: np.ndarray
    left_out: list[str]
    passes: int


class Objective(Values):
    r"""The loss ``L(w) = sum_i a_i l(f_w(x_i), y_i) / sum_i a_i`` over fixed samples, overall and per class.

    A target y_i is whatever the loss takes. Results are split by the class of a sample, which is its integer label
    unless ``classes`` or ``group_by`` is given. If there is none of these, all samples form one class, named "all".

    ``L_c`` is the same over the samples of class c. Sums and weights are accumulated separately in float64 and divided
    once, so that the batch size never changes a value. With equal weights, :math:`\sum_c (n_c / N) \nabla^2 L_c =
    \nabla^2 L`. The model is not modified: its weights (except inside :meth:`at`), buffers, ``.grad`` and mode stay
    unchanged.

    Args:
        model: any module from inputs to outputs, in eval mode if it has BatchNorm or dropout. A half-precision model is
            copied and measured in float32, with a notice.
        data: ``(x, y)``, an object with ``.tensors`` (an :class:`~sharpness.data.ImageSet`, a ``TensorDataset``), a
            map-style dataset, a ``DataLoader``, or a list or another iterable of samples or of batches: (input, target)
            or dicts with the usual keys, read once and in order. Several inputs are a tuple or a dict of tensors, for
            ``model(*inputs)`` or ``model(**inputs)``. Do not apply random augmentation. Targets are labels (n,), or
            anything else that the loss takes with samples along the first axis: numbers, multi-label vectors,
            probabilities, masks, sequences. A :class:`~sharpness.data.ForeignData` provides its classes (number, names,
            training counts, groups by the convention "oltr") and, if it was limited, its weights, unless they are
            given. Or :class:`Samples`, such as ``other.samples``, which bring their classes, weights and groups: do not
            give these again.
        loss: ``"ce"``, for labels or class probabilities (n, C), or a function of outputs and targets that returns one
            value per sample, shape (n,). The function gets integer targets in int64 and other targets in the model's
            dtype.
        num_classes: C; by default the width of the outputs, or the number of values in ``classes`` or ``group_by``.
        classes: (n,) an integer from 0 on for every sample, whatever its target is: a subpopulation, a quantile.
            Accuracy still compares predictions with labels, if targets are labels.
        group_by: (n,) a value of any type for every sample, such as the name of its domain or annotator, or a function
            of all inputs and all targets that returns them. The sorted values become the classes and their names;
            ``class_names`` can set another order or add more.
        weights: the a_i, shape (n,), positive; by default ``loss.weights(y)`` if the loss has this method, otherwise 1.
            They weight overall losses and accuracies alike.
        batch_size: number of samples per pass, or ``"auto"`` for the fastest that fits in memory. Never changes a
            value.
        memory: limit in GiB for the saved activations of an :meth:`operator`; by default half of the free memory.
        parameters: the parameters to probe (the scope): ``"all"``, ``"backbone"``, ``"classifier"``, or a shell-style
            pattern of names such as ``"*layer3*"``. Parameters that are frozen or receive no gradient are left out.
        batchnorm: ``"eval"`` uses the running statistics; ``"recalibrate"`` re-estimates them from this data,
            as means over equal batches of at most 250, whenever the weights have been moved by :meth:`at`. Curvature,
            relative flatness and the Fisher-Rao norm are always those of the running statistics.
        groups: named sets of classes (indices or names) for tables; or a convention that derives many, medium and few
            from ``train_counts``, see :func:`~sharpness.data.class_groups`; by default "oltr".
        output: function that extracts the outputs from what the model returns, if that is not a tensor.
        class_names: names of the classes, for tables and plots: in their order, ``{label: name}`` or ``{name: label}``.
        train_counts: (C,) number of training images per class, if known, or a mapping or Series by label or name. The
            data probed here may be other images, or a subset.
        names: (n,) identifiers of the samples, such as paths. Samples of two objectives count as the same if their
            names and labels agree. By default samples are identified by their pixels, if known, otherwise by their
            inputs.
        mean: channel means, for pixels in [0, 1], that were subtracted from tensor inputs. With ``std`` they recover
            the 8-bit pixels, so that samples are recognised however they were normalised. An
            :class:`~sharpness.data.ImageSet` has its own.
        std: channel standard deviations that the inputs were divided by.
        batch: function that turns a sample or batch from the data into ``(inputs, targets)``, if it has another form.
        logits: ``"calibrated"`` uses the outputs unchanged; ``"temperature"`` divides them by the model's own
            temperature, to compare models at equal confidence; a number or a :class:`Temperature` divides them by that.
            ``objective.temperature`` is the temperature with its standard error, or None for unchanged outputs.
        held_out: images that are not probed, in the same form as ``data``, to fit the temperature on. Without them, it
            is fitted on the probed images, with a warning: on training images, the temperature reflects memorisation.

    Raises:
        UserError: labels out of range, targets that the loss does not accept, a loss that does not return one value per
            sample, non-positive weights, a model in training mode or one that does not return a tensor, an empty scope.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
    >>> round(objective.loss(), 4), objective.num_parameters
    (0.6931, 4)
    >>> objective.gradient(class_index=0).tolist()
    [-0.5, 0.0, 0.5, 0.0]

    A regression with results for each of two sites:

    >>> data, squares = (torch.eye(2), torch.tensor([0.5, 1.5])), lambda u, t: (u.sum(1) - t) ** 2
    >>> objective = Objective(model, data, squares, group_by=["Oslo", "Bern"])
    >>> objective.loss(), objective.class_names, objective.class_losses().tolist()
    (1.25, ('Bern', 'Oslo'), [2.25, 0.25])
    """

    def loss(self, class_index: int | str | None = None) -> float:
        """Return L, or L_c of a class by its index or name."""
        if class_index is None:
            return self.evaluate().mean
        return self.restrict(self.samples.indices(class_index)).loss()

    @torch.inference_mode(False)
    @full_precision()
    def gradient(self, class_index: int | str | None = None) -> Tensor:
        """Return the gradient of L, or of L_c: flat, shape (k,), in the model's dtype."""
        require_eval(self.model)
        with buffers_kept(self.model):
            part = Products(self._engine, self._batches(class_index)).gradient_sum()
        return self._moved((distributed.total(part) / self._total(class_index)).to(self.dtype))

    def hvp(self, vector: Tensor, class_index: int | str | None = None, kind: str = "hessian") -> Tensor:
        """Return the exact product of the Hessian of L, or of L_c, with a vector, (k,) to (k,), in the model's dtype.

        For many products with the same data, use :meth:`operator`, which caches what they have in common.

        Args:
            kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        """
        with buffers_kept(self.model):
            return self._operator(class_index, kind, 0)(vector)

    @property
    @torch.inference_mode(False)
    @full_precision()
    def is_traced(self) -> bool:
        """True if derivatives come from a trace, which never changes the module; traces the model if needed."""
        with buffers_kept(self.model):
            return self._engine.is_traced(next(iter(self._batches(None))))

    @contextmanager
    def operator(self, class_index: int | str | None = None, kind: str = "hessian") -> Iterator[CurvatureOperator]:
        """Open the Hessian of L, or of L_c, for many products: a function from (k,) to (k,) that caches activations.

        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
        >>> with objective.operator() as hessian:
        ...     product = hessian(torch.ones(4))
        >>> hessian.size, hessian.products, hessian.samples
        (4, 1, 2)
        """
        operator = self._operator(class_index, kind, memory_budget(self.device, self.memory))
        try:
            with buffers_kept(self.model):
                yield operator
        finally:
            operator.close()

    @torch.inference_mode(False)
    @full_precision()
    def quadratic_forms(
        self, vector: Tensor, class_index: int | str | None = None, operator: CurvatureOperator | None = None
    ) -> np.ndarray:
        r"""Return :math:`v' H_i v` for every sample, shape (n,); their weighted mean is v' H v.

        Args:
            operator: the :meth:`operator` of these samples; its cached activations are reused.
        """

        def forms() -> Tensor:
            known = self._operator(class_index, "hessian", 0) if operator is None else operator
            return known.quadratic_forms(vector)

        return self._of_every_sample(class_index, forms)

    @torch.inference_mode(False)
    @full_precision()
    def slopes(self, vector: Tensor, class_index: int | str | None = None) -> np.ndarray:
        r"""Return :math:`v' \nabla \ell_i` for every sample, (n,); their weighted mean is v' times the gradient."""
        along = self._moved(vector.detach().to(self.device, self.dtype, copy=vector.is_inference()))

        def found() -> Tensor:
            return slopes(self._outputs, self.parameters, self._batches(class_index), self.loss_function, along)

        return self._of_every_sample(class_index, found)

    @torch.inference_mode(False)
    @full_precision()
    def traces(self, most: int | None = None) -> SampleTraces:
        r"""Return the exact trace of :math:`\nabla^2 \ell_i` for every sample; their weighted mean is that of L.

        Possible for networks that are piecewise linear in each parameter, such as convolutions, BatchNorm in eval mode
        and ReLU, see ``sharpness/engine/diagonal.py``; it takes a backward pass for each output, or for each feature
        before a head that normalises them.

        Args:
            most: largest number of backward passes; None for any number.

        Raises:
            UserError: the network is of another kind, or it takes more passes.
        """
        units = None if self._scales is None else split(self._scales, self.parameters)
        head = [i for i, n in enumerate(self.names) if n.startswith(classifier_prefix(self.model))]
        left, passes = list[int](), 0

        def found() -> Tensor:
            nonlocal left, passes
            traces, left, passes = Products(self._engine, self._batches(None)).traces(units, head, most)
            return traces

        try:
            values = self._of_every_sample(None, found, len(self.parameters))
            return SampleTraces(values, [self.names[i] for i in left], passes)
        except Untraceable as error:
            raise UserError(f"the trace has no exact form: {error}: take estimator='hutchinson'") from None

    def _of_every_sample(self, class_index: int | str | None, compute: Callable[[], Tensor], *shape: int) -> np.ndarray:
        """Return numbers for every sample, (n, *shape); ``compute`` returns those of this process, if it has any."""
        require_eval(self.model)
        whole = torch.zeros(len(self.samples.indices(class_index)), *shape, dtype=torch.float64)
        positions = distributed.share(torch.arange(len(whole)))
        if len(positions):
            with buffers_kept(self.model):
                whole[positions] = compute().cpu()
        return distributed.total(whole).numpy()

    def restrict(self, what: Selection) -> Objective:
        """Return the objective of a class (index or name), a group, several names, or samples by index or mask.

        Raises:
            UserError: an unknown class or group, one without samples, or indices out of range.
        """
        return self._over(self.samples.restrict(what))

    def matched(self, samples: int, seed: int = 0) -> Objective:
        """Return the objective with equally many samples of every class that has any, see :meth:`Samples.matched`."""
        return self._over(self.samples.matched(samples, seed))

    def in_order_of(self, other: Objective) -> Objective:
        """Return the same objective with its samples in the order of another one; equal inputs are shared."""
        return self._over(self.samples.in_order_of(other.samples))

    def counted(self, train_counts: Sequence[int]) -> Objective:
        """Return the same objective with other training counts per class, (C,), and groups from them unless given.

        Raises:
            UserError: the counts do not match the classes.
        """
        return self._over(self.samples.counted(train_counts))

    def in_coordinates(self, coordinates: str) -> Objective:
        r"""Return the same loss as a function of u, with weights w + D u; derivatives and displacements are those of u.

        With ``"filter"``, D is diagonal and holds the norm of each parameter's filter, see
        :func:`~sharpness.objective.coordinates.filter_scales`. The Hessian is then :math:`D H D`, which is invariant to
        rescaling weights in front of BatchNorm or between two layers with ReLU. ``"plain"`` is D = 1.

        Raises:
            UserError: other coordinates.

        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
        >>> objective.in_coordinates("filter").coordinates
        'filter'
        """
        other = copy.copy(self)
        other.coordinates, other._scales = coordinates, scales_of(self, coordinates)
        return other

    def of_classifier(self) -> Objective:
        """Return the same loss as a function of those parameters in scope that are the classifier's."""
        prefix, other = classifier_prefix(self.model), copy.copy(self)
        chosen = [i for i, name in enumerate(self.names) if name.startswith(prefix)]
        if not chosen:
            raise UserError(f"no parameter in scope {self.scope!r} is of the classifier: take a wider scope")
        other.scope, other.names = "classifier", [self.names[i] for i in chosen]
        other.parameters = [self.parameters[i] for i in chosen]
        other._engine = SecondOrder(self._outputs, other.parameters, self.loss_function)
        return other.in_coordinates(self.coordinates)

    def _over(self, samples: Samples) -> Objective:
        """Return the same loss of the same model over other samples, without tracing the model again."""
        if samples is self.samples:
            return self
        other = copy.copy(self)
        other.samples, other._checked = samples, None
        return other

    def provenance(self) -> dict[str, Any]:
        """Return everything needed to understand and reproduce a result, as plain values."""
        heads = [m for m in self.model.modules() if hasattr(m, "scale") and hasattr(m, "filter_axes")]
        # Plain values, because they are written to files and hashed as keys of unfinished work.
        return {
            "model": type(self.model).__name__,
            "model_sha256": self.model_sha256(),
            "data_sha256": self.data_sha256,
            "samples": self.num_samples,
            "class_samples": self.class_samples.tolist(),
            "loss": self.loss_name,
            **({"loss_function": self.loss_identity} if self.loss_identity else {}),
            "targets": "labels" if are_labels(self.y) else told_of(self.y),
            "classes": self.classes_from,
            "group_convention": self.group_convention,
            "logit_scale": float(heads[0].scale) if heads else 1.0,  # type: ignore[arg-type]
            "logits": self.logits,
            **({} if self.temperature is None else self.temperature.provenance()),
            "scope": self.scope,
            "num_parameters": self.num_parameters,
            # Which ones: scope and number are the same when another parameter of the same size is frozen.
            "parameters_sha256": hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16],
            "coordinates": self.coordinates,
            "batchnorm": self.batchnorm,
            "dtype": self.precision,
            **({"half_precision": self.half_precision} if self.half_precision else {}),
            "device": self.device.type,
            "sharpness": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.num_samples} samples, {number_of(self.num_classes)}, "
            f"loss={self.loss_name}, k={self.num_parameters}, batchnorm={self.batchnorm})"
        )

    def _operator(self, class_index: int | str | None, kind: str, budget: int) -> CurvatureOperator:
        require_eval(self.model)
        chosen = self.samples.indices(class_index)
        return CurvatureOperator(
            self._engine,
            lambda: self._batches(class_index),
            samples=len(chosen),
            weight=self._total(class_index),
            kind=kind,
            budget=budget,
            scales=self._scales,
        )


_own = list(inspect.signature(Values.__init__).parameters.values())[1:-1]
Objective.__signature__ = inspect.Signature([*_own, *keywords_of(SampleOptions)])  # type: ignore[attr-defined]
