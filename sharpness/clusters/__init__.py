"""Independent work on other processes and machines, through the standard ``concurrent.futures.Executor``."""

from sharpness.clusters.address import FORMS as FORMS, cluster as cluster
from sharpness.clusters.parcel import Parcel as Parcel, parcelled as parcelled
from sharpness.clusters.processes import Processes as Processes
from sharpness.clusters.tasks import (
    do_all as do_all,
    require_executor as require_executor,
    scratch_of as scratch_of,
    width as width,
)
