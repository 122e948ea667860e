"""A loss of a model over fixed data, split by class: the one thing that probes probe."""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpness.data import (
    CONVENTION,
    Content,
    ForeignData,
    Layout,
    SampleIdentity,
    answers_of,
    are_labels,
    classes_of,
    cross_entropy_targets,
    named_groups,
    number_of,
    pack,
    plain_targets,
    read_samples,
    told_of,
    training_counts,
)
from sharpness.engine import (
    ClassSums,
    CurvatureOperator,
    Evaluation,
    Outputs,
    PerSampleLoss,
    Products,
    SampleSums,
    SecondOrder,
    Untraceable,
    WeightedBatch,
    batchnorms,
    buffers_kept,
    class_sums,
    cross_entropy,
    distributed,
    even_batch,
    fastest_batch,
    few_samples,
    filter_axes,
    first_difference,
    first_line,
    forward_flops,
    full_precision,
    hidden_noticed,
    in_full_precision,
    memory_budget,
    parameters_in_scope,
    recalibrate,
    require_eval,
    require_independent,
    require_one_each,
    sample_rows,
    state_sha256,
    undisturbed,
)
from sharpness.errors import UserError, choose
from sharpness.version import __version__

BATCHNORM = ("eval", "recalibrate")
logger = logging.getLogger("sharpness")


class Objective:
    r"""``L(w) = sum_i a_i l(f_w(x_i), y_i) / sum_i a_i`` over fixed samples, and its restriction to every class.

    A target y_i is whatever the loss takes; the class of a sample, by which answers are split, is its integer label
    unless ``classes`` or ``group_by`` tell another. Where there is neither, there is one class, named "all".

    ``L_c`` is the same over the samples of class c. Sums and weights are accumulated separately, in float64, and
    divided once, so that the batch size never changes a value. With equal weights
    :math:`\sum_c (n_c / N) \nabla^2 L_c = \nabla^2 L`. The model is left as it was found: nothing here writes
    to its weights (except inside :meth:`at`), buffers, ``.grad`` or mode.

    Args:
        model: any module from inputs to outputs, in eval mode if it has BatchNorm or dropout. One in half precision is
            measured in float32, in a copy made now; a notice says so.
        data: ``(x, y)``, an object with ``.tensors`` (an :class:`~sharpness.data.ImageSet`, a ``TensorDataset``), a
            map-style dataset, a ``DataLoader``, or a list or another iterable of samples or of batches: (input, target)
            or dicts with usual names, read once and in order. Several inputs are a tuple or a dict of tensors, for
            ``model(*inputs)`` or ``model(**inputs)``. Inputs should carry no random augmentation. Targets are
            labels (n,), or anything else with samples along the first axis that the loss takes: numbers, several
            labels at once, probabilities, masks, sequences. What a :class:`~sharpness.data.ForeignData` knows of its
            classes (number, names, training images, groups by the convention "oltr") and the weights of limited ones
            are taken from it, unless given.
        loss: ``"ce"``, of labels or of class probabilities (n, C), or a function of outputs and targets that returns
            one value per sample, shape (n,). It gets integers in int64, other numbers in the model's dtype.
        num_classes: C; the width of the outputs, or what ``classes`` or ``group_by`` tell, unless given.
        classes: (n,) a whole number from 0 on for every sample, whatever its target is: a subpopulation, a quantile.
            Accuracy still compares answers with labels, where targets are labels.
        group_by: (n,) a value of any kind for every sample, such as the name of its domain or annotator, or a function
            of all inputs and all targets that gives them. The sorted values become classes and their names, unless
            ``class_names`` give another order, or more of them.
        weights: the a_i, shape (n,), positive; those that ``loss.weights(y)`` gives if there is such a method,
            else 1. Losses and accuracies of all samples count them alike.
        batch_size: samples in one pass, or ``"auto"`` for the fastest that fits in memory. Never changes a value.
        memory: GiB that the saved activations of an :meth:`operator` may take; half of what is free unless given.
        parameters: the scope: ``"all"``, ``"backbone"``, ``"classifier"``, or a shell pattern of names such as
            ``"*layer3*"``. Parameters that are frozen or that no gradient reaches are left out.
        batchnorm: ``"eval"`` uses the running statistics; ``"recalibrate"`` re-estimates them from this data,
            as means over equal batches of at most 250, whenever the weights have been moved by :meth:`at`.
        groups: named sets of classes (indices, or names), for tables; or a convention by which ``train_counts`` make
            many, medium and few, see :func:`~sharpness.data.class_groups`: "oltr" unless groups are given.
        output: picks the outputs from what a model returns, if that is not a tensor.
        class_names: names of the classes, for tables and plots.
        train_counts: (C,) images of each class that the model was trained on, where that is known; the data here may
            be others, or a part of them.
        names: whatever tells the samples apart, such as paths, (n,): samples of other objectives are the same where
            names and labels are. Pixels do unless given, where they are known, else inputs as they stand.
        mean: per channel, of pixels in [0, 1]: what was subtracted from inputs that are tensors, so that 8-bit pixels
            tell the samples apart, however they were normalised. An :class:`~sharpness.data.ImageSet` knows its own.
        std: likewise, what they were divided by.
        batch: makes ``(inputs, targets)`` of a sample or a batch as the data hand it out, where that is not plain.

    Raises:
        UserError: labels out of range, targets that the loss does not take, a loss that is not one value per sample,
            weights that are not positive, a model in training mode, one that does not return a tensor, an empty scope.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
    >>> round(objective.loss(), 4), objective.num_parameters
    (0.6931, 4)
    >>> objective.gradient(class_index=0).tolist()
    [-0.5, 0.0, 0.5, 0.0]

    A regression, of which two sites are told apart:

    >>> data, squares = (torch.eye(2), torch.tensor([0.5, 1.5])), lambda u, t: (u.sum(1) - t) ** 2
    >>> objective = Objective(model, data, squares, group_by=["Oslo", "Bern"])
    >>> objective.loss(), objective.class_names, objective.class_losses().tolist()
    (1.25, ('Bern', 'Oslo'), [2.25, 0.25])
    """

    @torch.inference_mode(False)
    @torch.enable_grad()
    @full_precision()
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | PerSampleLoss = "ce",
        *,
        num_classes: int | None = None,
        classes: Any = None,
        group_by: Any = None,
        weights: Tensor | None = None,
        batch_size: int | str = "auto",
        parameters: str = "all",
        batchnorm: str = "eval",
        groups: Mapping[str, Sequence[int | str]] | str | None = None,
        output: Callable[[Any], Tensor] | None = None,
        class_names: Sequence[str] | None = None,
        memory: float | None = None,
        train_counts: Sequence[int] | None = None,
        names: Sequence[Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(
                f"the model is a {type(model).__name__}: give the torch.nn.Module, whose weights are to be moved"
            )
        choose("batchnorm policy", batchnorm, BATCHNORM)
        if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
            raise UserError(f"batch_size={batch_size!r}: give at least 1, or 'auto'")
        if isinstance(loss, str):
            choose("loss", loss, ("ce",))
        elif isinstance(loss, type) or not callable(loss):
            raise UserError(f"loss={loss!r}: give 'ce', or a function such as torch.nn.MSELoss(reduction='none')")
        self.model = model = in_full_precision(model)
        self.loss_function: PerSampleLoss = cross_entropy if isinstance(loss, str) else loss
        self.loss_name = loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
        self.memory = memory
        self.batchnorm = batchnorm
        self.scope = parameters
        reference = next(model.parameters(), None)
        if reference is None:
            raise UserError(f"{type(model).__name__} has no parameters: there is nothing to probe")
        self.device, self.dtype = reference.device, reference.dtype
        require_eval(model)
        if isinstance(data, ForeignData) and classes is None and group_by is None:
            num_classes = data.num_classes if num_classes is None else num_classes
            class_names = data.class_names if class_names is None else class_names
            train_counts = data.class_counts if train_counts is None else train_counts
        inputs, y = read_samples(data, batch, _arguments(model), class_names)
        x, layout = pack(inputs, self.dtype)
        x, y = (t.clone() if t.is_inference() else t for t in (x, y))
        call = None if layout is None else layout.call
        self._called = model if call is None else Outputs(model, None, call)
        self._outputs = Outputs(model, output, call)
        self.x = x.to(self.dtype) if x.is_floating_point() else x
        self._content = Content.of(data, x, names, mean, std)
        self.batch_size = None if isinstance(batch_size, str) else batch_size
        try:
            with buffers_kept(model):
                self._largest_batch = fastest_batch(self._called, self._first(1))
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} raised {first_line(error)} on inputs of shape "
                f"{_shapes(self.x[:1], layout)}: check size, channels and layout"
            ) from error
        first = self._first(8)
        with hidden_noticed() as hidden:
            outputs = self._forward(first)
        if not torch.equal(first.nan_to_num(), self._first(8).nan_to_num()):
            raise UserError("the model changes its inputs in place: let its forward pass start from a copy")
        width = outputs.shape[1] if outputs.ndim == 2 else None
        self.y = plain_targets(y, self.dtype)
        if isinstance(loss, str):
            self.y = cross_entropy_targets(y.cpu(), outputs.shape)
        titles = None if class_names is None else tuple(class_names)
        found = classes_of(
            x if layout is None else layout.as_given(x),
            self.y,
            width,
            num_classes=num_classes,
            classes=classes,
            group_by=group_by,
            class_names=titles,
        )
        self.classes, self.num_classes, self.classes_from = found.index, found.number, found.source
        self._answers = answers_of(self.y, width, found, every=isinstance(loss, str))
        self.class_names = titles or found.names or tuple(str(c) for c in range(self.num_classes))
        if len(self.class_names) != self.num_classes:
            raise UserError(
                f"{len(self.class_names)} class_names and {number_of(self.num_classes)}: give one for each"
                + (", and say with classes= or group_by= which samples are whose" if found.source == "none" else "")
            )
        self.weights = self._weights_of(data, weights)
        self._describe(train_counts, groups)
        values = self._first_losses(outputs)
        few = few_samples(self.y)
        require_independent(self._outputs, self.loss_function, *(t[few].to(self.device) for t in (self.x, self.y)))
        value = values.sum()
        self.names, self.parameters = parameters_in_scope(model, value, parameters, bool(hidden))
        self._engine = SecondOrder(self._outputs, self.parameters, self.loss_function)

    def _weights_of(self, data: Any, weights: Any) -> Tensor:
        """The a_i: those given, or of the data and of the loss.

        Raises:
            UserError: they are not positive, or not one for each sample.
        """
        if weights is None:
            weights = data.weights.to(self.dtype) if isinstance(data, ForeignData) else torch.ones(len(self.y))
            if callable(of_loss := getattr(self.loss_function, "weights", None)):
                weights = weights * of_loss(self.y).cpu()
        weights = torch.as_tensor(weights).cpu().to(self.dtype)
        if weights.shape != (len(self.y),) or not bool((weights > 0).all()):
            raise UserError(f"weights must be positive, one for each of the {len(self.y)} samples")
        return weights

    def _describe(self, train_counts: Any, groups: Mapping[str, Sequence[int | str]] | str | None) -> None:
        """Take what is known of the classes: training images, and groups, which these make unless they are given."""
        self.train_counts = None if train_counts is None else training_counts(train_counts, self.num_classes)
        if groups is None and self.train_counts is not None:
            groups = CONVENTION
        self.groups = named_groups(groups, self.train_counts, self.class_names)
        self.group_convention = groups if isinstance(groups, str) else None

    def counted(self, train_counts: Sequence[int]) -> Objective:
        """The same with other training images per class, (C,), and groups by them where groups were not given.

        Raises:
            UserError: they are of other classes.
        """
        other = self._copy()
        other._describe(train_counts, (self.group_convention or self.groups or None))
        return other

    def _first_losses(self, outputs: Tensor) -> Tensor:
        """The losses of the first samples, with their graph.

        Raises:
            UserError: the loss does not take outputs and targets as they are, or is not one value per sample.
        """
        y = self.y[: len(outputs)].to(self.device)
        try:
            values = self.loss_function(outputs, y)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the loss raised {first_line(error)} on outputs of shape {tuple(outputs.shape)} and targets "
                f"{told_of(y)}: let it convert them, such as t.to(u), or give targets of the dtype that it takes"
            ) from error
        return require_one_each(values, outputs, y)

    @property
    def num_parameters(self) -> int:
        """k: scalars in scope that receive a gradient."""
        return sum(p.numel() for p in self.parameters)

    @property
    def num_samples(self) -> int:
        return len(self.y)

    @property
    def precision(self) -> str:
        """The model's own: the name of its dtype."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def flops_per_sample(self) -> int:
        """Floating-point operations of a forward pass."""
        with buffers_kept(self.model):
            return forward_flops(self._outputs, self._first(1))

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Probed samples per class, shape (C,)."""
        return torch.bincount(self.classes, minlength=self.num_classes).numpy()

    @cached_property
    def class_weights(self) -> np.ndarray:
        """Sum of the weights of each class's samples, shape (C,)."""
        return torch.bincount(self.classes, self.weights.double(), self.num_classes).numpy()

    def evaluate(self) -> ClassSums:
        """Loss sums, weights and right answers per class, from one pass over the data."""
        return self.evaluate_samples()

    @torch.no_grad()
    @full_precision()
    def evaluate_samples(self) -> SampleSums:
        """The same, with what every sample adds to the sums."""
        require_eval(self.model)
        rows = torch.zeros(4, self.num_samples, dtype=torch.float64)
        done = [
            sample_rows(self._forward(x), y, a, self.loss_function, self._answers) for x, y, a in self._batches(None)
        ]
        if done:
            rows[:, distributed.share(torch.arange(self.num_samples))] = torch.cat(done, dim=1).cpu()
        return SampleSums.of(distributed.total(rows), self.classes, self.num_classes)

    @property
    def has_answers(self) -> bool:
        """Whether the largest of the outputs is an answer that is right or wrong: targets are labels of theirs."""
        return self._answers is not None

    @torch.no_grad()
    @full_precision()
    def confusion(self) -> np.ndarray:
        """How many samples of each label (rows) get each answer (columns), (C, C).

        Raises:
            UserError: targets are no labels, or the outputs are not (n, C).
        """
        require_eval(self.model)
        if self._answers is None:
            shape = tuple(self._forward(self._first(8)).shape)
            if are_labels(self.y):
                raise UserError(f"outputs have shape {shape}, not (n, {self.num_classes}): they are no logits")
            raise UserError(f"targets {told_of(self.y)} are no labels: no answer is right or wrong")
        classes = self._answers
        cells = [torch.empty(0, dtype=torch.int64)]
        for x, y, _ in self._batches(None):
            cells.append((classes * y.to(self.device) + self._forward(x).argmax(1)).cpu())
        counts = torch.bincount(torch.cat(cells), minlength=classes * classes)
        return distributed.total(counts).numpy().reshape(classes, classes)

    @full_precision()
    def evaluation(self, precision: str | None = None) -> Callable[[Tensor | None], ClassSums]:
        """``displacement (k,) -> ClassSums`` at ``w + displacement``, for many points: see :class:`~engine.Evaluation`.

        A model that cannot be traced, or whose statistics are recalibrated, is moved and evaluated as it is. Every
        process evaluates all samples: points are what processes share.

        Args:
            precision: ``"bfloat16"``, for models in float32, or the model's own.

        Raises:
            UserError: another precision.
        """
        require_eval(self.model)
        if precision not in (None, self.precision) and (precision, self.precision) != ("bfloat16", "float32"):
            raise UserError(f"precision={precision!r}, but the model is in {self.precision}: convert the model")
        dtype = torch.bfloat16 if precision == "bfloat16" else self.dtype
        largest = 2 * self._largest_batch * self.dtype.itemsize // dtype.itemsize  # no graph, and smaller numbers
        size = self.batch_size or even_batch(len(self.y), largest, self.device)
        batches = list(zip(self.x.split(size), self.y.split(size), self.weights.split(size), strict=True))
        if self.batchnorm == "eval":
            try:
                budget = memory_budget(self.device, self.memory)
                with buffers_kept(self.model):
                    return Evaluation(
                        self._outputs, self.parameters, self.loss_function, self.classes, self.num_classes,
                        self._answers, batches, dtype, budget,
                    )  # fmt: skip
            except Untraceable as error:
                logger.info("evaluation: the model itself, point by point (%s)", error)
        return self._evaluation_in_place(batches, dtype)

    def loss(self, class_index: int | None = None) -> float:
        """L, or L_c."""
        if class_index is None:
            return self.evaluate().mean
        return self.restrict(class_index).loss()

    def class_losses(self) -> np.ndarray:
        """L_c, shape (C,), from one pass; NaN for a class without samples."""
        return self.evaluate().class_means

    @torch.inference_mode(False)
    @full_precision()
    def gradient(self, class_index: int | None = None) -> Tensor:
        """The gradient of L, or of L_c: flat, shape (k,), in the model's dtype."""
        require_eval(self.model)
        with buffers_kept(self.model):
            part = Products(self._engine, self._batches(class_index)).gradient_sum()
        return (distributed.total(part) / self._total(class_index)).to(self.dtype)

    def hvp(self, vector: Tensor, class_index: int | None = None, kind: str = "hessian") -> Tensor:
        """The Hessian of L, or of L_c, times a vector: shapes (k,) to (k,), exact, in the model's dtype.

        For many products with the same data take :meth:`operator`, which keeps what they have in common.

        Args:
            kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        """
        with buffers_kept(self.model):
            return self._operator(class_index, kind, 0)(vector)

    @contextmanager
    def operator(self, class_index: int | None = None, kind: str = "hessian") -> Iterator[CurvatureOperator]:
        """The Hessian of L, or of L_c, for many products: a function, (k,) to (k,), that keeps activations.

        >>> model = nn.Linear(2, 2, bias=False)
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
    def quadratic_forms(self, vector: Tensor, class_index: int | None = None) -> np.ndarray:
        r""":math:`v' H_i v` of every sample, shape (n,); their weighted mean is v' H v."""
        require_eval(self.model)
        indices = self._chosen(class_index)
        positions = distributed.share(torch.arange(len(indices)))
        forms = torch.zeros(len(indices), dtype=torch.float64)
        if len(positions):
            vector = vector.detach().to(self.device, self.dtype, copy=vector.is_inference())
            with buffers_kept(self.model):
                forms[positions] = Products(self._engine, self._batches(class_index)).quadratic_forms(vector).cpu()
        return distributed.total(forms).numpy()

    def restrict(self, what: int | Sequence[int] | np.ndarray | Tensor) -> Objective:
        """The objective of a subset: a class (an int), or the samples at some indices.

        Raises:
            UserError: a class without samples.
        """
        if isinstance(what, int | np.integer):
            indices = self._indices(int(what))
        else:
            indices = torch.as_tensor(what, dtype=torch.int64)
            if not len(indices):
                raise UserError("no samples were chosen: give at least one index")
        other = self._copy()
        other.x, other.y, other.weights = self.x[indices], self.y[indices], self.weights[indices]
        other.classes, other._content = self.classes[indices], self._content.take(indices)
        return other

    def _copy(self) -> Objective:
        """The same objective, for other samples or other words about them."""
        other = object.__new__(Objective)
        other.__dict__.update(self.__dict__)
        for cached in ("class_counts", "class_weights", "data_sha256", "identity"):
            other.__dict__.pop(cached, None)
        return other

    def matched(self, samples: int, seed: int = 0) -> Objective:
        """The objective of equally many samples of every class that has any, drawn without replacement by ``seed``.

        The same samples are drawn whatever their order, and whatever normalises them.

        Raises:
            UserError: a class has fewer.
        """
        counts, digests = self.class_counts, self.identity.digests
        short = [c for c in range(self.num_classes) if 0 < counts[c] < samples]
        if samples < 1 or short:
            least = int(min(counts[counts > 0]))
            name = self.class_names[int(np.flatnonzero(counts == least)[0])]
            raise UserError(f"match_samples={samples}: give 1 to {least}, what class {name} has")
        draw = np.random.default_rng(seed)
        chosen = []
        for c in np.flatnonzero(counts):
            members = np.flatnonzero(self.classes.numpy() == c)
            chosen.append(draw.choice(members[np.argsort(digests[members], kind="stable")], samples, replace=False))
        return self.restrict(np.sort(np.concatenate(chosen)))

    def in_order_of(self, other: Objective) -> Objective:
        """The same with its samples in the order of an objective that has the same ones; equal inputs are shared."""
        if self is other or self.data_sha256 != other.data_sha256:
            order = other.identity.order_of(self.identity)
            return self if order is None else self.restrict(order)
        twin = self._copy()
        twin.x, twin._content = other.x, other._content
        return twin

    @contextmanager
    def at(self, displacement: Tensor) -> Iterator[None]:
        """The model at ``w + displacement``, flat (k,); weights and statistics are put back exactly, come what may."""
        with undisturbed(), buffers_kept(self.model):
            norms = batchnorms(self.model) if self.batchnorm == "recalibrate" else []
            buffers = [b for m in norms for b in m.buffers()]
            moved = [*self.parameters, *buffers]
            saved = [t.detach().clone() for t in moved]
            try:
                with torch.no_grad():
                    pieces = displacement.to(self.device, self.dtype).split([p.numel() for p in self.parameters])
                    for p, d in zip(self.parameters, pieces, strict=True):
                        p.add_(d.view_as(p))
                if buffers:
                    recalibrate(self._called, self.x, self.device)
                yield
            finally:
                with torch.no_grad():
                    for t, old in zip(moved, saved, strict=True):
                        t.copy_(old)

    @full_precision()
    def check(self) -> SampleSums:
        """What every probe does first: two passes must agree and be finite. Returns the loss at the centre.

        Raises:
            UserError: the loss is random, or not finite; the message says where.
        """
        with self._statistics():
            first = self.evaluate_samples()
        with self._statistics():
            second = self.evaluate()
        if not np.isfinite(first.loss).all():
            bad = int(np.flatnonzero(~np.isfinite(first.loss))[0])
            raise UserError(
                f"the loss of class {bad} is {first.loss[bad]} before anything was perturbed: check the inputs' "
                "normalisation and the weights for inf and nan"
            )
        if not np.allclose(first.loss, second.loss, rtol=1e-6, atol=1e-12):
            x = self._first(8)
            where = first_difference(self._outputs, x, x) or "the model or the loss"
            raise UserError(
                f"two passes over the same data gave losses {first.mean:.6g} and {second.mean:.6g}: {where} is random, "
                "or keeps a state; freeze it, or seed it in every call"
            )
        return first

    def _statistics(self) -> AbstractContextManager[None]:
        """BatchNorm's statistics as probes see them at w."""
        return self.at(torch.zeros(self.num_parameters)) if self.batchnorm == "recalibrate" else nullcontext()

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """One flat vector (k,) from tensors by parameter name."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names]).to(self.device, self.dtype)

    @cached_property
    def filter_axes(self) -> dict[str, int]:
        """For every parameter in scope, the axis that runs over its filters (0 unless its module says otherwise)."""
        axes = filter_axes(self.model)
        return {name: axes.get(name, 0) for name in self.names}

    @cached_property
    def data_sha256(self) -> str:
        """Of inputs, targets, weights, and classes that are not the labels, bit by bit: the key of unfinished work."""
        digest = hashlib.sha256()
        told = () if self.classes_from in ("labels", "none") else (self.classes,)
        for t in (self.x, self.y, self.weights, *told):
            digest.update(t.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> SampleIdentity:
        """Which samples these are, whatever their order and whatever they were normalised by."""
        targets = None if self.classes_from == "labels" else self.y
        return SampleIdentity.of(self._content, self.classes, self.weights, targets)

    @property
    def image_constants(self) -> dict[str, list[float]] | None:
        """``mean`` and ``std`` of the inputs per channel; None where they are not known."""
        mean, std = self._content.mean, self._content.std
        return None if mean is None or std is None else {"mean": list(mean), "std": list(std)}

    def model_sha256(self) -> str:
        """Of all weights and buffers as they are now."""
        return state_sha256(self.model)

    def provenance(self) -> dict[str, Any]:
        """What a result needs to be understood and repeated; plain values."""
        heads = [m for m in self.model.modules() if hasattr(m, "scale") and hasattr(m, "filter_axes")]
        return {
            "model": type(self.model).__name__,
            "model_sha256": self.model_sha256(),
            "data_sha256": self.data_sha256,
            "samples": self.num_samples,
            "class_samples": self.class_counts.tolist(),
            "loss": self.loss_name,
            "targets": "labels" if are_labels(self.y) else told_of(self.y),
            "classes": self.classes_from,
            "group_convention": self.group_convention,
            "logit_scale": float(heads[0].scale) if heads else 1.0,  # type: ignore[arg-type]
            "scope": self.scope,
            "num_parameters": self.num_parameters,
            "batchnorm": self.batchnorm,
            "dtype": self.precision,
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

    def _forward(self, x: Tensor) -> Tensor:
        with buffers_kept(self.model):
            outputs = self._outputs(x)
        if not isinstance(outputs, Tensor):
            raise UserError(
                f"the model returned a {type(outputs).__name__}: pass output=, a function that picks the logits, "
                "such as output=lambda r: r[0] (--logits 0 on the command line)"
            )
        return outputs

    def _indices(self, class_index: int) -> Tensor:
        if not 0 <= class_index < self.num_classes:
            raise UserError(f"class {class_index} is outside 0..{self.num_classes - 1}")
        indices = (self.classes == class_index).nonzero().squeeze(1)
        if not len(indices):
            raise UserError(f"class {class_index} has no samples here: there is no loss to probe")
        return indices

    def _chosen(self, class_index: int | None) -> Tensor:
        return torch.arange(len(self.y)) if class_index is None else self._indices(class_index)

    def _total(self, class_index: int | None) -> float:
        return float(self.weights[self._chosen(class_index)].double().sum())

    def _batches(self, class_index: int | None) -> Iterator[WeightedBatch]:
        """This process's share of the samples."""
        share = distributed.share(self._chosen(class_index))
        for part in share.split(self.batch_size or even_batch(len(share), self._largest_batch, self.device)):
            if len(part):
                yield tuple(t[part].to(self.device) for t in (self.x, self.y, self.weights))  # type: ignore[misc]

    def _operator(self, class_index: int | None, kind: str, budget: int) -> CurvatureOperator:
        require_eval(self.model)
        chosen = self._chosen(class_index)
        return CurvatureOperator(
            self._engine,
            lambda: self._batches(class_index),
            samples=len(chosen),
            weight=self._total(class_index),
            kind=kind,
            budget=budget,
        )

    def _evaluation_in_place(
        self, batches: list[WeightedBatch], dtype: torch.dtype
    ) -> Callable[[Tensor | None], ClassSums]:
        layout = torch.channels_last if self._takes_channels_last() else torch.preserve_format

        def forward(x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
                return self._forward(x.to(memory_format=layout)).to(self.dtype)

        @full_precision()
        def evaluate(displacement: Tensor | None) -> ClassSums:
            if displacement is None:
                displacement = torch.zeros(self.num_parameters)
            moved = ((x.to(self.device), y.to(self.device), a.to(self.device)) for x, y, a in batches)
            with self.at(displacement):
                return class_sums(
                    forward,
                    moved,
                    self.loss_function,
                    self.classes,
                    self.num_classes,
                    self._answers,
                )

        return evaluate

    @torch.no_grad()
    def _takes_channels_last(self) -> bool:
        """Whether the model runs on inputs in that memory layout: a ``view`` inside it may not."""
        x = self._first(2)
        try:
            return x.ndim == 4 and self._forward(x.to(memory_format=torch.channels_last)) is not None
        except RuntimeError:
            return False

    def _first(self, samples: int) -> Tensor:
        return self.x[:samples].to(self.device, copy=True)


def _arguments(model: nn.Module) -> tuple[str, ...]:
    """Names of what the model's forward pass takes."""
    try:
        return tuple(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return ()


def _shapes(x: Tensor, layout: Layout | None) -> str:
    parts = [x] if layout is None else layout.unpack(x)
    return " and ".join(str(tuple(part.shape)) for part in parts)
