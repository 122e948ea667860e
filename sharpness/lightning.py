"""Lightning callback that measures sharpness during training (extra ``lightning``)."""

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

#: Packages of Lightning; a trainer may come from either.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback() -> type[Any]:
    """Return the base class of callbacks: that of the imported package, else that of the first installed one."""
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
        every, budget, measures: see :class:`~sharpness.Monitor`.
        network: function that returns the network whose outputs are logits, given the module; by default the module.
        options: other options of :class:`~sharpness.Monitor`.

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
        """Everything that was measured."""
        return self.monitor.history

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Create the monitor; its time starts here."""
        self._monitor, self._rates = Monitor(self._network(pl_module), self._data, **self._arguments), []
        self._restore()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Continue from a state that was loaded after the fit had started, as FSDP and DeepSpeed do."""
        self._restore()

    def _restore(self) -> None:
        # A saved state is used once: another training with this callback starts from nothing.
        saved, self._saved = self._saved, {}
        if saved:
            self.monitor.load_state_dict(saved["monitor"])
            self._rates = list(saved["rates"])

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
        """Continue from a saved state when the training begins."""
        self._saved = state_dict
