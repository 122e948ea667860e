"""Studies and tables on processes, on Dask and on jobs of submitit: the same numbers, whoever is killed.

Every engine is started once; its workers import a small network from a module that lies beside these tests' files.
"""

import importlib.util
import logging
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import sharpness
from sharpness.cli import main
from sharpness.clusters import do_all, parcelled
from sharpness.clusters.engines import Jobs
from sharpness.clusters.parcel import LARGE
from sharpness.clusters.tasks import Task
from sharpness.locks import node
from sharpness.models import BACKBONES
from sharpness.studies import make_flattening_study

ROOT = Path(__file__).parents[2]
NETWORK = """
from torch import nn

class Small(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.num_features = 6
        self.layer = nn.Conv2d(in_channels, 6, 8)

    def forward(self, x):
        return self.layer(x).flatten(1).tanh()
"""
ENGINES = {"processes:2": None, "dask:local:2": "distributed", "local:1": "submitit"}
TABLE = {"measures": "loss,lambda_max,trace", "trace_draws": 2, "limit_per_class": 1}
STUDY = {"epochs": 1, "limit_per_class": 1, "draws": 2, "max_iterations": 60, "measures": "loss,lambda_max"}


@pytest.fixture(scope="module", autouse=True)
def network(tmp_path_factory, forked_pools):
    """The module of the network, where all processes find it, and one thread for every process."""
    folder, threads = tmp_path_factory.mktemp("site"), torch.get_num_threads()
    (folder / "small_network.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        here = str(Path(sharpness.__file__).parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), here, *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield "small_network:Small"
        torch.set_num_threads(threads)
    BACKBONES._things.pop("small_network:Small", None)  # registered where a study ran in this process
    sys.modules.pop("small_network", None)


@pytest.fixture(scope="module")
def data():
    return sharpness.load_data("digits-lt")


def study_of(data, network, folder, executor=None):
    return make_flattening_study(
        data, ("ce",), ("none", "swa"), (0,), folder / "out", folder / "runs", model=network, executor=executor, **STUDY
    )


@pytest.fixture(scope="module")
def here(data, network, tmp_path_factory):
    """The folder of a study that this process made, and its cells."""
    folder = tmp_path_factory.mktemp("here")
    return folder, study_of(data, network, folder).cells


# Jobs of submitit take the longest; the job script is one of them, too.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name == "local:1" else name for name in ENGINES],
)
def executor(request, network):
    needed = ENGINES[request.param]
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'sharpness[cluster]'")
    if needed is None:
        yield request.getfixturevalue("processes")
        return
    with ExitStack() as stack:
        if needed == "distributed":  # whose workers would load all anew, too
            config = importlib.import_module("dask.config")
            stack.enter_context(config.set({"distributed.worker.multiprocessing-method": "forkserver"}))
        yield stack.enter_context(sharpness.cluster(request.param))


def same(found, expected):
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), check_exact=True)


def test_a_study_and_the_table_of_a_folder_are_the_same_on_every_engine(executor, here, data, network, tmp_path):
    folder, cells = here
    pd.testing.assert_frame_equal(study_of(data, network, tmp_path, executor).cells, cells, check_exact=True)
    assert not list((tmp_path / "runs").glob(".*"))  # what was sent is removed
    runs = folder / "runs"
    same(sharpness.measure(runs, **TABLE, executor=executor), sharpness.measure(runs, **TABLE))


def test_the_line_of_the_readme_works_as_written(executor, here, tmp_path, monkeypatch):
    """On the workers that it names, which this module has started already."""
    (line,) = re.findall(r"`sharpness (measure [^`]* --cluster [^`]*)`", (ROOT / "README.md").read_text())
    *words, _, address = line.split()
    assert address == "dask:local:2"
    if executor.name != f"the scheduler {address}":
        pytest.skip("the line is for Dask")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(here[0] / "runs")
    monkeypatch.setattr(sharpness, "cluster", lambda given: nullcontext({address: executor}[given]))
    assert main([*words, "--cluster", address, "--limit-per-class", "1"]) == 0
    assert main([*words[:-1], "here.csv", "--limit-per-class", "1"]) == 0
    assert Path("demo.csv").read_bytes() == Path("here.csv").read_bytes()


def killed_once(mark, number):
    """Kills its worker the first time that number 2 is done; every call leaves a line."""
    with (mark / str(number)).open("a") as lines:
        lines.write("done\n")
    if number == 2 and len((mark / "2").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_a_worker_that_is_killed_loses_the_task_that_it_was_at(executor, tmp_path):
    found = dict(do_all(executor, {i: partial(killed_once, tmp_path, i) for i in range(5)}))
    assert found == {i: i**2 for i in range(5)}
    assert (tmp_path / "2").read_text().splitlines() == ["done", "done"]


@pytest.fixture(scope="module")
def processes(network):
    """Two processes that several tests share."""
    with sharpness.cluster("processes:2") as found:
        yield found


def patient(mark):
    """Ends when it is told to, and tells how often it began."""
    with (mark / "begun").open("a") as lines:
        lines.write("begun\n")
    while not (mark / "end").exists():
        time.sleep(0.05)
    return len((mark / "begun").read_text().splitlines())


def deadly(mark):
    """Kills its worker, once another one has begun."""
    while not (mark / "begun").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_death_is_that_of_one_task_and_the_others_go_on(processes, tmp_path):
    other, dying = processes.submit(patient, tmp_path), processes.submit(deadly, tmp_path)
    try:
        with pytest.raises(sharpness.UserError, match="workers ended 3 times at one task"):
            dying.result(60)
    finally:
        (tmp_path / "end").touch()
    assert other.result(60) == 1


class Engine:
    """Stands for submitit: its jobs end when they are looked at for the fourth time."""

    def __init__(self):
        self.at_work, self.most = [], 0

    def batch(self):
        return nullcontext()

    def submit(self, call, *arguments):
        self.at_work.append(looks := [])
        self.most = max(self.most, len(self.at_work))

        def result():
            self.at_work.pop()
            return call(*arguments)

        return SimpleNamespace(done=lambda: looks.append(1) or len(looks) > 3, result=result)


def test_tasks_that_come_later_wait_for_a_free_job():
    pytest.importorskip("submitit")
    with Jobs("local", 2, {}) as executor:
        executor._jobs = engine = Engine()
        early = [executor.submit(pow, i, 2) for i in range(5)]
        while not engine.at_work:
            time.sleep(0.01)
        late = [executor.submit(pow, i, 3) for i in range(5)]
        assert [f.result(60) for f in early + late] == [i**2 for i in range(5)] + [i**3 for i in range(5)]
    assert engine.most == 2


@pytest.fixture(scope="module")
def run(here):
    return here[0] / "runs" / "digits-lt-ce-seed0"


def test_classes_and_points_of_a_plane_are_the_same_in_other_processes(processes, run):
    """Two processes suffice: what is sent and how it comes back is one path for all engines."""
    classes = partial(sharpness.measure, run, **TABLE)
    density = partial(sharpness.spectral_density, run, True, 2, 3, options={"limit_per_class": 1})
    plane = partial(sharpness.plane, run, (-1, 1, 5), (-1, 1, 5), adaptive=0.05, options={"limit_per_class": 1})
    rises = partial(sharpness.random_perturbation, run, [0.05, 0.1], 3, options={"limit_per_class": 1})
    for probe in (classes, density, plane, rises):
        same(probe(executor=processes), probe())


class Lost(Executor):
    """An executor whose scheduler goes away after some tasks."""

    name = "the scheduler of this test"
    workers = 3

    def __init__(self, after):
        self.left = after

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.left -= 1
        if self.left >= 0:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(ConnectionError("Timed out\nafter 30 s"))
        return future


def test_a_scheduler_that_goes_away_ends_in_one_line_and_what_was_done_is_kept(run, tmp_path):
    with pytest.raises(sharpness.UserError) as told:
        sharpness.eigenvalues(run, per_class=True, options={"limit_per_class": 1}, resume=tmp_path, executor=Lost(4))
    assert "\n" not in str(told.value)
    assert "the scheduler of this test went away (ConnectionError: Timed out): start it again" in str(told.value)
    assert len(list(tmp_path.rglob("row-*.npz"))) == 4 and not list(tmp_path.rglob("*.parcel"))
    left = Lost(6)  # of ten classes
    again = sharpness.eigenvalues(run, per_class=True, options={"limit_per_class": 1}, resume=tmp_path, executor=left)
    assert left.left == 0
    same(again, sharpness.eigenvalues(run, per_class=True, options={"limit_per_class": 1}))


def test_a_command_goes_on_with_other_workers(run, tmp_path, monkeypatch):
    """What is kept does not depend on --cluster: of ten classes, four are done, and six are left."""
    left = Lost(6)
    engines = {"processes:2": Lost(4), "processes:3": left}
    monkeypatch.setattr(sharpness, "cluster", lambda given: nullcontext(engines[given]))
    asked = ["spectrum", str(run), "--per-class", "--limit-per-class", "1", "-o"]
    assert main([*asked, str(tmp_path / "there.csv"), "--cluster", "processes:2"]) == 2
    assert main([*asked, str(tmp_path / "there.csv"), "--cluster", "processes:3"]) == 0
    assert left.left == 0
    assert main([*asked, str(tmp_path / "here.csv")]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_tensors_of_the_same_bytes_keep_their_types_and_shapes(tmp_path):
    number = LARGE // 4
    sent = [torch.zeros(2, number // 2), torch.zeros(number // 2, 2), torch.zeros(number, dtype=torch.int32)]
    with parcelled([*sent, sent[0]], tmp_path) as parcel:
        assert len(list(tmp_path.rglob("*.tensor"))) == 1
        found = parcel._read()
    assert [(t.dtype, t.shape) for t in found[:3]] == [(t.dtype, t.shape) for t in sent]
    assert found[3] is found[0] and not any(t.any() for t in found)
    assert not list(tmp_path.iterdir())


TENSORS = {
    "bfloat16": lambda: torch.arange(LARGE).bfloat16(),
    "float8": lambda: torch.arange(LARGE).remainder(7).to(torch.float8_e4m3fn),
    "sparse": lambda: torch.eye(1000).to_sparse(),
    "sparse rows": lambda: torch.eye(1000).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.arange(LARGE).float(), 0.5, 3, torch.qint8),
    "conjugate": lambda: torch.full((LARGE,), 1 + 2j).conj(),
    "negative bit": lambda: torch._neg_view(torch.arange(LARGE).float()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:TypedStorage", "ignore:.*quantize")
@pytest.mark.parametrize("kind", TENSORS)
def test_large_tensors_of_any_kind_reach_the_workers(kind, tmp_path):
    sent = TENSORS[kind]()
    with parcelled(sent, tmp_path) as parcel:
        found = parcel._read()
    assert (found.dtype, found.layout, found.shape) == (sent.dtype, sent.layout, sent.shape)
    one, other = ((t.dequantize() if t.is_quantized else t).to_dense() for t in (found, sent))
    assert torch.equal(*(t.float() if t.dtype == torch.float8_e4m3fn else t for t in (one, other)))


def test_a_process_that_ends_leaves_the_parcels_of_others(tmp_path, monkeypatch):
    """Two parts of a study that share a folder and the images; the files of a killed process are removed."""
    value = torch.arange(LARGE // 4, dtype=torch.float32)
    with parcelled(value, tmp_path) as mine:
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 2**22 + 1)  # more than any process has
            with parcelled(value, tmp_path) as theirs:
                assert theirs.digest == mine.digest and torch.equal(theirs._read(), value)
        assert torch.equal(mine._read(), value)
    left = tmp_path / f".sent-{node()}-{2**22 + 1}"
    left.mkdir()
    (left / ".0123.parcel").write_bytes(b"")
    with parcelled(value, tmp_path):
        assert not left.exists()


def test_a_task_gets_its_own_warnings_where_threads_of_a_worker_wait_for_their_turn():
    logger = logging.getLogger("sharpness")
    answers = {}

    def first():
        waiting.start()
        time.sleep(0.2)  # the second one waits for its turn meanwhile
        logger.warning("of the first")

    waiting = threading.Thread(target=lambda: answers.update(second=Task(int, asker=("elsewhere", 1))()))
    answers["first"] = Task(first, asker=("elsewhere", 1))()
    waiting.join()
    assert answers["first"].warnings == ["of the first"] and answers["second"].warnings == []


def test_warnings_and_mistakes_of_workers_are_told_here(processes, run, caplog):
    two = {"a": run, "b": run}
    sharpness.measure(two, measures="lambda_max", max_iterations=1, limit_per_class=1, executor=processes)
    assert any("a: not converged" in message for message in caplog.messages)
    with pytest.raises(sharpness.UserError, match="draws=1: give an integer, at least 2, for a standard error"):
        sharpness.trace(run, True, 1, bootstrap=100, options={"limit_per_class": 1}, executor=processes)


def test_parts_of_a_study_are_collected_by_the_same_call_without_a_part(here, data, network, tmp_path):
    folder, cells = here
    given = (data, ("ce",), ("none", "swa"), (0,), tmp_path / "out", tmp_path / "runs")
    part = make_flattening_study(*given, model=network, part=(2, 2), **STUDY)
    assert "part 2 of 2: 1 cells" in part.text and "SWA, seed 0: done" in part.text and not part.files
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["digits-lt-ce+swa-seed0"]
    pd.testing.assert_frame_equal(study_of(data, network, tmp_path).cells, cells, check_exact=True)


MISTAKES = {
    "processes:0": "give the number of workers, at least 1",
    "processes": "write processes:N, dask:ADDRESS",
    "ray:2": "write processes:N, dask:ADDRESS",
    "slurm:partition": "write name=value",
    "slurm:jobs=few": "give the number of workers",
}


@pytest.mark.parametrize("address", MISTAKES)
def test_an_address_of_no_engine_is_told_in_one_line(address):
    with pytest.raises(sharpness.UserError, match=MISTAKES[address]):
        sharpness.cluster(address).__enter__()


def test_executors_that_cannot_serve_are_refused(run):
    with pytest.raises(sharpness.UserError, match="threads of this process"), ThreadPoolExecutor(1) as threads:
        sharpness.measure(run, **TABLE, executor=threads)
    with pytest.raises(sharpness.UserError, match="Executor"):
        sharpness.measure(run, **TABLE, executor="processes:2")


def test_the_command_line_takes_a_cluster_and_parts(processes, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharpness, "cluster", lambda given: nullcontext({"processes:2": processes}[given]))
    asked = ["measure", str(run), "--measures", "loss,lambda_max", "--limit-per-class", "1"]
    assert main([*asked, "-o", "here.csv"]) == 0
    assert main([*asked, "-o", "there.csv", "--cluster", "processes:2"]) == 0
    assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()
    capsys.readouterr()
    for arguments, told in (
        (["figures", "--cluster", "processes:2", "--jobs", "2"], "--jobs 2 and --cluster processes:2: give one"),
        (["figures", "--cells", "4/3"], "cells 4/3: give part i of n"),
        (["figures", "--cells", "all"], "--cells all: give part i of n"),
        (["spectrum", str(run), "--owners", "--cluster", "processes:2"], "leave out --owners"),
    ):
        assert main(arguments) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]


def test_the_job_script_makes_its_part_as_a_job_of_submitit(network, tmp_path, monkeypatch, capsys):
    submitit = pytest.importorskip("submitit")
    program = tmp_path / "sharpness"  # which tells what the script asks for: a process more would load all anew
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DATA", "digits-lt")
    small = "--methods ce --operations none,swa --seeds 0 --epochs 1 --limit-per-class 1 --measures loss"
    monkeypatch.setenv("OPTIONS", f"{small} --model small_network:Small")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.chdir(tmp_path)
    script = submitit.helpers.CommandFunction(["bash", str(ROOT / "docs" / "slurm.sh")], verbose=False)
    asked = submitit.AutoExecutor(tmp_path / "logs", cluster="local").submit(script).result().split()
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "part 2 of 2: 1 cells" in told and "SWA, seed 0: done" in told
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["digits-lt-ce+swa-seed0"]


def test_installing_the_package_installs_no_cluster():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    needed = setup["options"]["install_requires"].split()
    assert needed and not any(name.startswith(("dask", "distributed", "submitit")) for name in needed)
    assert set(setup["options.extras_require"]["cluster"].split()) == {"distributed", "submitit"}


def test_dask_and_submitit_are_imported_in_one_module():
    found = {
        path.name
        for path in Path(sharpness.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import submitit", "from submitit", "from distributed", "import dask", "from dask"))
    }
    assert found == {"engines.py"}
