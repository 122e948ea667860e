"""Hostile files of every kind: each is read as what it is, or refused in one line, at once, and nothing in it acts.

``HOSTILE_FILES`` says how many; a file of one seed is the same everywhere, and ``worker.py FOLDER SEED SEED+1 1`` reads
it alone.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

#: Beside another worker of the tests' own a second one would only wait for a processor.
WORKERS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
FILES = int(os.environ.get("HOSTILE_FILES", 200))
SECONDS, MEGABYTES, CHARACTERS = 10, 512, 300

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def reports(forked_once, tmp_path_factory):
    """What became of every file, from processes that are started once."""
    code = f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import worker; worker.main(*sys.argv[1:])"
    started = []
    for first in range(WORKERS):
        (folder := tmp_path_factory.mktemp("hostile") / "saved").mkdir()
        started.append(forked_once(code, folder.parent, first, FILES, WORKERS))
    return [json.loads(line) for process in started for line in process.end(60 + 2 * FILES).splitlines()]


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
