"""Interrupted work goes on where it stood, and ends with the same bits."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, spectral_density, trace
from sharpness.engine.operator import CurvatureOperator
from sharpness.probes.shared import work
from sharpness.probes.shared.work import Work, WorkFolder

CALLS = {
    "eigenvalues": lambda o, **r: eigenvalues(o, 2, "both", per_class=True, tol=1e-8, **r),
    "eigenvalues of all samples": lambda o, **r: eigenvalues(o, 1, "SA", tol=1e-8, **r),
    "eigenvalues with intervals and checks": lambda o, **r: eigenvalues(
        o, per_class=True, bootstrap=200, verify=True, keep_vectors=False, **r
    ),
    "eigenvalues of layers": lambda o, **r: eigenvalues(o, per_layer=True, per_class=True, **r),
    "trace": lambda o, **r: trace(o, per_class=True, draws=5, estimator="hutchinson", **r),
    "trace of groups": lambda o, **r: trace(o, per_group=True, draws=5, estimator="hutchinson", **r),
    "trace by Hutch++": lambda o, **r: trace(o, per_class=True, draws=9, estimator="hutch++", **r),
    "trace of layers": lambda o, **r: trace(o, per_layer=True, per_class=True, draws=5, estimator="hutchinson", **r),
    "trace with intervals": lambda o, **r: trace(o, per_class=True, draws=5, bootstrap=200, **r),
    "density": lambda o, **r: spectral_density(o, per_class=True, draws=2, steps=4, **r),
}
#: Calls that go on inside a row.
INSIDE = ("eigenvalues", "eigenvalues of all samples", "eigenvalues with intervals and checks")


@pytest.fixture
def objective():
    torch.manual_seed(0)
    y = torch.tensor([0] * 6 + [1] * 4 + [2] * 3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Objective(model, (torch.randn(13, 4), y), groups={"many": (0,), "few": (1, 2)})


@pytest.fixture
def products(monkeypatch):
    """Counts products, also those by sample, and interrupts the one after ``products.limit``."""

    class Products:
        made = 0
        limit = np.inf

        def step(self):
            if self.made >= self.limit:
                raise KeyboardInterrupt
            self.made += 1

    counter = Products()
    for owner, name in ((CurvatureOperator, "__call__"), (Objective, "quadratic_forms")):
        original = getattr(owner, name)

        def counted(self, *args, _original=original, **options):
            counter.step()
            return _original(self, *args, **options)

        monkeypatch.setattr(owner, name, counted)
    monkeypatch.setattr(work, "INTERVAL", 0)
    return counter


@pytest.mark.every(3)
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_ends_with_the_bits_of_one_that_was_not(name, objective, products, tmp_path):
    call = CALLS[name]
    whole = call(objective)
    needed, products.made = products.made, 0
    for part in (1, 2 * needed // 3):
        folder = tmp_path / str(part)
        products.made, products.limit = 0, part
        with pytest.raises(KeyboardInterrupt):
            call(objective, resume=folder)
        products.made, products.limit = 0, np.inf
        again = call(objective, resume=folder)
        assert again.to_dataset().identical(whole.to_dataset())
        assert needed - part <= products.made
        if name in INSIDE and name != "eigenvalues with intervals and checks":
            # Every other thread may have been within a product of its own.
            assert products.made <= needed - part + torch.get_num_threads() - 1
        products.made = 0
        assert call(objective, resume=folder).to_dataset().identical(whole.to_dataset())
        assert not products.made
        assert not list(folder.rglob("unfinished-*"))


def test_rows_that_are_done_are_not_repeated(objective, products, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # of rows side by side any number may be done
    for kind, limit, done, left in (("ggn", 12, 2, 5), ("hessian", 3, 3, 2)):  # rows are classes, and random vectors
        folder = tmp_path / kind
        products.made, products.limit = 0, limit
        with pytest.raises(KeyboardInterrupt):
            trace(objective, per_class=True, draws=5, kind=kind, estimator="hutchinson", resume=folder)
        assert len(list(folder.rglob("row-*.npz"))) == done
        products.made, products.limit = 0, np.inf
        trace(objective, per_class=True, draws=5, kind=kind, estimator="hutchinson", resume=folder)
        assert products.made == left


def test_a_loss_that_raises_leaves_what_was_done(tmp_path):
    torch.manual_seed(0)
    calls = []

    def loss(outputs, targets):
        calls.append(len(targets))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    stop = None
    data = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 3)
    objective = Objective(nn.Linear(3, 2).double(), data, loss=loss, memory=0)
    settings = {"per_class": True, "draws": 6, "estimator": "hutchinson"}
    whole = trace(objective, **settings)
    stop = len(calls) + 8
    with pytest.raises(KeyboardInterrupt):
        trace(objective, **settings, resume=tmp_path)
    assert trace(objective, **settings, resume=tmp_path).to_dataset().identical(whole.to_dataset())


VARIATIONS = {
    "per class": {"per_class": True},
    "per group": {"per_group": True},
    "other seed": {"seed": 1},
    "Gauss-Newton": {"kind": "ggn"},
    "matched": {"match_samples": 2},
    "other end": {"which": "SA"},
    "two": {"k": 2},
    "tolerance": {"tol": 1e-6},
    "iterations": {"max_iterations": 50},
    "intervals": {"bootstrap": 200},
    "without vectors": {"keep_vectors": False},
    "checks": {"keep_vectors": False, "verify": True},
    "layers": {"per_layer": True},
    "layers per class": {"per_layer": True, "per_class": True},
    "layers per group": {"per_layer": True, "per_group": True},
}


def test_calls_that_share_a_folder_do_not_read_what_others_wrote(objective, tmp_path):
    for options in ({}, *VARIATIONS.values(), *reversed(VARIATIONS.values()), {}):
        found, expected = eigenvalues(objective, resume=tmp_path, **options), eigenvalues(objective, **options)
        assert found.to_dataset().identical(expected.to_dataset())


@pytest.mark.parametrize(
    "options",
    [{}, {"per_class": True}, {"per_group": True}, {"per_layer": True}, {"per_layer": True, "per_class": True}],
)
def test_traces_that_share_a_folder_do_not_read_what_others_wrote(objective, tmp_path, options):
    for others in ({}, {"per_class": True}, {"per_layer": True}):
        trace(objective, draws=4, resume=tmp_path, **others)
    found, expected = trace(objective, draws=4, resume=tmp_path, **options), trace(objective, draws=4, **options)
    assert found.to_dataset().identical(expected.to_dataset())


def test_another_objective_does_not_read_the_files(objective, tmp_path):
    x, y, model = objective.x, objective.y, objective.model

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def doubled(outputs, targets):
        return 2 * nn.functional.cross_entropy(outputs, targets, reduction="none")

    doubled.__name__ = "loss"
    groups = objective.groups
    others = [
        Objective(model, (x, y), loss, groups=groups),
        Objective(model, (x, y), doubled, groups=groups),
        Objective(model, (x, y), groups={"many": (0, 1), "few": (2,)}),
        Objective(model, (x, y), groups=groups, weights=torch.linspace(1, 2, 13)),
        Objective(model, (x, y), groups=groups, parameters="2.*"),
        Objective(model, (x.flip(0), y.flip(0)), groups=groups),
    ]
    for other in (objective, *others):
        found = eigenvalues(other, per_group=True, tol=1e-9, resume=tmp_path)
        expected = eigenvalues(other, per_group=True, tol=1e-9)
        assert found.to_dataset().identical(expected.to_dataset())
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    moved = eigenvalues(objective, per_group=True, tol=1e-9, resume=tmp_path)
    assert moved.to_dataset().identical(eigenvalues(objective, per_group=True, tol=1e-9).to_dataset())


@pytest.mark.parametrize("name", CALLS)
def test_without_a_folder_nothing_is_written(name, objective, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "INTERVAL", 0)
    CALLS[name](objective)
    assert not list(tmp_path.iterdir())


def test_states_are_written_no_more_often_than_the_interval(objective, tmp_path, monkeypatch):
    written = []
    original = work.write_arrays
    monkeypatch.setattr(work, "write_arrays", lambda path, arrays: written.append(path.stem) or original(path, arrays))
    eigenvalues(objective, resume=tmp_path / "slow")
    assert written == ["row-0000"]
    monkeypatch.setattr(work, "INTERVAL", 0)
    result = eigenvalues(objective, resume=tmp_path / "fast")
    assert written.count("unfinished-0000") == result.hvp_count


def test_writes_that_take_long_are_made_less_often(tmp_path, monkeypatch):
    """A write of 2 seconds is repeated after 40: writing takes no more than a twentieth of the time."""
    now = [100.0]
    monkeypatch.setattr(work.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(work, "write_arrays", lambda path, arrays: now.__setitem__(0, now[0] + 2))
    found = Work(tmp_path, {})
    now[0] += 5
    assert found.due
    found.save("state", {})
    now[0] += 39
    assert not found.due
    now[0] += 1
    assert found.due
    assert not Work(None, {}).due


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]]
)
def test_a_damaged_state_is_told_and_its_row_begins_again(objective, products, tmp_path, caplog, damage):
    whole = eigenvalues(objective, tol=1e-9)
    products.made, products.limit = 0, 6
    with pytest.raises(KeyboardInterrupt):
        eigenvalues(objective, tol=1e-9, resume=tmp_path)
    (path,) = tmp_path.glob("*/unfinished-0000.npz")
    path.write_bytes(damage(path.read_bytes()))
    products.limit = np.inf
    again = eigenvalues(objective, tol=1e-9, resume=tmp_path)
    assert "unfinished-0000.npz is damaged" in caplog.text
    assert again.to_dataset().identical(whole.to_dataset())


def test_work_of_a_folder_that_was_handed_over_goes_with_it(objective, tmp_path):
    """Every probe marks its folder: whoever asked for all of them removes them, and nothing else."""
    folder = WorkFolder(tmp_path / "work")
    for call in CALLS.values():
        call(objective, resume=folder)
    (tmp_path / "work" / "mine.txt").write_text("mine")
    folder.clear()
    assert {p.name for p in (tmp_path / "work").iterdir()} == {"mine.txt", WorkFolder.MARK}


def test_a_folder_that_cannot_be_made_is_told_before_the_work(objective, tmp_path, products):
    (tmp_path / "file").write_text("")
    for name in ("trace", "eigenvalues", "density"):
        with pytest.raises(UserError, match="resume=.*file: Not a directory: give a folder"):
            CALLS[name](objective, resume=tmp_path / "file")
    assert products.made == 0


def test_every_process_has_arrays_of_its_own_and_reads_those_of_all(tmp_path, monkeypatch):
    for rank in (1, 0):
        monkeypatch.setattr(work.distributed, "rank", lambda rank=rank: rank)
        Work(tmp_path, {}).save_part("points", {"of": rank})
        Work(tmp_path, {}).save("first", {"of": rank})
    assert [int(found["of"]) for found in Work(tmp_path, {}).parts("points")] == [0, 1]
    assert int(Work(tmp_path, {}).load("first")["of"]) == 0


def test_a_result_is_kept_read_again_and_replaced_where_it_does_not_fit(objective, tmp_path, caplog):
    calls, path = [], tmp_path / "trace.nc"

    def found(seed):
        def compute():
            calls.append(seed)
            return trace(objective, draws=2, seed=seed)

        return work.kept_result(path, lambda result: result.provenance["seed"] == seed, compute)

    first = found(1)
    assert found(1).to_dataset().identical(first.to_dataset()) and calls == [1]
    found(2), found(1)
    assert calls == [1, 2, 1] and not caplog.messages
    path.write_bytes(b"damaged")
    found(1)
    assert calls == [1, 2, 1, 1] and "it is made again" in caplog.text


def test_a_folder_whose_maker_was_killed_while_it_marked_it_is_ours(tmp_path):
    folder = WorkFolder(tmp_path / "out.partial")
    folder.path.mkdir()
    (folder.path / f".{WorkFolder.MARK}.999999999-0.part").write_text("{")
    folder.of("key")
    folder.clear()
    assert not folder.path.exists()


def test_a_folder_with_anything_else_in_it_stays(tmp_path):
    folder = WorkFolder(tmp_path / "mine.partial")
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    folder.of("key")
    folder.clear()
    assert [p.name for p in folder.path.iterdir()] == ["notes.txt"]
