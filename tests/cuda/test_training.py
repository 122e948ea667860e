"""Every method and every flattening operation on another device: ten steps in float64 as on the CPU, then what runs."""

import math

import pytest
import torch

from sharpness import train
from sharpness.data import ImageSet
from sharpness.flattening import OPERATIONS
from sharpness.methods import METHODS
from sharpness.training import loop
from sharpness.training.state import RunFolder

#: Torch takes the device that pretending tensors name for one without numbers.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
#: Weights after ten steps, relative to their length: rounding of 1e-16 grows a thousandfold a few times over.
TOLERANCE = 1e-7
VARIANTS = [
    ("cc-sam", {"scope": "last_block"}),
    ("cc-sam", {"scope": "all", "rho_scale": 0.003}),
    ("cc-sam", {"released_code": True}),
    ("crt", {"shift_batchnorm": True}),
    ("balanced-softmax", {"decoupled": True}),
]


@pytest.fixture
def in_float64(monkeypatch):
    """Networks, images and random numbers in double precision."""

    def normalize(images, x):
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device=x.device)[:, None, None] for v in (images.mean, images.std)
        )
        return (x.double() / 255 - mean) / std

    monkeypatch.setattr(ImageSet, "normalize", normalize)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same_run(tmp_path, data, device, method, **options):
    """The weights of ten steps on the CPU and on the device, as vectors."""
    found = []
    for where in ("cpu", device):
        out = tmp_path / str(where)
        history = train(method, data, out, epochs=2, batch_size=76, device=where, precision="float32", **options)
        state = torch.load(out / "last.pt", weights_only=True)["state_dict"]
        assert all(t.dtype is torch.float64 for t in state.values() if t.is_floating_point())
        found.append(torch.cat([t.cpu().double().reshape(-1) for t in state.values()]))
        assert history.accuracy.between(0, 1).all()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_ten_steps_of_a_method(method, tmp_path, few_digits, device, in_float64):
    on_cpu, on_device = same_run(tmp_path, few_digits, device, method)
    assert float((on_device - on_cpu).norm() / on_cpu.norm()) < TOLERANCE


@pytest.mark.parametrize("method, options", VARIANTS, ids=lambda v: "-".join(map(str, v)) if isinstance(v, dict) else v)
def test_ten_steps_of_a_variant(method, options, tmp_path, few_digits, device, in_float64):
    on_cpu, on_device = same_run(tmp_path, few_digits, device, method, **options)
    assert float((on_device - on_cpu).norm() / on_cpu.norm()) < TOLERANCE


@pytest.mark.parametrize("operation", OPERATIONS)
def test_ten_steps_of_an_operation(operation, tmp_path, few_digits, device, in_float64):
    on_cpu, on_device = same_run(tmp_path, few_digits, device, "ldam-drw", flatten=(operation,))
    assert float((on_device - on_cpu).norm() / on_cpu.norm()) < TOLERANCE


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_in_reduced_precision(method, tmp_path, few_digits, device):
    history = train(method, few_digits, tmp_path / "run", epochs=1, batch_size=76, device=device, precision="bfloat16")
    losses = [loss for loss in history.loss if not math.isnan(loss)]  # a stage without epochs has none
    assert losses
    assert all(math.isfinite(loss) for loss in [*losses, *history.test_loss])


def test_a_run_is_resumed_on_the_device(tmp_path, few_digits, device, monkeypatch, in_float64):
    """Its state, momentum and average included, is read back to where it was.

    In double precision: two runs of one seed differ by rounding there, where atomic sums come in any order, and in
    float32 that grows to a hundredth within three epochs.
    """
    settings = {"epochs": 3, "batch_size": 76, "device": device, "precision": "float32", "flatten": ("swa:0.3",)}
    train("ldam-drw", few_digits, tmp_path / "whole", **settings)
    save = RunFolder.save

    def dying(folder, state):
        save(folder, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", dying)
        patch.setattr(loop, "SECONDS_LOST", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train("ldam-drw", few_digits, tmp_path / "parts", **settings)
    train("ldam-drw", few_digits, tmp_path / "parts", resume=True, **settings)
    whole, parts = (torch.load(tmp_path / n / "last.pt", weights_only=True)["state_dict"] for n in ("whole", "parts"))
    for name, t in whole.items():
        torch.testing.assert_close(parts[name], t, rtol=0, atol=1e-6)
