"""A monitor of sharpness during training, limited to a fraction of its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import nn

from sharpness.data import LongTailData, read_once
from sharpness.engine import distributed
from sharpness.errors import UserError, require_whole
from sharpness.objective import Objective
from sharpness.probes.measures.recorder import LAMBDA, USUAL, Recorder, small_sample
from sharpness.probes.shared.cost import Cost
from sharpness.results.history import COLUMNS, History, events_by


class Monitor:
    """A monitor that records the sharpness of all samples and of every group during training, in any training loop.

    Call :meth:`step` at the end of every epoch. It measures a small fixed sample of every class with the model
    temporarily in eval mode, and restores the model, its mode and the states of all random number generators. It never
    takes more than the fraction ``budget`` of the time since its creation: a measurement that would exceed it is
    postponed to a later epoch. Eigenvalue iterations start from the vectors of the previous measurement. The largest
    eigenvalue of a group is that of the loss over all its samples; all other values of a group are means over its
    classes.

    Args:
        model: the model that is being trained.
        data: training images without augmentation, as :class:`~sharpness.Objective` takes them, or a long-tailed data
            set of this package, whose training images and groups are used.
        every: minimum number of epochs between measurements.
        budget: maximum fraction of the time, above 0 and at most 1.
        measures: names of measures; by default the largest eigenvalue, the loss and the accuracy.
        log: function that is called with the rows (dictionaries) of each measurement.
        samples: number of samples per class.
        seed: seed of the samples and of the first starting vectors.
        clock: function that returns the time in seconds.
        options: options of :class:`~sharpness.Objective`, such as ``groups``.

    Raises:
        UserError: settings out of range, or an unknown measure.

    >>> import torch
    >>> model, data = nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> monitor = Monitor(model, data, budget=1.0, measures="loss")
    >>> rows = monitor.step(1)
    >>> [row["measure"] for row in rows], 0 < monitor.share <= 1
    (['loss'], True)
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        every: int = 1,
        budget: float = 0.1,
        measures: str | Sequence[str] = USUAL,
        log: Callable[[list[dict[str, Any]]], object] | None = None,
        *,
        samples: int = 8,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        require_whole("every", every, 1)
        require_whole("samples", samples, 1)
        if not 0 < budget <= 1:
            raise UserError(f"budget={budget}: give a share of the time, above 0 and at most 1")
        self.model, self.every, self.budget, self.log = model, every, budget, log
        self.recorder = Recorder(measures, seed=seed)
        if isinstance(data, LongTailData):
            known = {"num_classes": data.num_classes, "class_names": data.class_names, "groups": data.groups}
            data, options = data.train, {**known, "train_counts": data.train_counts, **options}
        # The objective is made at the first step, when weights are on their device, and again if parameters change.
        # The data are read only once, because the first objective would use up an iterator.
        self._data, self._options = read_once(data), options
        self._samples, self._seed, self._clock = samples, seed, clock
        self._objective: Objective | None = None
        self._parameters: list[tuple[int, bool]] = []
        self._rows: list[dict[str, Any]] = []
        self._begin, self._before = clock(), 0.0
        self.spent, self._longest = 0.0, 0.0
        self._events: dict[float, str] = {}
        self.measured, self.calls, self._last = 0, 0, 0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, including earlier parts of a resumed training."""
        return self._before + self._clock() - self._begin

    @property
    def share(self) -> float:
        """The fraction of the time spent on measuring."""
        return self.spent / max(self.elapsed, 1e-12)

    @property
    def history(self) -> History:
        """All measurements so far."""
        return History(pd.DataFrame(self._rows, columns=list(COLUMNS)))

    def step(self, epoch: float | None = None, lr: float | None = None, event: str = "") -> list[dict[str, Any]] | None:
        """Measure, if a measurement is due and the budget allows another one as long as the longest so far.

        Args:
            epoch: number of the epoch; by default the number of calls.
            lr: the learning rate, for the line 2 / lr in plots.
            event: an event, such as ``"stage 2"``; if nothing is measured now, it is kept for the next measurement.

        Returns:
            The rows, or None if nothing was measured.
        """
        self.calls += 1
        epoch = self.calls if epoch is None else epoch
        if event:
            self._events[epoch] = event
        if self.measured and (self.calls - self._last) < self.every:
            return None
        # Another stage may have a new head, or train other parameters.
        here = [(id(p), p.requires_grad) for p in self.model.parameters()]
        changed = self._objective is None or here != self._parameters
        if changed:
            self._look_ahead()
            self._parameters = here
        # The share must still be within the budget after a measurement as long as the longest so far.
        wait = self.spent + self._longest > self.budget * (self.elapsed + self._longest)
        # Processes share the samples of a measurement, so all or none must measure, whatever their clocks say.
        if distributed.total(torch.tensor(float(wait))):
            return None
        assert self._objective is not None
        begin = self._clock()
        with self._evaluating():
            # A model in half precision is measured in a copy, and a temperature is fitted to the weights of when the
            # objective was made.
            passing = self._objective.model is not self.model or self._objective.logits == "temperature"
            if passing and not changed:
                self._objective = self._small_objective()
            rows = self.recorder.rows(self._objective, epoch)
        took = self._clock() - begin
        self.spent, self.measured, self._last = self.spent + took, self.measured + 1, self.calls
        # The first measurement replaces the estimate that was made before it.
        self._longest = took if self.measured == 1 else max(self._longest, took)
        rows = [{**row, "share": self.share, "lr": lr, "event": events_by(epoch, self._events)} for row in rows]
        self._rows += rows
        self._events = {}
        if self.log is not None:
            self.log(rows)
        return rows

    def _look_ahead(self) -> None:
        """Prepare the sample, and estimate how long a measurement will take from single passes."""
        begin = self._clock()
        with self._evaluating():
            self._objective = self._small_objective()
            curvature = LAMBDA in self.recorder.names
            cost = Cost.of(self._objective, rows=int(curvature), gradients=False)
        # Once for all samples, and once for all groups together.
        products = 2 * self.recorder.max_iterations if curvature else 0
        self.spent += self._clock() - begin
        number = self._objective.num_samples
        if not self.measured:
            self._longest = max(self._longest, 10 * cost.forward(number) + products * cost.product(number))

    def _small_objective(self) -> Objective:
        return small_sample(Objective(self.model, self._data, **self._options), self._samples, self._seed)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Put the model into eval mode, and restore every module's mode afterwards."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed training continues with the same history, times and vectors."""
        return {
            "rows": list(self._rows), "elapsed": self.elapsed, "spent": self.spent, "measured": self.measured,
            "calls": self.calls, "last": self._last, "longest": self._longest, "vectors": dict(self.recorder.vectors),
            "events": dict(self._events),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state saved by :meth:`state_dict`."""
        self._rows, self.spent, self.measured = list(state["rows"]), state["spent"], state["measured"]
        self.calls, self._last, self._longest = state["calls"], state["last"], state["longest"]
        self._before, self._begin = state["elapsed"], self._clock()
        self.recorder.vectors = dict(state["vectors"])
        self._events = dict(state.get("events", {}))  # missing in states of earlier versions
