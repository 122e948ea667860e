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
# # A measure of your own in ten lines
#
# A function of an objective, once registered, stands in every table with its classes, groups, errors and pictures. Ten seconds on two cores.

# %%
import tempfile
from pathlib import Path

import torch

import sharpness

folder = Path(tempfile.mkdtemp())
data = sharpness.load_data("digits-lt")
for method in ("ce", "ldam-drw", "cc-sam"):
    sharpness.train(method, data, folder / method, epochs=10)

# %% [markdown]
# ## Ten lines
# Is a class at a minimum of its own loss? The norm of its gradient, relative to the norm of the weights: how much the loss changes, to first order, with a relative change of
# the weights. The function is called with all samples and with those of every class.


# %%
def relative_slope(objective):
    """||w|| ||grad L(w)||: the steepest change of the loss for a relative change of the weights."""
    weights = torch.cat([p.detach().flatten() for p in objective.parameters])
    return float(weights.norm() * objective.gradient().norm())


sharpness.register_measure("relative_slope", relative_slope, title="Relative slope")

# %% [markdown]
# ## In the table, and in pictures

# %%
models = {label: sharpness.checkpoint_objective(folder / label) for label in ("ce", "ldam-drw", "cc-sam")}
tables = sharpness.measure(models, measures="accuracy,loss,relative_slope")
tables.pivot("relative_slope")

# %%
tables.plot(measure="all");

# %% [markdown]
# The rare classes slope most: they have the least part in the gradient that was brought to zero. Does it go with accuracy? Kendall's tau, over classes and over models:

# %%
sharpness.correlate(tables)

# %% [markdown]
# A function that returns `(value, standard error)` has errors in the table as well. A measure of a file, `mine.py`, is found by its place:
# `sharpness measure RUN --measures loss,mine:relative_slope`. Methods, step rules, data sets and networks are added
# the same way: [extensions](../docs/extending.md).
