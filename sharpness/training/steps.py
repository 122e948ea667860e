"""Training steps, either launched kernel by kernel or replayed as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from sharpness.steps import Batch, Context, Loss, Rule, Shards

logger = logging.getLogger("sharpness")
T = TypeVar("T")


class Steps:
    """The steps of a stage, launched one operation at a time.

    Args:
        network: network to train.
        optimizer: optimizer of the stage.
        loss: loss of the stage.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
        self.network, self.optimizer, self.loss = network, optimizer, loss

    def __call__(self, rule: Rule, batch: Batch | Shards, context: Context) -> Tensor:
        """Make a step on a batch, and return the loss before the step, a detached scalar."""
        self.optimizer.zero_grad(set_to_none=True)
        value = rule.backward(self.network, batch, self.loss, context)
        self.optimizer.step()
        return value


def stage_steps(
    network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, rule: Any, device: torch.device
) -> Steps:
    """Return replayed steps if device, loss and rule allow it, else plain ones."""
    replayed = device.type == "cuda" and loss.capturable and getattr(rule, "capturable", False)
    return (ReplayedSteps if replayed else Steps)(network, optimizer, loss)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Use a separate stream on a GPU, which capturing requires; do nothing on other devices."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            yield
        before.wait_stream(stream)


@dataclass(frozen=True)
class WatchedContext(Context):
    """A context that records reads of the epoch; a step that depends on the epoch is captured again in every epoch."""

    looked: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name == "epoch":
            object.__getattribute__(self, "looked").add(name)
        return super().__getattribute__(name)


@dataclass
class Capture:
    """A captured step: its input tensors, its replay and its loss."""

    key: tuple[Any, ...]
    batch: Batch
    noise: list[Tensor]
    replay: Callable[[], None]
    loss: Tensor


class ReplayedSteps(Steps):
    r"""The steps of a stage as replays of a CUDA graph: the same kernels with the same inputs, in a single launch.

    A step of a ResNet-32 on 64 or 128 small images has about 700 kernels of 3 us each; launching them one by one takes
    four times as long as running them. The following goes beyond a single capture:

    1. The first batch of each size is computed without a graph. It creates what a capture cannot create, such as
       momentum buffers, and shows which random numbers the loss draws.
    2. Before each replay, random numbers are drawn on the CPU, with the same generator and in the same order as in
       plain steps, and copied to separately allocated memory. Memory allocated during the capture would not do, because
       the graph may use it for something else before the numbers are read.
    3. Learning rates, and everything that a loss derives from the epoch, are constants of a graph. A graph is captured
       again when a learning rate has changed, and in every epoch if the step reads the epoch.
    4. Batches that occur once per epoch, such as an incomplete last one, are not captured if this would be necessary in
       every epoch.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
        super().__init__(network, optimizer, loss)
        self._shapes: dict[int, list[torch.Size]] = {}  # shapes of the random numbers of a batch, by batch size
        self._captures: dict[int, Capture] = {}
        self._by_epoch = self._refused = False

    def __call__(self, rule: Rule, batch: Batch | Shards, context: Context) -> Tensor:
        if isinstance(batch, Shards):  # communication between processes is not captured
            return super().__call__(rule, batch, context)
        # The numbers in comments refer to the docstring of the class.
        size = len(batch.x)
        if size not in self._shapes:  # 1
            return self._noted(rule, batch, context)
        rates = tuple(group["lr"] for group in self.optimizer.param_groups)
        key = (rates, id(rule), context.epoch if self._by_epoch else None)  # 3
        capture = self._captures.get(size)
        if capture is None or capture.key != key:
            if self._refused or (self._by_epoch and size < max(self._shapes)):  # 4
                return super().__call__(rule, batch, context)
            try:
                capture = self._captures[size] = self.capture(key, rule, batch, context)
            except RuntimeError as error:
                logger.warning("steps are not replayed but launched one by one: %s", str(error).splitlines()[0])
                self._refused = True
                return super().__call__(rule, batch, context)
        into = capture.batch
        into.x.copy_(batch.x)
        into.first.copy_(batch.first)
        if into.second is not None and batch.second is not None and isinstance(into.lam, Tensor):
            into.second.copy_(batch.second)
            into.lam.fill_(batch.lam)
        for noise in capture.noise:  # 2
            noise.copy_(context.draw(noise.shape, context.generator, noise.device))
        capture.replay()
        return capture.loss

    def _noted(self, rule: Rule, batch: Batch, context: Context) -> Tensor:
        """Make a plain step, and record which random numbers it draws and whether it reads the epoch."""
        shapes: list[torch.Size] = []

        def draw(shape: torch.Size, generator: Generator, device: torch.device) -> Tensor:
            shapes.append(shape)
            return context.draw(shape, generator, device)

        watched = WatchedContext(**{**vars(context), "draw": draw})
        value = super().__call__(rule, batch, watched)
        self._by_epoch |= bool(watched.looked)
        self._shapes[len(batch.x)] = shapes
        return value

    def capture(self, key: tuple[Any, ...], rule: Rule, like: Batch, context: Context) -> Capture:
        """Capture a step for batches of the shape of ``like``, without executing it."""
        device = like.x.device
        batch = replace(like, x=torch.empty_like(like.x), first=torch.empty_like(like.first))
        if like.second is not None:
            lam = torch.empty((), dtype=torch.float64, device=device)
            batch = replace(batch, second=torch.empty_like(like.second), lam=lam)
        noise = [torch.empty(shape, device=device) for shape in self._shapes[len(like.x)]]

        def step() -> Tensor:
            left = iter(noise)
            inside = replace(context, draw=lambda shape, generator, on: next(left))
            return Steps.__call__(self, rule, batch, inside)

        self.optimizer.zero_grad(set_to_none=True)  # so that gradients are allocated in the memory of the graph
        replay, loss = record(step, device)
        return Capture(key, batch, noise, replay, loss)


class Replays:
    """Calls of functions of tensors, each replayed as a CUDA graph from its second call on.

    This is for computations at fixed weights between steps, such as M2m's translations. They must have fixed shapes,
    draw no random numbers, and use operations that do not depend on values.
    """

    def __init__(self) -> None:
        self._called: set[tuple[Any, ...]] = set()
        self._refused = False
        self._captures: dict[tuple[Any, ...], tuple[Any, Callable[[], None], tuple[Tensor, ...]]] = {}

    def __call__(self, name: Hashable, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Any:
        """Return ``function(*inputs)``; the next call with the same name and shapes overwrites the result."""
        key = (name, *(t.shape for t in inputs))
        if key not in self._called:  # the first use of a kernel may allocate what cannot be captured
            self._called.add(key)
            return function(*inputs)
        if key not in self._captures:
            if self._refused:
                return function(*inputs)
            kept = [t.clone() for t in inputs]
            try:
                self._captures[key] = kept, *record(lambda: function(*kept), inputs[0].device)
            except RuntimeError as error:
                logger.warning("calls are not replayed but launched one by one: %s", str(error).splitlines()[0])
                self._refused = True
                return function(*inputs)
        kept, replay, outputs = self._captures[key]
        for into, t in zip(kept, inputs, strict=True):
            into.copy_(t)
        replay()
        return outputs


def record(function: Callable[[], T], device: torch.device) -> tuple[Callable[[], None], T]:
    """Capture a call as a CUDA graph; return the function that replays it and the result that a replay overwrites."""
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # torch.cuda.graph() is not used because it collects garbage and releases all cached memory at every capture.
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        result = function()
    finally:
        graph.capture_end()
    return graph.replay, result
