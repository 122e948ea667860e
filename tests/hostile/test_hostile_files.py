"""Hostile files of every kind: each is read as what it is, or refused in one line, at once, and nothing in it acts.

``HOSTILE_FILES`` says how many; a file of one seed is the same everywhere, and ``worker.py FOLDER SEED SEED+1 1`` reads
it alone.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

#: Beside another worker of the tests' own a second one would only wait for a processor.
WORKERS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
FILES = int(os.environ.get("HOSTILE_FILES", 360))
SECONDS, MEGABYTES, CHARACTERS = 10, 512, 300

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What became of every file, from processes that are started once."""
    worker = Path(__file__).with_name("worker.py")
    started = []
    for first in range(WORKERS):
        (folder := tmp_path_factory.mktemp("hostile") / "saved").mkdir()
        command = [sys.executable, worker, folder.parent, *map(str, (first, FILES, WORKERS))]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    found = []
    for process in started:
        printed, errors = process.communicate(timeout=60 + 2 * FILES)
        assert process.returncode == 0, f"after {printed.splitlines()[-1:]}: {errors[-2000:]}"
        found += map(json.loads, printed.splitlines())
    return found


def test_every_file_is_read_or_refused(reports):
    assert sorted(r["seed"] for r in reports) == list(range(FILES))
    assert not [r for r in reports if r["end"] not in ("read", "told")]


def test_a_refusal_is_one_line(reports):
    for report in reports:
        if report["end"] == "told":
            assert report["told"].isprintable() and 20 < len(report["told"]) < CHARACTERS, report


def test_nothing_runs(reports):
    assert not [r for r in reports if r["ran"]]


def test_time_and_memory_are_bounded(reports):
    assert not [r for r in reports if r["seconds"] >= SECONDS or r["megabytes"] >= MEGABYTES]
    assert not [r for r in reports if "more memory than there is" in r["told"]]


def test_the_files_try_readers_from_both_sides(reports):
    """A generator whose every file falls at the first hurdle would show nothing."""
    told, read = (Counter(r["kind"] for r in reports if r["end"] == end) for end in ("told", "read"))
    assert len(told) >= 9 and len(read) >= 4
