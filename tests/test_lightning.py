"""The callback of Lightning, with a stub of it where it is not installed."""

import sys
import types
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from sharpness import Objective, UserError

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0] * 12 + [1] * 6 + [2] * 2)


@pytest.fixture
def callback(monkeypatch):
    """The class, over a stub of Lightning."""
    stub = types.ModuleType("lightning.pytorch")
    stub.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", stub)
    monkeypatch.delitem(sys.modules, "sharpness.lightning", raising=False)
    from sharpness.lightning import SharpnessCallback

    yield SharpnessCallback
    sys.modules.pop("sharpness.lightning")


class Module(nn.Linear):
    """What the callback asks of a module of Lightning."""

    def __init__(self):
        super().__init__(3, 3, dtype=torch.float64)
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value


# Strategies whose restore_checkpoint_after_setup is true load states between the two hooks: FSDP, DeepSpeed.
@pytest.mark.parametrize("after_setup", [False, True])
def test_the_callback_measures_logs_and_resumes(callback, after_setup):
    module = Module()
    rates = [0.1, 0.1, 0.001]
    trainer = types.SimpleNamespace(current_epoch=0, optimizers=[torch.optim.SGD(module.parameters(), 0.1)])
    given = {"budget": 1.0, "measures": "loss", "samples": 20}
    first = callback((X, Y), **given)
    with pytest.raises(UserError, match="no training has begun"):
        _ = first.history
    assert first.state_dict() == {}
    first.on_fit_start(trainer, module)
    for epoch, rate in enumerate(rates[:2]):
        trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"] = epoch, rate
        first.on_train_epoch_end(trainer, module)
    assert module.logged["sharpness/loss/all"] == pytest.approx(Objective(module, (X, Y)).loss())
    second = callback((X, Y), **given)
    if not after_setup:
        second.load_state_dict(first.state_dict())
    second.on_fit_start(trainer, module)
    if after_setup:
        second.load_state_dict(first.state_dict())
    second.on_train_start(trainer, module)
    trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"] = 2, rates[2]
    second.on_train_epoch_end(trainer, module)
    assert sorted(set(second.history.to_frame()["epoch"])) == [1, 2, 3]
    assert second.history.events == {3.0: "lr 0.001"}


def test_another_training_with_the_same_callback_starts_from_nothing(callback):
    """Neither its history nor its first learning rate is compared with those of the first one."""
    module = Module()
    trainer = types.SimpleNamespace(current_epoch=0, optimizers=[torch.optim.SGD(module.parameters(), 0.1)])
    given = {"budget": 1.0, "measures": "loss", "samples": 20}
    earlier, watch = callback((X, Y), **given), callback((X, Y), **given)
    earlier.on_fit_start(trainer, module)
    earlier.on_train_epoch_end(trainer, module)
    watch.load_state_dict(earlier.state_dict())
    for epochs, rate, seen in (((1, 2), 0.1, [1, 2, 3]), ((0,), 0.01, [1])):
        watch.on_fit_start(trainer, module)
        for epoch in epochs:
            trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"] = epoch, rate
            watch.on_train_epoch_end(trainer, module)
        assert sorted(set(watch.history.to_frame()["epoch"])) == seen
    assert watch.history.events == {}


def test_without_lightning_the_remedy_is_named(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sharpness.lightning", raising=False)
    with pytest.raises(UserError, match="pip install"):
        import sharpness.lightning  # noqa: F401


@pytest.mark.skipif(find_spec("lightning") is None, reason="Lightning is not installed")
def test_a_trainer_of_lightning_runs_it(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from sharpness.lightning import SharpnessCallback

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X.float(), Y), 10)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    watch = SharpnessCallback((X.float(), Y), budget=1.0, samples=20)
    trainer = lightning.Trainer(max_epochs=2, callbacks=[watch], default_root_dir=tmp_path, **quiet)
    module = Net()
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "at.ckpt")
    assert sorted(set(watch.history.to_frame()["epoch"])) == [1, 2]
    expected = Objective(module.eval(), (X.float(), Y)).loss()
    assert float(trainer.callback_metrics["sharpness/loss/all"]) == pytest.approx(expected, rel=1e-5)
    again = SharpnessCallback((X.float(), Y), budget=1.0, samples=20)
    trainer = lightning.Trainer(max_epochs=3, callbacks=[again], default_root_dir=tmp_path, **quiet)
    trainer.fit(Net(), loader, ckpt_path=tmp_path / "at.ckpt")
    assert sorted(set(again.history.to_frame()["epoch"])) == [1, 2, 3]
