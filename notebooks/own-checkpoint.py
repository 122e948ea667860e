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
# # Measure a checkpoint of your own
#
# A network of yours, trained by a loop of yours, its weights in a file. How flat is its minimum, for every class? Ten seconds on two cores; the 8 x 8
# digits that scikit-learn ships stand in for your images.

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
# Nothing of this knows of `sharpness`.


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
# The file is read without running anything in it, and its weights must fill the network to the last one. Then its accuracy: a wrong normalisation or
# order of classes shows here, before any number of sharpness is believed.

# %%
checkpoint = sharpness.load_checkpoint(folder / "best.pth", model=network)
print(checkpoint.manifest.family, "epoch", checkpoint.manifest.epoch, *checkpoint.manifest.notes)
tests = sharpness.measure(checkpoint, data.test, measures="accuracy,loss", train_counts=data.train_counts)
tests

# %% [markdown]
# ## The table
# One row for all images, every group and every class. The intervals are over the images that are there: class 9 has four. The largest eigenvalue is of the
# class's *own* loss; the rise is along random directions, each filter's step a tenth of its norm.

# %%
objective = sharpness.Objective(checkpoint.model, data.train, train_counts=data.train_counts)
table = sharpness.measure(objective, measures="loss,lambda_max,lambda_min,random_rise,worst_rise")
table

# %%
table.plot(measure="all");

# %% [markdown]
# Notes say what makes a number weaker than it looks. Everything can be had without a picture, by name:

# %%
print(*table.notes, sep="\n")
table["lambda_max"].of("9"), table["lambda_max"].interval("9"), table["random_rise"].of("few")

# %% [markdown]
# ## Keep it
# One file with everything that is known of how the numbers came about, and tables for other programs.

# %%
path = table.save(folder / "table.nc")
table.to_frame().to_csv(folder / "table.csv", index=False)
again = sharpness.load_result(path)
{name: again.provenance[name] for name in ("probe", "loss", "samples", "num_parameters", "torch")}

# %% [markdown]
# The same from a shell: `sharpness measure best.pth --model mynets:network --images photos/val --train-counts counts.json`, where `mynets.py` holds the
# function. What the numbers say, and seven ways to be wrong with them: [read the numbers](read-the-numbers.ipynb).
