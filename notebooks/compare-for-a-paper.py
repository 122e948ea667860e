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
# Two methods, three trainings of each: a table in LaTeX, a test, a picture at the width of a column and its caption. Under a minute on two cores.

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
# **Three trainings are one model**: the list under a label. Test images, because accuracy is quoted on them, and because no class is fitted to the end there; as
# many of every class, because the largest eigenvalue of a mean over few images is larger by chance.

# %%
trainings = {label: [folder / method / str(seed) for seed in range(3)] for label, method in models.items()}
measures = "accuracy,loss,lambda_max,random_rise"
tables = sharpness.measure(trainings, measures=measures, split="test", limit_per_class=20)
tables

# %% [markdown]
# Mean ± standard deviation over trainings, in brackets the standard error of one training over images or draws. Only the first speaks of a *method*. Does the
# difference survive another seed? Trainings of one seed are paired, as they saw the same images in the same order:

# %%
tables.paired(subsets=[None, "few"]).to_frame()

# %% [markdown]
# Three pairs never reach p = 0.05, whatever they show: 2^(1-3) is the least that sign flips can give. The line below the table says so. Six seeds would be the
# least for such a claim.
#
# ## The table for LaTeX
# With `booktabs`; every number ends at the first digit of its error.

# %%
print(tables.to_latex())

# %% [markdown]
# ## One picture at the width of a column
# 3.3 inches, with fonts of the size of a caption. The file is a PDF with embedded fonts.

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
# What a reader must know of the numbers, ready to be shortened:

# %%
for heading, line in caption("Rise of the loss under random perturbation, few-shot classes", rises, "test").items():
    print(f"{heading}: {line}")

# %% [markdown]
# From a shell: `sharpness measure runs/paper --split test -o table.tex --plot table --width single` writes table, picture and caption.
