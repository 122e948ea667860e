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
# # Add your own measure in ten lines
#
# Register a function of an objective, and it becomes a column of every table, with classes, groups, errors and plots. Takes ten seconds on two cores.

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
# Is a class at a minimum of its own loss? This measure is the norm of its gradient times the norm of the weights: the first-order change of the loss under a relative change of
# the weights. The function is called with all samples and with those of every class.


# %%
def relative_slope(objective):
    """||w|| ||grad L(w)||: the steepest change of the loss for a relative change of the weights."""
    weights = torch.cat([p.detach().flatten() for p in objective.parameters])
    return float(weights.norm() * objective.gradient().norm())


sharpness.register_measure("relative_slope", relative_slope, title="Relative slope")

# %% [markdown]
# ## In tables and plots

# %%
models = {label: sharpness.checkpoint_objective(folder / label) for label in ("ce", "ldam-drw", "cc-sam")}
tables = sharpness.measure(models, measures="accuracy,loss,relative_slope")
tables.pivot("relative_slope")

# %%
tables.plot(measure="all");

# %% [markdown]
# Rare classes have the steepest slope, because they contribute least to the gradient that training drives to zero. Does this correlate with accuracy? Kendall's tau over classes and over models:

# %%
sharpness.correlate(tables)

# %% [markdown]
# If the function returns `(value, standard error)`, the table shows errors, too. You can also use a measure from a file, `mine.py`, by its location:
# `sharpness measure RUN --measures loss,mine:relative_slope`. Methods, step rules, data sets and networks are added
# in the same way: see [extensions](../docs/extending.md).
