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
# # Read the numbers
#
# Six pitfalls, each illustrated by a number that is correct but misleading. Takes half a minute on two cores.

# %%
import copy

import pandas as pd
import torch
from torch import nn

import sharpness

data = sharpness.load_data("digits-lt")
x, y = data.train.tensors


def trained(seed, epochs=30):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


model = trained(seed=0)
train = sharpness.Objective(model, data.train, train_counts=data.train_counts)
test = sharpness.Objective(model, data.test, train_counts=data.train_counts)


def side_by_side(objectives, measures="accuracy,loss,lambda_max", of=None, **options):
    """One row for each objective: all samples, or a class or group."""
    tables = {label: sharpness.measure(one, measures=measures, **options) for label, one in objectives.items()}
    names = next(iter(tables.values())).names
    return pd.DataFrame({label: {n: table[n].of(of) for n in names} for label, table in tables.items()}).T


# %% [markdown]
# ## 1. Saturation: flat because it is confident
# Multiply the logits by two, and by three. No prediction changes, but the minimum looks different.


# %%
class Times(nn.Module):
    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


sharp = {f"logits x {f}": sharpness.Objective(Times(model, f).eval(), data.train) for f in (1, 2, 3)}
side_by_side(sharp)

# %% [markdown]
# **Look at the loss first.** Below 1e-4, flatness means little. `logits="temperature"` divides the logits of each network by its own temperature, fitted on images
# that are not probed. This makes the three networks identical again:

# %%
held_out = data.test.tensors
fair = {
    label: sharpness.Objective(one.model, data.train, logits="temperature", held_out=held_out)
    for label, one in sharp.items()
}
side_by_side(fair)

# %% [markdown]
# ## 2. Scale: the same function with different weights
# Multiplying a convolution in front of BatchNorm by a number does not change the function. (BatchNorm's statistics scale with it.)

# %%
rescaled = copy.deepcopy(model)
with torch.no_grad():
    for tensor in (rescaled[0].weight, rescaled[0].bias, rescaled[1].running_mean):
        tensor *= 0.3
    rescaled[1].running_var *= 0.3**2
same = {"as trained": train, "filters x 0.3": sharpness.Objective(rescaled, data.train)}
side_by_side(same, "loss,lambda_max,random_rise")

# %% [markdown]
# The loss and `random_rise`, whose step scales with the filter, are unchanged; the eigenvalue is not. **Use scale-invariant measures** when methods differ in
# weight decay or normalisation. Curvature can be made invariant, too, with filter coordinates:

# %%
side_by_side(same, "lambda_max", coordinates="filter")

# %% [markdown]
# ## 3. Four images
# Digit 9 has four training images. Here are three different sets of four test images of digit 9:

# %%
nines = (data.test.labels == 9).nonzero().squeeze(1)
samples = {f"images {i} to {i + 3}": nines[i : i + 4] for i in range(0, 20, 4)} | {"all of them": nines}
fours = {label: sharpness.Objective(model, data.test.subset(chosen.tolist())) for label, chosen in samples.items()}
side_by_side(fours, of="9")

# %% [markdown]
# **The interval reflects this**, and so does a comparison with classes of equal size, `match_samples=`:

# %%
own = sharpness.eigenvalues(train, per_class=True, standard_errors=True)
equal = sharpness.eigenvalues(train, per_class=True, match_samples=4)
columns = {"all images": own.largest, "four of each": equal.largest, "images": own.class_samples}
pd.DataFrame(columns, index=data.class_names)

# %% [markdown]
# ## 4. Training images or test images
# On training images, a class can be flat simply because it is fitted. Commands state their split: `measure` uses training images by default, `inspect` test images; change it with `--split`.

# %%
side_by_side({"training images, few": train, "test images, few": test}, of="few")

# %% [markdown]
# ## 5. BatchNorm
# In training mode, the loss of an image depends on the other images in the batch, and every number on the batch size. Such models are refused:

# %%
try:
    sharpness.Objective(copy.deepcopy(model).train(), data.train).loss()
except sharpness.UserError as error:
    print(error)

# %% [markdown]
# In eval mode, the statistics are those from training. Far from the trained weights they no longer fit the network, so plots partly show an effect of BatchNorm there. Compare the same
# random directions with fixed statistics and with statistics re-estimated at every point:

# %%
anew = sharpness.Objective(model, data.train, train_counts=data.train_counts, batchnorm="recalibrate")
both = {"as trained": train, "estimated anew": anew}
rises = {label: sharpness.random_perturbation(one, radii=(0.1, 0.5, 1.0), draws=5) for label, one in both.items()}
pd.DataFrame({label: rise.losses.mean(axis=1) for label, rise in rises.items()}, index=["radius 0.1", "0.5", "1"]).T

# %% [markdown]
# ## 6. One seed
# Three trainings that differ only in their seed:

# %%
seeds = {f"seed {s}": sharpness.Objective(trained(s), data.train, train_counts=data.train_counts) for s in range(3)}
side_by_side(seeds, "loss,lambda_max,random_rise", of="few")

# %% [markdown]
# A difference between two methods that is smaller than this is not a result. **Train several seeds**: for a list of trainings under one label, tables show mean ± standard deviation.

# %%
sharpness.measure({"CE": list(seeds.values())}, measures="loss,lambda_max,random_rise")
