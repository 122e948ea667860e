"""Dask and submitit as standard executors; no other module imports them."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sharpness.errors import SystemRefusal, UserError, shown

#: The future of a task, and its call.
_Task = tuple[Future[Any], Callable[[], Any]]
#: Seconds to wait for a scheduler to answer.
PATIENCE = 20
#: Seconds without a new task after which the waiting tasks are submitted as one job array.
QUIET = 0.2
#: Seconds between two polls of jobs: local processes, and Slurm, where a poll queries its accounting.
LOOKS = {"local": 0.1, "slurm": 5.0}
#: Number of times that a job may end without an answer before its tasks fail.
DEATHS = 3
#: submitit's names of settings that have a shorter name here, and the conversions of their values.
SHORT: dict[str, tuple[str, Callable[[float], int]]] = {
    "gpus": ("gpus_per_node", int), "cpus": ("cpus_per_task", int), "mem": ("mem_gb", int),
    "hours": ("timeout_min", lambda hours: max(1, round(60 * hours))),
}  # fmt: skip


def _missing(name: str) -> UserError:
    return UserError(f"{name} is not installed: pip install 'sharpness[cluster]'")


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """Connect to a Dask scheduler, given by its address or file, or start one here with ``"local:N"``."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise _missing("Dask") from None

    for name in ("distributed", "distributed.client", "distributed.core", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost scheduler is reported in one line
    kind, _, number = address.partition(":")
    with ExitStack() as opened:
        try:
            where: dict[str, Any] = {"address": address}
            if kind == "local" and number.isdecimal() and int(number):
                where["address"] = LocalCluster(int(number), threads_per_worker=1, dashboard_address=None)
                # Before the client exists: if it fails to connect, the workers must still be closed.
                opened.callback(where["address"].close)
            elif "://" not in address and Path(address).exists():
                where = {"scheduler_file": address}
            client = Client(**where, timeout=PATIENCE)
        except Exception as error:  # errors of many types: no host, no scheduler, another version
            told = _first_line(error, 100)
            raise UserError(f"dask:{address}: no scheduler answers ({told}): start one with dask scheduler") from None
        # Not as a context manager: closing waits for the scheduler, which may be gone.
        opened.callback(_quietly, partial(client.close, timeout=2))
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise UserError(f"dask:{address}: it has no workers: start some with dask worker {address}")
        executor: Any = client.get_executor()
        executor.name = f"the scheduler dask:{address}"
        executor.workers = len(workers)
        # Workers on one machine share its memory: budgets assume the machine with the most workers.
        executor.sharers = max(Counter(worker["host"] for worker in workers.values()).values())
        yield executor


def _first_line(error: Exception, limit: int) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], limit)


def _quietly(close: Callable[[], object]) -> None:
    with suppress(Exception):
        close()


class Jobs(Executor):
    """An executor that runs tasks as jobs of submitit: a job array, in which each job runs a part of the tasks.

    A job that ends without an answer is submitted again; finished parts of its work are read from files.

    Args:
        engine: ``"slurm"``, or ``"local"`` for processes on this machine.
        workers: number of simultaneous jobs.
        settings: options of sbatch, by the names of :data:`SHORT` or submitit's names, and ``folder`` for logs.
    """

    def __init__(self, engine: str, workers: int, settings: Mapping[str, str]) -> None:
        try:
            import submitit
        except ImportError:
            raise _missing("submitit") from None
        self.engine, self.workers, self.name = engine, workers, f"{engine}:{workers}"
        self.sharers = workers if engine == "local" else 1
        given = dict(settings)
        folder = given.pop("folder", None)
        self._temporary = None
        if engine == "local" and folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sharpness-", ignore_cleanup_errors=True)
            folder = self._temporary.name
            self.scratch = Path(folder)
        parameters = self._parameters(given)
        try:
            self._jobs = submitit.AutoExecutor(folder or "slurm-logs", cluster=engine)
            self._jobs.update_parameters(**parameters)
        except NameError as error:
            raise UserError(
                f"cluster {engine}: {_first_line(error, 160)}: submitit does not know it, leave it out"
            ) from None
        except Exception as error:  # no sbatch here, or a value of the wrong type
            told = _first_line(error, 160)
            raise UserError(f"cluster {engine}: {told}: give the command where sbatch is, or take local:N") from None
        self._lock = threading.Condition()
        self._waiting: list[_Task] = []
        self._closed = self._given_up = False
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._watch.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the jobs are shut down")
            self._waiting.append((future, partial(fn, *args, **kwargs)))
            self._lock.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed, self._given_up = True, cancel_futures
            self._lock.notify()
        if wait:
            self._watch.join()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __exit__(self, kind: Any, error: Any, lines: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _parameters(self, given: Mapping[str, str]) -> dict[str, Any]:
        parameters: dict[str, Any] = {"timeout_min": 24 * 60}
        for name, text in given.items():
            if name in SHORT:
                try:
                    long, made = SHORT[name]
                    parameters[long] = made(float(text))
                except (ValueError, OverflowError):
                    raise UserError(f"cluster slurm:{name}={text}: give a number") from None
            else:
                parameters[f"slurm_{name}"] = int(text) if text.isdecimal() else text
        return parameters if self.engine == "slurm" else {"timeout_min": parameters["timeout_min"]}

    def _run(self) -> None:
        """Submit waiting tasks, never more than ``workers`` jobs at a time, and set the results of finished jobs."""
        sent: list[_Sent] = []
        ready: list[list[_Task]] = []
        while True:
            with self._lock:
                if not (self._waiting or ready or sent or self._closed):
                    self._lock.wait()
                before = -1
                while len(self._waiting) != before and not self._closed:
                    before = len(self._waiting)
                    self._lock.wait(QUIET)
                new, self._waiting = self._waiting, []
                # Round robin: tasks are ordered from longest to shortest, so every job gets some of each length.
                ready += [new[i :: self.workers] for i in range(min(self.workers, len(new)))]
                ended = self._closed and (self._given_up or not (ready or sent))
            if ended:
                for one in sent:
                    with suppress(Exception):
                        one.job.cancel()
                for future, _ in chain(*ready):
                    future.cancel()
                return
            free = self.workers - len(sent)
            try:
                sent += self._send(ready[:free])
                ready = ready[free:]
                sent = [one for one in sent if not self._handed_on(one)]
            except Exception as error:  # an error of the engine: all futures get it
                for future, _ in chain(*ready, *(one.tasks for one in sent)):
                    if not future.done():
                        future.set_exception(SystemRefusal(f"{self.name}: {shown(str(error), 200)}"))
                sent, ready = [], []
            if sent:
                time.sleep(LOOKS[self.engine])

    def _send(self, bundles: Sequence[list[_Task]]) -> list[_Sent]:
        begun = ([(f, call) for f, call in one if f.running() or f.set_running_or_notify_cancel()] for one in bundles)
        if not (kept := [one for one in begun if one]):
            return []
        with self._jobs.batch():
            jobs = [self._jobs.submit(_bundle, [call for _, call in one]) for one in kept]
        return [_Sent(job, one) for job, one in zip(jobs, kept, strict=True)]

    def _handed_on(self, one: _Sent) -> bool:
        if not one.job.done():
            return False
        try:
            answers = one.job.result()
        except Exception as error:  # the job was killed and left no answer
            one.deaths += 1
            if one.deaths >= DEATHS:
                told = _first_line(error, 120)
                for future, _ in one.tasks:
                    future.set_exception(SystemRefusal(f"{self.name}: a job was killed {DEATHS} times ({told})"))
                return True
            with self._jobs.batch():
                one.job = self._jobs.submit(_bundle, [call for _, call in one.tasks])
            return False
        for (future, _), (value, failure) in zip(one.tasks, answers, strict=True):
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)
        return True


class _Sent:
    """A submitted job, its tasks, and the number of times that it ended without an answer."""

    def __init__(self, job: Any, tasks: list[_Task]) -> None:
        self.job, self.tasks, self.deaths = job, tasks, 0


def _bundle(calls: Sequence[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    """Run the calls of a job one after another, and return the value and error of each."""
    answers: list[tuple[Any, Exception | None]] = []
    for call in calls:
        try:
            answers.append((call(), None))
        except Exception as error:
            answers.append((None, error))
    return answers
