"""Executors by their address, as ``--cluster`` takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager

from sharpness.clusters.processes import Processes
from sharpness.errors import UserError

#: Forms of an address, for messages and help.
FORMS = "processes:N, dask:ADDRESS, slurm:partition=NAME,gpus=1,jobs=8 or local:N (submitit without Slurm)"


def cluster(address: str) -> AbstractContextManager[Executor]:
    """Workers at an address, as an executor that ends with its context.

    Args:
        address: ``"processes:2"``, processes of this machine; ``"dask:tcp://HOST:8786"``, a Dask scheduler, or the path
            of its scheduler file, or ``"dask:local:2"``, processes of a scheduler of its own; ``"slurm:..."``, jobs of
            Slurm through submitit: ``jobs`` at a time (8), ``hours`` (24), ``gpus``, ``cpus`` and ``mem`` (GB) of each,
            ``folder`` for their logs, and any other option of sbatch by its name, such as ``partition``; or
            ``"local:2"``, the same jobs as processes here.

    Returns:
        An executor for ``executor=`` of probes and studies.

    Raises:
        UserError: another form, or an engine that is not installed or not there.

    >>> with cluster("processes:1") as executor:
    ...     executor.submit(sum, [1, 2]).result()
    3
    """
    kind, separator, rest = address.partition(":")
    makers: dict[str, Callable[[str], AbstractContextManager[Executor]]] = {
        "processes": _processes, "dask": _dask, "slurm": _slurm, "local": _local,
    }  # fmt: skip
    if kind not in makers or (not rest and kind != "slurm"):
        raise UserError(f"cluster {address!r}: write {FORMS}")
    if "RANK" in os.environ:
        raise UserError(
            f"cluster {address!r} under torchrun: its processes share the work already, leave one of them out"
        )
    return makers[kind](rest)


def _processes(number: str) -> AbstractContextManager[Executor]:
    return Processes(_whole("processes", number))


def _dask(address: str) -> AbstractContextManager[Executor]:
    from sharpness.clusters.engines import dask

    return dask(address)


def _slurm(text: str) -> AbstractContextManager[Executor]:
    from sharpness.clusters.engines import Jobs

    settings: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator or not name or not value:
            raise UserError(f"cluster slurm:{text}: write name=value with commas, such as slurm:partition=gpu,gpus=1")
        settings[name.strip()] = value.strip()
    number = _whole("slurm:jobs", settings.pop("jobs", "8"))
    return Jobs("slurm", number, settings)


def _local(number: str) -> AbstractContextManager[Executor]:
    from sharpness.clusters.engines import Jobs

    return Jobs("local", _whole("local", number), {})


def _whole(kind: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"cluster {kind}:{number}: give the number of workers, at least 1, such as {kind}:2")
    return int(number)
