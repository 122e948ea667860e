"""Where bfloat16 is chosen."""

import pytest
import torch

from sharpness import train
from sharpness.errors import UserError
from sharpness.training.precision import autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [8, 32])
def test_a_precision_that_is_given_stands(precision, size):
    assert resolve_precision(precision, CPU, size) == precision


@pytest.mark.parametrize(
    ("native", "size", "expected"),
    [(True, 32, "bfloat16"), (True, 16, "bfloat16"), (True, 8, "float32"), (False, 32, "float32")],
)
def test_auto_takes_bfloat16_for_large_images_on_native_hardware(monkeypatch, native, size, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
    assert resolve_precision("auto", CPU, size) == expected
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", torch.device("cuda"), size) == expected


def test_an_unknown_precision_lists_the_known_ones():
    with pytest.raises(UserError, match="auto, float32, bfloat16"):
        resolve_precision("float16", CPU, 32)


def test_autocast_multiplies_in_bfloat16_when_asked():
    x = torch.ones(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, CPU)():
            assert (x @ x).dtype == dtype


@pytest.mark.parametrize("method", ["mislas", "cc-sam"])
def test_weights_stay_in_float32_under_autocast(digits, tmp_path, weights, method):
    history = train(method, digits, tmp_path / "run", epochs=2, precision="bfloat16")
    floating = {tensor.dtype for tensor in weights(tmp_path / "run").values() if tensor.is_floating_point()}
    assert floating == {torch.float32}
    assert history.loss.notna().all()
