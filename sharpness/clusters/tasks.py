"""Calls on any executor: errors of a call are raised here, and a failing executor ends in a one-line error."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sharpness.engine.memory import node_shared_by
from sharpness.engine.undisturbed import lent
from sharpness.errors import SystemRefusal, UserError, shown

K = TypeVar("K")
T = TypeVar("T")
#: Assumed number of simultaneous tasks of an executor that does not state it.
USUAL_WIDTH = 8
logger = logging.getLogger("sharpness")
# Threads of a worker take turns: they share the torch threads of the process and the cached objective.
_turn = threading.Lock()


class Answer:
    """The value or error of a call, and the warnings that it logged in the worker."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error
        self.warnings: list[str] = []

    def taken(self) -> Any:
        """Log the warnings here, then return the value or raise the error."""
        for message in self.warnings:
            logger.warning("%s", message)
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Task:
    """A call for a worker, which returns an :class:`Answer`.

    Args:
        call: function without arguments.
        sharers: number of processes that share the memory of the worker's node.
        asker: the process that waits for the answer; it holds the turn of its probes meanwhile.
        folder: working directory of that process, because paths of files may be relative to it.
    """

    call: Callable[[], Any]
    sharers: int = 1
    asker: tuple[str, int] = field(default_factory=lambda: _process())
    folder: str = field(default_factory=os.getcwd)

    def __call__(self) -> Answer:
        if self.asker == _process():
            with _turn, lent():
                return self._answer()
        warnings = _Kept()
        there = chdir(self.folder) if os.path.isdir(self.folder) else nullcontext()
        with _turn, there, node_shared_by(self.sharers):
            # Within the turn: a thread that waits for it would also collect the warnings of the task at work.
            logger.addHandler(warnings)
            try:
                answer = self._answer()
            finally:
                logger.removeHandler(warnings)
        answer.warnings = warnings.messages
        return answer

    def _answer(self) -> Answer:
        try:
            return Answer(self.call())
        except Exception as error:
            return Answer(error=portable(error))


class _Kept(logging.Handler):
    """Collects warnings, which would otherwise only appear in the output of the worker."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with the worker's traceback as a note unless it is a user error."""
    if isinstance(error, UserError | FloatingPointError):
        error.__cause__ = error.__context__ = None
        return error
    lines = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling raises errors of many types
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker:\n{lines}")
    return error


def do_all(executor: Executor, calls: Mapping[K, Callable[[], Any]]) -> Iterator[tuple[K, Any]]:
    """Submit calls in their order, and yield keys and values as they finish.

    Args:
        executor: any executor of other processes.
        calls: functions without arguments that can be pickled. A call may run twice, because workers that die are
            replaced.

    Raises:
        SystemRefusal: the executor failed, for example because its scheduler is gone.
        Exception: the error of a call; calls that have not started are cancelled.
    """
    require_executor(executor)
    sharers = int(getattr(executor, "sharers", 1))
    futures: dict[Any, K] = {}
    try:
        try:
            for key, call in calls.items():
                futures[executor.submit(Task(call, sharers))] = key
            done = as_completed(futures)
        except Exception as error:
            raise _gone(executor, error) from error
        # Not a for loop, to distinguish errors of the executor from errors of the caller's loop body.
        while True:
            try:
                future = next(done)
                answer = future.result()
            except StopIteration:
                return
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                    raise
                raise _gone(executor, error) from error
            yield futures[future], answer.taken()
    finally:
        for future in futures:
            future.cancel()


def _gone(executor: Executor, error: BaseException) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, AttributeError | TypeError | pickle.PicklingError):
        return UserError(
            f"what a worker needs cannot be sent to it ({shown(str(error), 120)}): define it in a module that workers "
            "can import, or leave the executor out"
        )
    name = getattr(executor, "name", type(executor).__name__)
    first = shown(str(error).strip().partition("\n")[0], 120)
    told = ": ".join(dict.fromkeys(filter(None, [type(error).__name__, first])))
    return SystemRefusal(
        f"{name} went away ({told}): start it again, then give the same command: what is done "
        "is kept where files are written"
    )


def require_executor(executor: Any) -> None:
    """Refuse an executor that does not run tasks in other processes.

    Raises:
        UserError: not an executor, or one of threads of this process.
    """
    if not isinstance(executor, Executor):
        raise UserError(
            f"executor={type(executor).__name__}: give a concurrent.futures.Executor, such as of sharpness.cluster"
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise UserError("executor: threads of this process are used anyway, leave it out, or give processes")


def width(executor: Executor) -> int:
    """Return the number of simultaneous tasks that the executor states, or a usual one."""
    told = getattr(executor, "workers", None) or getattr(executor, "_max_workers", None)
    return int(told) if isinstance(told, int) and told > 0 else USUAL_WIDTH


def scratch_of(executor: Executor, folder: Path | None) -> Path | None:
    """Return a folder that workers see: ``folder``, else the scratch folder of a local executor, else None."""
    return folder if folder is not None else getattr(executor, "scratch", None)


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()
