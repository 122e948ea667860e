"""Measure what the gallery's scripts draw: CE and CC-SAM of `make demo`, 20 images of each class (a minute).

python docs/examples/results/make.py [RUNS]    RUNS: runs/demo unless given
"""

import sys
from pathlib import Path

import sharpness

HERE = Path(__file__).parent
RUNS = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[2] / "runs" / "demo")

models = {
    label: sharpness.checkpoint_objective(RUNS / run / "seed-0", limit_per_class=20)
    for label, run in {"CE": "ce", "CC-SAM": "cc-sam"}.items()
}
results = {
    "table": sharpness.measure(models),
    "perturbation": sharpness.random_perturbation(models, radii=(0.02, 0.05, 0.1, 0.2), draws=10),
    "worst": sharpness.worst_case(models, 0.05),
    "eigenvalues": sharpness.eigenvalues(
        models, which="both", per_class=True, keep_vectors=False, standard_errors=True
    ),
    "layers": sharpness.eigenvalues(models, per_group=True, per_layer=True),
    "density": sharpness.spectral_density(models, per_class=True, draws=2, steps=30),
    "line": sharpness.line(models, x=(-1, 1, 41)),
    "plane": sharpness.plane(models, x=(-1, 1, 31), y=(-1, 1, 31)),
}
for name, result in results.items():
    result.save(HERE / f"{name}.nc")
