"""Peak memory of a gradient or of products, each in a process of its own.

    python benchmarks/memory.py "plain double backward" run channels-last resnet32 128

Reported is by how much the peak of the resident memory exceeds what the process held before: imports, model and images.
The peak is Linux's VmHWM, because getrusage's ru_maxrss carries the parent's peak over into a new process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contenders import CONTENDERS
from workloads import gradient, random_images, unit_vector

GRADIENT = "gradient"


def peak_memory(name: str, kind: str, layout: str, model: str, images: int) -> float:
    """In MiB, of a ``gradient``, or of a contender's product ``alone``, or of three in a ``run``."""
    command = [sys.executable, __file__, name, kind, layout, model, str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    name, kind, layout, model, images = sys.argv[1:]
    problem = random_images(model, int(images), layout)
    contenders = {c.name: c for c in CONTENDERS}
    contender = None if name == GRADIENT else contenders[name](*problem)
    before = _resident("VmRSS")
    if contender is None:
        gradient(problem)
    else:
        v = unit_vector(contender.size)
        if kind == "alone":
            contender.product(v)
        else:
            with contender.run() as product:
                for _ in range(3):
                    product(v)
    print(_resident("VmHWM") - before)


def _resident(field: str) -> float:
    """A field of this process's memory, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}: the memory is measured on Linux only")


if __name__ == "__main__":
    main()
