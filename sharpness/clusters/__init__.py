"""Independent work on other processes and machines, through the standard ``concurrent.futures.Executor``."""

from sharpness.clusters.address import FORMS, cluster
from sharpness.clusters.parcel import Parcel, parcelled
from sharpness.clusters.processes import Processes
from sharpness.clusters.tasks import do_all, require_executor, scratch_of, width

__all__ = [
    "FORMS",
    "Parcel",
    "Processes",
    "cluster",
    "do_all",
    "parcelled",
    "require_executor",
    "scratch_of",
    "width",
]
