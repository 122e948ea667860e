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
# # Monitor sharpness during training
#
# Add a monitor to your own training loop. It measures a small fixed sample at the end of an epoch, within a given fraction of the time. Takes twenty seconds on two cores.

# %%
import pandas as pd
import torch
from torch import nn

import sharpness

data = sharpness.load_data("digits-lt")
x, y = data.train.tensors


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )


# %% [markdown]
# ## Two lines in the loop
# Create `monitor = Monitor(...)` before the loop and call `monitor.step(...)` at the end of every epoch. `log=` is called with the rows of every measurement. You can send them to `wandb.log` or TensorBoard
# ([how-to guide](../docs/howto/monitor.md)); here they go into a list.


# %%
def train(flatten=None, epochs=40, lr=0.05):
    model, rows = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2], gamma=0.1)
    stepper = flatten and sharpness.optimizers.wrap(optimizer, flatten, model, train_counts=data.train_counts)
    monitor = sharpness.Monitor(model, data.train, budget=0.5, groups=data.groups, log=rows.extend)
    for epoch in range(1, epochs + 1):
        model.train()
        torch.manual_seed(epoch)
        for batch in torch.randperm(len(y)).split(32):
            if stepper:
                stepper.step(x[batch], y[batch])
            else:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        monitor.step(epoch, lr=optimizer.param_groups[0]["lr"], event="drop" if epoch == epochs // 2 else "")
        schedule.step()
    return monitor, rows


plain, rows = train()
print(f"{plain.measured} of {plain.calls} epochs measured, in {plain.share:.0%} of the time")
pd.DataFrame(rows[-6:])

# %% [markdown]
# ## Largest eigenvalue, epoch by epoch
# The plot shows all images and every group. The dotted line is 2 / lr, above which plain gradient descent is unstable; a drop of the learning rate is marked as an event.

# %%
plain.history.plot("lambda_max");

# %% [markdown]
# ## Compare with a step rule
# The same loop with SAM; only one line changes.

# %%
sam, _ = train("sam")
sam.history.plot("lambda_max");

# %%
histories = {"SGD": plain.history.to_frame(), "SAM": sam.history.to_frame()}
pd.DataFrame({label: one.groupby(["measure", "of"])["value"].last() for label, one in histories.items()}).round(4)

# %% [markdown]
# With eight images per class errors are large, and there is one training of each: this illustrates what happens, but does not compare methods. For a comparison, measure the final models of several trainings
# ([compare for a paper](compare-for-a-paper.ipynb)).
