"""Step rules of this package for any optimizer, training loop, data loader and network.

>>> network = nn.Linear(2, 3)
>>> stepper = wrap(torch.optim.SGD(network.parameters(), lr=0.1), "sam:0.05", network)
>>> round(float(stepper.step(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))), 1) > 0
True
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError, require_whole
from sharpness.flattening import (
    ClassConditionalStep,
    FocalSAM,
    ImbSAM,
    ModelPerturbation,
    PoF,
    ReweightedSAM,
    build_operation,
)
from sharpness.steps import Batch, Context, EpochRule, Loss
from sharpness.training.state import epoch_generator

#: Name of a rule that is not in ``sharpness.flattening.OPERATIONS``.
CC_SAM = "cc-sam"
#: Rules that depend on the number of training images per class.
COUNTED = (ImbSAM, FocalSAM, ReweightedSAM, ClassConditionalStep)


def wrap(
    optimizer: torch.optim.Optimizer,
    rule: Any,
    network: nn.Module,
    loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "ce",
    *,
    train_counts: Sequence[int] | Tensor | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> Stepper:
    """Wrap an optimizer so that a rule such as SAM determines the gradient of its steps, in any training loop.

    ``stepper.step(x, y)`` replaces ``zero_grad``, the forward and backward passes and ``step``. Learning-rate schedules
    and everything else use the optimizer itself. A step inside ``torch.autocast`` runs under autocast.

    Everything that the optimizer trains is treated alike: rules perturb the parameters of a loss, too.

    Args:
        optimizer: any optimizer over the network's trainable parameters, and those of the loss if it has any. Its steps
            must not need a closure.
        rule: a name as in ``sharpness.train(flatten=...)`` (``"sam:0.1"``, ``"asam"``, ``"gp"``, ``"mp"``,
            ``"imbsam"``, ``"focal-sam"``, ``"rwsam"``, ``"fs-dgpm"``), ``"cc-sam"`` for class-conditional SAM of all
            parameters, or a rule.
        network: from inputs to logits.
        loss: ``"ce"``, a function or module of logits and labels that returns one value per sample (n,), or a
            :class:`~sharpness.steps.Loss`.
        train_counts: (C,) number of training images per class, for rules and losses that treat classes differently.
        epochs: number of epochs of the training; losses and rules that depend on it, such as deferred re-weighting, are
            refused without it. They also need :meth:`Stepper.begin_epoch`.
        seed: seed of the rule's random numbers; with :meth:`Stepper.begin_epoch` they are those of ``sharpness.train``.

    Returns:
        The stepper.

    Raises:
        UserError: not a gradient rule, a rule that needs an argument that was not given or another network, a loss that
            is not a function, parameters of another network, a trainable parameter that the optimizer lacks, or an
            optimizer whose steps need a closure.
    """
    found = _rule_of(rule)
    if isinstance(found, COUNTED) and train_counts is None:
        raise UserError(f"rule={rule!r} treats classes by their size: give train_counts=, one number for each class")
    if loss != "ce" and not callable(loss):
        raise UserError(f"loss={loss!r}: give 'ce', or a function of logits and labels")
    if epochs is not None:
        require_whole("epochs", epochs, 1)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"{type(optimizer).__name__} evaluates the loss several times in a step (closure): take an optimizer that "
            "uses one gradient, such as SGD or AdamW"
        )
    whole = _Whole(network, loss, _trained(optimizer, network, loss))
    if isinstance(found, ModelPerturbation):
        found.perturbed_weights(network)  # raises if it has no convolutions
    # Empty if not given: a loss that depends on the counts must fail, and would broadcast a single number.
    counts = torch.as_tensor([] if train_counts is None else train_counts)
    if not isinstance(loss, Loss):
        loss = _OfFunction(partial(F.cross_entropy, reduction="none") if isinstance(loss, str) else loss)
    return Stepper(optimizer, found, whole, loss, counts, epochs, seed)


class Stepper:
    """Steps of an optimizer with gradients determined by a rule; created by :func:`wrap`.

    Attributes:
        optimizer: the wrapped optimizer.
        rule: the rule.
        epoch: number of the epoch, from 1.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rule: Any, network: nn.Module, loss: Loss, counts: Tensor,
        epochs: int | None, seed: int,
    ) -> None:  # fmt: skip
        self.optimizer, self.rule, self.epoch = optimizer, rule, 1
        self._network, self._loss, self._seed = network, loss, seed
        self._counts, self._epochs = counts, epochs
        self._context = self._context_of(1)
        self._of_epoch = None if isinstance(rule, EpochRule) else rule

    def begin_epoch(self, epoch: int, batches: Iterable[tuple[Tensor, Tensor]] | None = None) -> None:
        """Begin an epoch; its random numbers depend only on its number and the seed.

        Args:
            epoch: number of the epoch, from 1.
            batches: training batches (inputs, labels) for rules that look at data before an epoch, such as FS-DGPM.

        Raises:
            UserError: an epoch below 1 or beyond the last, or no batches for a rule that needs them.
        """
        if epoch < 1:
            raise UserError(f"epoch={epoch}: epochs begin at 1")
        if self._epochs is not None and epoch > self._epochs:
            raise UserError(f"epoch={epoch}: the training has {self._epochs}, give their number by wrap(..., epochs=)")
        self.epoch, self._context = epoch, self._context_of(epoch)
        if isinstance(self.rule, EpochRule):
            if batches is None:
                raise UserError(f"{type(self.rule).__name__} looks at data before an epoch: give batches=")
            made = (Batch(x, labels) for x, labels in batches)
            self._of_epoch = self.rule.for_epoch(self._network, made, self._context)

    def step(self, x: Tensor, labels: Tensor, second: Tensor | None = None, lam: float = 1.0) -> Tensor:
        """Make a step on a batch, and return its loss before the step, detached.

        Args:
            x: inputs.
            labels: (n,) labels.
            second: (n,) second labels of mixed inputs.
            lam: weight of ``labels``; ``second`` has the rest.

        Raises:
            UserError: the rule looks at data before an epoch, and no epoch has begun; the loss does not return one
                value per sample; or the loss or rule depends on the number of epochs, which was not given.
        """
        if self._of_epoch is None:
            raise UserError(
                f"{type(self.rule).__name__} looks at data before an epoch: call begin_epoch({self.epoch}, batches)"
            )
        self.optimizer.zero_grad(set_to_none=True)
        # The caller's autocast may contain several steps, but keeps copies of the weights, see ``perturbed``.
        torch.clear_autocast_cache()
        try:
            value = self._of_epoch.backward(self._network, Batch(x, labels, second, lam), self._loss, self._context)
        except (IndexError, RuntimeError) as error:
            if not len(self._counts):
                error.add_note("train_counts= was not given to wrap: give it if the loss depends on it")
            raise
        self.optimizer.step()
        torch.clear_autocast_cache()
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizer and of the random number generators, and the epoch."""
        numbers = [g.get_state() for g in (self._context.generator, self._context.noise)]
        return {"optimizer": self.optimizer.state_dict(), "epoch": self.epoch, "random": numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state saved by :meth:`state_dict`.

        Rules that look at data before an epoch need :meth:`begin_epoch` again before the next step.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self._context = state["epoch"], self._context_of(state["epoch"])
        self._of_epoch = None if isinstance(self.rule, EpochRule) else self.rule
        for generator, numbers in zip((self._context.generator, self._context.noise), state["random"], strict=True):
            generator.set_state(numbers)

    def _context_of(self, epoch: int) -> Context:
        generators = epoch_generator(self._seed, 0, epoch), epoch_generator(self._seed, 0, epoch, "/rule")
        device = next(self._network.parameters()).device
        if self._epochs is None:
            return _EndlessContext(self._counts.to(device), epoch, *generators)
        return Context(self._counts.to(device), epoch, self._epochs, *generators)


@dataclass(frozen=True)
class _EndlessContext(Context):
    """A context without the number of epochs; a loss or rule that reads it is refused."""

    # Not an argument, so that ``dataclasses.replace`` does not read it.
    epochs: int = field(init=False, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name == "epochs":
            raise UserError("the loss or rule depends on the number of epochs: give wrap(..., epochs=)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _Whole(nn.Module):
    """A network in the form that rules expect: a backbone whose features are the logits, and an identity head.

    What else is trained is ``auxiliary``: a loss that is a module, and parameters of the optimizer that are nowhere
    else. Rules would otherwise leave it where it is, and the gradients of all their passes in its ``.grad``.
    """

    def __init__(self, network: nn.Module, loss: Any, trained: Sequence[Tensor]) -> None:
        super().__init__()
        self.backbone, self.head = network, nn.Identity()
        self.auxiliary = nn.ModuleList([loss] if isinstance(loss, nn.Module) else [])
        known, others = {id(p) for p in self.parameters()}, nn.Module()
        # Not a ``ParameterList``, which would copy tensors that are not an ``nn.Parameter``.
        others._parameters.update({f"{i}": p for i, p in enumerate(trained) if id(p) not in known})  # type: ignore
        self.auxiliary.append(others)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


class _OfFunction(Loss):
    """A loss from a function that returns one value per sample; the mean is taken over samples."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        losses = self.function(logits, labels)
        if losses.shape != labels.shape[:1]:
            raise UserError(
                f"the loss gave shape {tuple(losses.shape)} for {len(labels)} samples: let it return one value for "
                "each, such as torch.nn.CrossEntropyLoss(reduction='none')"
            )
        return losses, torch.ones_like(losses)


def _trained(optimizer: torch.optim.Optimizer, network: nn.Module, loss: Any) -> list[Tensor]:
    """Return the parameters of an optimizer.

    Raises:
        UserError: none is a parameter of the network, or it lacks a trainable parameter of the network or the loss.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    owned = {id(p) for p in trained}
    if not owned & {id(p) for p in network.parameters()}:
        raise UserError("the optimizer has no parameter of this network: give the network that it trains")
    for kind, module in (("network", network), ("loss", loss)):
        for name, p in module.named_parameters() if isinstance(module, nn.Module) else ():
            if p.requires_grad and id(p) not in owned:
                raise UserError(
                    f"the optimizer lacks {name} of the {kind}, which is trainable: add it to the optimizer, or freeze "
                    "it by requires_grad_(False)"
                )
    return trained


def _rule_of(rule: Any) -> Any:
    """Return a rule given by its name or as an object.

    Raises:
        UserError: an operation that is not a gradient rule.
    """
    found = rule
    if rule == CC_SAM:
        found = ClassConditionalStep()
    elif isinstance(rule, str):
        found = build_operation(rule)
    if isinstance(found, PoF) or not (hasattr(found, "backward") or isinstance(found, EpochRule)):
        raise UserError(
            f"rule={rule!r} changes a training rather than the gradient of a step: take sharpness.train(flatten=...)"
        )
    return found
