# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare methods for a paper
#
# Compare two methods with three trainings each: a LaTeX table, a statistical test, and a column-width figure with its caption. Takes under a minute on two cores.

# %%
import tempfile
from pathlib import Path

import sharpness
from sharpness.results.caption import caption

folder = Path(tempfile.mkdtemp())
data = sharpness.load_data("digits-lt")
models = {"CE": "ce", "CC-SAM": "cc-sam"}
for method in models.values():
    for seed in range(3):
        sharpness.train(method, data, folder / method / str(seed), epochs=15, seed=seed)

# %% [markdown]
# **Three trainings are one model**: pass them as a list under one label. Use test images, because papers report accuracy on them and because no class is fitted perfectly there. Use
# equally many images per class, because the largest eigenvalue of a mean over few images is larger by chance.

# %%
trainings = {label: [folder / method / str(seed) for seed in range(3)] for label, method in models.items()}
measures = "accuracy,loss,lambda_max,random_rise"
tables = sharpness.measure(trainings, measures=measures, split="test", limit_per_class=20)
tables

# %% [markdown]
# The table shows the mean ± standard deviation over trainings, and in brackets the standard error of one training over images or draws. Only the former says something about a *method*. Would the
# difference hold for another seed? Trainings with the same seed are paired, since they saw the same images in the same order:

# %%
tables.paired(subsets=[None, "few"]).to_frame()

# %% [markdown]
# Three pairs can never reach p = 0.05: the smallest p-value of a sign-flip test is 2^(1-3). The line below the table says so. Such a claim needs at least
# six seeds.
#
# ## The table for LaTeX
# It uses `booktabs`; numbers are rounded to their errors.

# %%
print(tables.to_latex())

# %% [markdown]
# ## A figure at column width
# It is 3.3 inches wide, with fonts of caption size. The file is a PDF with embedded fonts.

# %%
objectives = {
    label: [sharpness.checkpoint_objective(run, split="test", limit_per_class=20) for run in runs]
    for label, runs in trainings.items()
}
rises = sharpness.random_perturbation(objectives, radii=(0.05, 0.1), draws=5)
axes = rises.plot(of="few", width="single")
axes.figure.savefig(folder / "rises.pdf")

# %% [markdown]
# ## Its caption
# It states everything a reader must know about the numbers; shorten it as needed:

# %%
for heading, line in caption("Rise of the loss under random perturbation, few-shot classes", rises, "test").items():
    print(f"{heading}: {line}")

# %% [markdown]
# On the command line, `sharpness measure runs/paper --split test -o table.tex --plot table --width single` writes table, figure and caption.
