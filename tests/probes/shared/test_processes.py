"""Under torchrun the points are shared, and the numbers are those of one process."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sharpness import load_data, load_result, random_perturbation, train
from sharpness.cli import main
from sharpness.probes import checkpoint_objective

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sharpness"]
SCRIPT = """
import sys
import sharpness
from sharpness.engine import distributed
from sharpness.probes import checkpoint_objective
distributed.start()
for policy in ("eval", "recalibrate"):
    objective = checkpoint_objective(sys.argv[1], split="test", limit_per_class=4, device="cpu", batchnorm=policy)
    found = sharpness.random_perturbation(objective, [0.0, 0.1], 3, resume=sys.argv[2] + "/store")
    found.save(f"{sys.argv[2]}/{policy}-{distributed.rank()}.nc")
distributed.stop()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "run"
    train("ldam-drw", load_data("digits-lt"), out=folder, epochs=1)
    return folder


def assert_equal(found, alone):
    for name, values in alone.to_dataset().variables.items():
        if values.dtype.kind == "f":
            scale = np.nanmax(np.abs(values.values), initial=1e-30)
            np.testing.assert_allclose(found.to_dataset()[name].values, values.values, rtol=0, atol=1e-6 * scale)
        else:
            np.testing.assert_array_equal(found.to_dataset()[name].values, values.values)


@pytest.mark.slow
def test_a_landscape_on_the_command_line_has_the_numbers_of_one_process(run, tmp_path):
    """An adaptive plane, and a line of all its points."""
    common = [
        "landscape", str(run), "--plane", "9", "--line", "4", "--adaptive", "0.05", "--limit-per-class", "2",
        "--split", "test", "--device", "cpu", "--of", "0",
    ]  # fmt: skip
    assert main([*common, "--out", str(tmp_path / "one")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*LAUNCH, *common, "--out", str(tmp_path / "two")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "one").glob("*.nc"):
        assert_equal(load_result(tmp_path / "two" / path.name), load_result(path))
    assert len(list((tmp_path / "two").glob("*.nc"))) == 2
    assert not (tmp_path / "two" / ".partial").exists()


def test_every_process_has_all_draws_of_a_perturbation(run, in_two_processes, tmp_path):
    in_two_processes(SCRIPT, run, tmp_path)
    for policy in ("eval", "recalibrate"):
        objective = checkpoint_objective(run, split="test", limit_per_class=4, device="cpu", batchnorm=policy)
        alone = random_perturbation(objective, [0.0, 0.1], 3)
        for rank in (0, 1):
            assert_equal(load_result(tmp_path / f"{policy}-{rank}.nc"), alone)
