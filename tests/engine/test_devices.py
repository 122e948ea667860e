"""Settings of a GPU's arithmetic inside probes, and as they were afterwards."""

import pytest
import torch

from sharpness.engine.devices import full_precision

cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul


def settings():
    flags = cudnn.deterministic, cudnn.benchmark
    if hasattr(cudnn, "conv"):
        return *flags, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision
    return *flags, cudnn.allow_tf32, matmul.allow_tf32


@pytest.fixture
def initialized(monkeypatch):
    """The settings exist without a GPU, and are left alone as long as none is used."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)


@pytest.mark.usefixtures("initialized")
def test_float32_is_whole_inside_and_settings_are_put_back():
    usual = settings()

    @full_precision()
    def inside():
        with full_precision():
            pass
        return settings()

    assert inside() == inside()
    assert inside()[:2] == (True, False)
    assert not {"tf32", "none", True} & set(inside()[2:])
    assert settings() == usual
    with pytest.raises(ZeroDivisionError), full_precision():
        _ = 1 / 0
    assert settings() == usual


@pytest.mark.usefixtures("initialized")
def test_settings_of_the_older_kind_stay_readable():
    allowed = cudnn.allow_tf32, matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        before = settings()
        with full_precision():
            assert not {"tf32", True} & set(settings()[2:])
        assert settings() == before
        assert matmul.allow_tf32
        assert cudnn.allow_tf32 == allowed[0]
    finally:
        matmul.allow_tf32 = allowed[1]


def test_nothing_is_set_where_no_gpu_is_used():
    usual = settings()
    with full_precision():
        assert settings() == usual
