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
# # Explore two minima
#
# Train models from scratch, measure the sharpness of every class and which classes own it, plot planes and spectra, and build an interactive page, all on scikit-learn's 1,797 digits. Takes under a minute
# on two cores.

# %%
import tempfile
from pathlib import Path

import sharpness

data = sharpness.load_data("digits-lt")
data

# %% [markdown]
# Class 0 has 124 training images, class 9 has 4. `groups` lists the many-, medium- and few-shot classes, by a convention that is recorded with every result.

# %%
dict(zip(data.class_names, data.train_counts)), data.groups

# %% [markdown]
# Train two methods with their published recipes, shortened proportionally to 20 epochs.

# %%
runs = Path(tempfile.mkdtemp())
for method in ["ce", "cc-sam"]:
    history = sharpness.train(method, data, runs / method, epochs=20)
history[["stage", "epoch", "lr", "loss", "accuracy", "accuracy_few"]].tail(3).round(3)

# %% [markdown]
# **How flat is this minimum, for every class?** One row per class: accuracy, loss, the largest and smallest Hessian eigenvalue of the class's own loss, and the rise of that loss under random perturbation and in the worst case, each with its standard error.

# %%
table = sharpness.measure(runs / "cc-sam")
table

# %% [markdown]
# Pass a folder to compare all its checkpoints, with one panel per measure. To save time, we use at most 20 images per class from here on, weighted so that classes keep their shares of the overall loss.

# %%
sharpness.measure(runs, ["accuracy", "lambda_max", "worst_rise"], limit_per_class=20).plot(measure="all");

# %% [markdown]
# To compare models, pass a mapping: everything is measured on the same images, along the same directions.

# %%
models = {label: sharpness.checkpoint_objective(runs / label, limit_per_class=20) for label in ["ce", "cc-sam"]}
perturbed = sharpness.random_perturbation(models, radii=(0.05, 0.1, 0.2), draws=5)
perturbed.plot(of="few", title="Few-shot classes, radius 0.2");

# %%
spectra = sharpness.eigenvalues(models, which="both", per_class=True, keep_vectors=False, standard_errors=True)
spectra.plot(linthresh=1);

# %% [markdown]
# The first plot shows both ends of every class's spectrum, with 95 % intervals over its images; the second shows the whole spectrum of one class.

# %%
rarest = {label: model.restrict(data.longtail.tail_class) for label, model in models.items()}
sharpness.spectral_density(rarest, draws=3, steps=25).plot(title="The rarest class");

# %% [markdown]
# **Which classes make this minimum sharp?** The plot shows the three largest eigenvalues of the loss over *all* images, and each class's share of them.

# %%
owners = sharpness.owners(models, k=3)
owners.plot();

# %% [markdown]
# Which layers are sharp? The largest eigenvalue of each layer's diagonal block:

# %%
layers = sharpness.eigenvalues(models, per_group=True, per_layer=True)
layers.plot();

# %%
planes = sharpness.plane(models, x=(-0.5, 0.5, 31), y=(-0.5, 0.5, 31), adaptive=0.01)
print({label: f"{plane.evaluated.mean():.0%} of the points evaluated" for label, plane in planes.items()})
planes.plot();

# %% [markdown]
# The remaining points are interpolated to within 1 % of the relief, with an estimated error for every cell. Any class or group can be plotted from the same plane without new evaluations, also as a surface.

# %%
planes.plot(of=["many", "few"], kind="surface");

# %% [markdown]
# The loss along each model's sharpest direction (the unit-length top eigenvector of its Hessian), by group:

# %%
lines = sharpness.line(models, directions="hessian", x=(-2, 2, 41))
lines.plot(of=[None, "many", "medium", "few"]);

# %% [markdown]
# ## Interactive explorer
# The explorer links all views: class bars, the plane (click to see every class's loss at a point), owners and spectra. Results are frozen, record their provenance, and take one file each. The explorer only needs a
# folder of these files, neither the models nor torch. `explorer.save("page.html")` writes a single page that works offline.

# %%
results = runs / "results"
results.mkdir()
tables = sharpness.measure(models, "accuracy,loss,lambda_max")
for name, found in {"table": tables, "plane": planes, "spectrum": spectra, "owners": owners}.items():
    found.save(results / f"{name}.nc")
page = sharpness.explore(results).save(runs / "page.html")
print(f"{page.stat().st_size / 1e6:.1f} MB")

# %%
plane = sharpness.load_result(results / "plane.nc")["cc-sam"]
print(plane)
{k: plane.provenance[k] for k in ["probe", "loss", "samples", "num_parameters", "batchnorm", "torch"]}
