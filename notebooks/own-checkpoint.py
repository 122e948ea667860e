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
# # Measure your own checkpoint
#
# You have trained a network with your own code and saved its weights. How flat is its minimum, for every class? This notebook takes ten seconds on two cores and uses scikit-learn's 8 x 8
# digits in place of your images.

# %%
import tempfile
from pathlib import Path

import torch
from torch import nn

import sharpness

folder = Path(tempfile.mkdtemp())
data = sharpness.load_data("digits-lt")  # a long tail: 124 images of digit 0, 4 of digit 9
x, y = data.train.tensors
x.shape, data.train_counts

# %% [markdown]
# ## The network and its file
# This part does not use `sharpness`.


# %%
def network(width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    )


torch.manual_seed(0)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
for epoch in range(15):
    for batch in torch.randperm(len(y)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
torch.save({"state_dict": model.state_dict(), "epoch": 15}, folder / "best.pth")

# %% [markdown]
# ## Is it what you think it is?
# The file is read without executing anything in it, and its weights must match the network exactly. Check the accuracy first: it reveals a wrong normalisation or
# class order before you trust any sharpness value.

# %%
checkpoint = sharpness.load_checkpoint(folder / "best.pth", model=network)
print(checkpoint.manifest.family, "epoch", checkpoint.manifest.epoch, *checkpoint.manifest.notes)
tests = sharpness.measure(checkpoint, data.test, measures="accuracy,loss", train_counts=data.train_counts)
tests

# %% [markdown]
# ## The table
# There is one row for all images, one per group and one per class. The intervals are over the available images: class 9 has four. The largest eigenvalue belongs to the
# class's *own* loss. The rise is along random directions, where each filter moves by a tenth of its norm.

# %%
objective = sharpness.Objective(checkpoint.model, data.train, train_counts=data.train_counts)
table = sharpness.measure(objective, measures="loss,lambda_max,lambda_min,random_rise,worst_rise")
table

# %%
table.plot(measure="all");

# %% [markdown]
# Notes state why a number is weaker evidence than it looks. You can also access every value by name:

# %%
print(*table.notes, sep="\n")
table["lambda_max"].of("9"), table["lambda_max"].interval("9"), table["random_rise"].of("few")

# %% [markdown]
# ## Save it
# Save one file with the numbers and their full provenance, and tables for other programs.

# %%
path = table.save(folder / "table.nc")
table.to_frame().to_csv(folder / "table.csv", index=False)
again = sharpness.load_result(path)
{name: again.provenance[name] for name in ("probe", "loss", "samples", "num_parameters", "torch")}

# %% [markdown]
# On the command line: `sharpness measure best.pth --model mynets:network --images photos/val --train-counts counts.json`, where `mynets.py` contains the
# function. To learn how to interpret the numbers, see [read the numbers](read-the-numbers.ipynb).
