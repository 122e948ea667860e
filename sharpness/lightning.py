"""Callback of Lightning: the sharpness of a training over its epochs, for the extra ``lightning``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import nn

from sharpness.errors import UserError
from sharpness.methods.events import changes
from sharpness.probes.measures.monitor import Monitor
from sharpness.probes.measures.recorder import USUAL
from sharpness.results.history import History

#: Packages of Lightning, either of which a trainer may be of.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback() -> type[Any]:
    """The base class of callbacks: that of the package that is in use, else of the first that is installed."""
    for name in sorted(PACKAGES, key=lambda one: one not in sys.modules):
        with suppress(ImportError):
            return import_module(name).Callback
    raise UserError("sharpness.lightning needs Lightning: pip install 'sharpness[lightning]'")


class SharpnessCallback(_callback()):  # type: ignore[misc]
    """A :class:`~sharpness.Monitor` that a Lightning trainer steps at the end of every training epoch.

    Values are logged as ``sharpness/MEASURE/SUBSET``, drops of the learning rate are events, and the state is part of
    Lightning's checkpoints.

    Args:
        data: training images without augmentation, as :class:`~sharpness.Objective` takes them.
        every, budget, measures: of :class:`~sharpness.Monitor`.
        network: gives the network of the module whose outputs are logits; the module itself unless given.
        options: of :class:`~sharpness.Monitor`.

    .. code-block:: python

        watch = SharpnessCallback((x, y), groups={"many": (0, 1), "few": (2,)})
        Trainer(callbacks=[watch]).fit(module, loader)
        watch.history.plot()
    """

    def __init__(
        self,
        data: Any,
        every: int = 1,
        budget: float = 0.1,
        measures: str | Sequence[str] = USUAL,
        *,
        network: Callable[[Any], nn.Module] = lambda module: module,
        **options: Any,
    ) -> None:
        self._arguments: dict[str, Any] = {"every": every, "budget": budget, "measures": measures, **options}
        self._data, self._network = data, network
        self._monitor: Monitor | None = None
        self._saved: dict[str, Any] = {}
        self._rates: list[float] = []

    @property
    def monitor(self) -> Monitor:
        """The monitor of the training.

        Raises:
            UserError: no training has begun.
        """
        if self._monitor is None:
            raise UserError("no training has begun: give the callback to a Trainer and fit")
        return self._monitor

    @property
    def history(self) -> History:
        """All that was measured."""
        return self.monitor.history

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the monitor, whose time begins here."""
        self._monitor = Monitor(self._network(pl_module), self._data, **self._arguments)
        if self._saved:
            self._monitor.load_state_dict(self._saved["monitor"])
            self._rates = list(self._saved["rates"])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, and log what was measured."""
        lr = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None
        event = ""
        if lr is not None:
            self._rates.append(float(lr))
            event = changes([""] * len(self._rates), self._rates)[-1]
        for row in self.monitor.step(trainer.current_epoch + 1, lr, event) or ():
            pl_module.log(f"sharpness/{row['measure']}/{row['of']}", row["value"])

    def state_dict(self) -> dict[str, Any]:
        """The state for Lightning's checkpoints."""
        return {} if self._monitor is None else {"monitor": self._monitor.state_dict(), "rates": list(self._rates)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, when the training begins."""
        self._saved = state_dict
