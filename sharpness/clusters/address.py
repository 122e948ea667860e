"""Executors by address, as given to ``--cluster``."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from contextlib import AbstractContextManager

from sharpness.clusters.processes import Processes
from sharpness.errors import UserError

#: Forms of an address, for messages and help.
FORMS = "processes:N, dask:ADDRESS, slurm:partition=NAME,gpus=1,jobs=8 or local:N (submitit without Slurm)"


def cluster(address: str) -> AbstractContextManager[Executor]:
    """Connect to the workers at an address: an executor that is also a context manager.

    Args:
        address: ``"processes:2"`` for processes on this machine; ``"dask:tcp://HOST:8786"`` for a Dask scheduler, given
            by its address or the path of its scheduler file; ``"dask:local:2"`` to start a local Dask cluster;
            ``"slurm:..."`` for Slurm jobs through submitit, with ``jobs`` at a time (8), ``hours`` (24), ``gpus``,
            ``cpus`` and ``mem`` (GB) per job, ``folder`` for their logs, and the sbatch options that submitit knows by
            name, such as ``partition``; or ``"local:2"`` for the same jobs as local processes.

    Returns:
        An executor for ``executor=`` of probes and studies.

    Raises:
        UserError: an address of another form, or an engine that is not installed or not reachable.

    >>> with cluster("processes:1") as executor:
    ...     executor.submit(sum, [1, 2]).result()
    3
    """
    kind, _, rest = address.partition(":")
    if kind not in ("processes", "dask", "slurm", "local") or (not rest and kind != "slurm"):
        raise UserError(f"cluster {address!r}: write {FORMS}")
    if "RANK" in os.environ:
        raise UserError(
            f"cluster {address!r} under torchrun: its processes share the work already, leave one of them out"
        )
    if kind == "processes":
        return Processes(_whole(kind, rest))
    from sharpness.clusters.engines import Jobs, dask

    if kind == "dask":
        return dask(rest)
    if kind == "local":
        return Jobs(kind, _whole(kind, rest), {})
    settings: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        if not name or not value:
            raise UserError(f"cluster slurm:{rest}: write name=value with commas, such as slurm:partition=gpu,gpus=1")
        settings[name.strip()] = value.strip()
    return Jobs(kind, _whole("slurm:jobs", settings.pop("jobs", "8")), settings)


def _whole(kind: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"cluster {kind}:{number}: give the number of workers, at least 1, such as {kind}:2")
    return int(number)
