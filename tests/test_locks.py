"""Locks and partial files on a disk that several nodes share: another name of the machine stands for another node."""

import errno
import os
import time

import pytest

from sharpness import files, locks
from sharpness.errors import SystemRefusal
from sharpness.files import remove_abandoned, write_atomically
from sharpness.locks import only_process


@pytest.fixture
def as_node(monkeypatch):
    """Take another machine's name, whose locks do not reach the first one."""

    def become(name, locks_reach=False):
        monkeypatch.setattr(locks.socket, "gethostname", lambda: name)
        if not locks_reach:
            monkeypatch.setattr(locks, "_flock", lambda descriptor: False)

    return become


def test_two_nodes_are_not_in_one_folder_though_their_locks_do_not_meet(tmp_path, as_node):
    as_node("gpu1.cluster")
    with only_process(tmp_path, "trains"):
        as_node("gpu2.cluster")
        with pytest.raises(SystemRefusal, match="another process trains here on gpu1_cluster: wait for it .*remove"):
            only_process(tmp_path, "trains").__enter__()
    with only_process(tmp_path, "trains"):
        pass
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.lock*"))


def test_a_node_that_gave_no_sign_of_life_has_lost_its_folder(tmp_path, as_node):
    lock = tmp_path.with_name(f".{tmp_path.name}.lock")
    lock.write_text("gpu1 4711")
    as_node("gpu2")
    with pytest.raises(SystemRefusal, match="on gpu1"):
        only_process(tmp_path, "trains").__enter__()
    os.utime(lock, (0, time.time() - locks.DEAD - 5))
    with only_process(tmp_path, "trains"):
        assert lock.read_text() == f"gpu2 {os.getpid()}"


def test_a_process_that_was_suspended_leaves_the_lock_of_the_node_that_took_over(tmp_path, as_node):
    lock = tmp_path.with_name(f".{tmp_path.name}.lock")
    as_node("gpu1")
    with only_process(tmp_path, "trains"):
        os.utime(lock, (0, time.time() - locks.DEAD - 5))
        as_node("gpu2")
        other = only_process(tmp_path, "trains")
        other.__enter__()
    assert lock.read_text() == f"gpu2 {os.getpid()}"
    other.__exit__(None, None, None)
    assert not lock.exists()


def test_a_lock_that_is_held_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with only_process(tmp_path, "trains"):
        lock = tmp_path.with_name(f".{tmp_path.name}.lock")
        os.utime(lock, (0, 0))
        deadline = time.monotonic() + 20
        while lock.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0


@pytest.mark.parametrize("locks_reach", [True, False])
def test_a_process_of_this_machine_that_was_killed_has_lost_its_folder(tmp_path, as_node, locks_reach):
    as_node("gpu1", locks_reach)
    tmp_path.with_name(f".{tmp_path.name}.lock").write_text("gpu1 999999999")
    with only_process(tmp_path, "trains"), pytest.raises(SystemRefusal, match="another process trains here: wait"):
        monkey = locks._flock if locks_reach else None
        if monkey is None:  # without locks the number of a living process is what counts
            tmp_path.with_name(f".{tmp_path.name}.lock").write_text(f"gpu1 {os.getppid()}")
        only_process(tmp_path, "trains").__enter__()


def test_where_no_file_can_be_made_beside_a_folder_the_folder_is_locked(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks, "_taken", refused)
    with only_process(tmp_path, "trains"):
        with pytest.raises(SystemRefusal, match="another process trains here"):
            only_process(tmp_path, "trains").__enter__()
        assert not list(tmp_path.iterdir())


def test_a_partial_file_names_node_rank_and_process_and_no_two_are_the_same(tmp_path, as_node, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    as_node("gpu1.cluster")
    seen = []
    for _ in range(2):
        write_atomically(tmp_path / "a.csv", lambda partial: (partial.write_text("x"), seen.append(partial.name)))
    assert all(name.startswith(f".a.csv.gpu1_cluster-3-{os.getpid()}-") for name in seen) and seen[0] != seen[1]
    assert all(files.is_partial(name, "a.csv") and not files.is_partial(name, "b.csv") for name in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_what_another_node_is_writing_stays_for_a_day(tmp_path, as_node):
    theirs, old = tmp_path / ".a.csv.gpu1-0-1-0.part", tmp_path / ".a.csv.gpu1-0-1-1.part"
    dead = tmp_path / ".a.csv.gpu2-0-999999999-0.part"
    for path in (theirs, old, dead):
        path.write_text("half")
    os.utime(old, (0, time.time() - files.DAY - 5))
    as_node("gpu2")
    remove_abandoned(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [theirs.name]
