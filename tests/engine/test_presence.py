"""Processes of one command notice that another is gone, and one of them says so."""

import threading
import time

import pytest
import torch.distributed as dist

from sharpness.engine import presence
from sharpness.engine.presence import LOST, Presence

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@pytest.fixture
def ends(monkeypatch):
    """Messages with which processes end, and beats a hundred times as fast."""
    found = []
    monkeypatch.setattr(presence, "BEAT", 0.02)
    monkeypatch.setattr(presence, "SILENCE", 0.4)
    monkeypatch.setattr(presence, "PATIENCE", 0.1)

    def end(self, message):
        found.append(message)
        self._stopped.set()

    monkeypatch.setattr(Presence, "_end", end)
    monkeypatch.setattr(Presence, "_listen", lambda self: None)
    return found


@pytest.mark.parametrize("leaves", [True, False])
def test_who_falls_silent_is_missed_unless_it_left(ends, leaves):
    store = dist.HashStore()
    first, second = (Presence(store, rank, 2) for rank in range(2))
    time.sleep(0.6)
    assert not ends
    second.leave() if leaves else second._stopped.set()
    time.sleep(1.2)
    assert ends == ([] if leaves else [LOST])
    first.leave()


def test_one_of_all_tells_what_happened(ends, capfd):
    store = dist.HashStore()
    everybody = [Presence(store, rank, 3) for rank in range(3)]
    for one in everybody:
        one.tell("gone")
        one.leave()
    assert capfd.readouterr().err == "sharpness: gone\n"


def test_what_the_first_process_has_told_others_do_not_repeat(ends, capfd):
    for alone, printed in ((False, ""), (True, "sharpness: no file\n")):
        store = dist.HashStore()
        first, second = (Presence(store, rank, 2) for rank in range(2))
        threads = [threading.Thread(target=p.told, args=("no file",)) for p in ([second] if alone else [second, first])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first.leave()
        second.leave()
        assert capfd.readouterr().err == printed


def test_a_signal_that_ends_a_process_is_told_while_it_waits(forked):
    """In C, where no handler of Python runs; a process that it has forked ends as any other."""
    code = """
import os, signal, threading, time, warnings
import torch.distributed as dist
from sharpness.engine.presence import Presence
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks beside threads
Presence(dist.HashStore(), 0, 1)
for _ in range(50):  # also while it is being forked
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(3)  # never further: os.kill(0, ...) below would end every process of this group
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
print("all ended", flush=True)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""
    process = forked(code)
    process.process.join(30)
    assert process.process.exitcode == 2
    assert process.printed() == "all ended\n"
    assert "ended by SIGTERM" in process.errors()
    assert len(process.errors().splitlines()) == 1
