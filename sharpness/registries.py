"""Built-in names with their labels and import paths; objects are imported on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharpness.registry import Registry

_MEASURES = "sharpness.probes.measures"
#: Measures in the order of tables: title and import path; ``sharpness.probes.MEASURES`` is built from them.
MEASURES: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", f"{_MEASURES}.accuracy:ACCURACY"),
    "loss": ("Loss", f"{_MEASURES}.loss:LOSS"),
    "lambda_max": ("Largest eigenvalue", f"{_MEASURES}.extreme_eigenvalues:LAMBDA_MAX"),
    "lambda_min": ("Smallest eigenvalue", f"{_MEASURES}.extreme_eigenvalues:LAMBDA_MIN"),
    "trace": ("Trace", f"{_MEASURES}.trace:TRACE"),
    "random_rise": ("Random rise", f"{_MEASURES}.random_rise:RANDOM_RISE"),
    "worst_rise": ("Worst rise", f"{_MEASURES}.worst_rise:WORST_RISE"),
    "critical_radius": ("Critical radius", f"{_MEASURES}.critical_radius:CRITICAL_RADIUS"),
    "update_radius": ("Critical radius, last update", f"{_MEASURES}.critical_radius:UPDATE_RADIUS"),
    "soft_rank": ("Soft rank", f"{_MEASURES}.soft_rank:SOFT_RANK"),
    "relative_flatness": ("Relative flatness", f"{_MEASURES}.scale_free:RELATIVE_FLATNESS"),
    "fisher_rao_norm": ("Fisher-Rao norm", f"{_MEASURES}.scale_free:FISHER_RAO"),
    "displacement": ("Displacement to the optimum", f"{_MEASURES}.class_optima:DISPLACEMENT"),
    "optimum_loss": ("Loss at the own optimum", f"{_MEASURES}.class_optima:OPTIMUM_LOSS"),
    "ece": ("Expected calibration error", f"{_MEASURES}.confidence:ECE"),
    "margin": ("Margin", f"{_MEASURES}.confidence:MARGIN"),
}

#: Long-tail methods, functions from a ``LongTail`` to a ``Recipe``, in the order of figures and their colours.
METHODS: Registry[Callable[..., Any]] = Registry(
    "method",
    "sharpness.methods",
    {
        "ce": ("CE", "sharpness.methods.cross_entropy:recipe"),
        "ldam-drw": ("LDAM-DRW", "sharpness.methods.ldam:recipe"),
        "mislas": ("MiSLAS", "sharpness.methods.mislas:recipe"),
        "gcl": ("GCL", "sharpness.methods.gcl:recipe"),
        "cc-sam": ("CC-SAM", "sharpness.methods.cc_sam:recipe"),
        "ce-drw": ("CE-DRW", "sharpness.methods.ce_drw:recipe"),
        "focal": ("Focal", "sharpness.methods.focal:recipe"),
        "balanced-softmax": ("Balanced Softmax", "sharpness.methods.balanced_softmax:recipe"),
        "logit-adjustment": ("Logit adjustment", "sharpness.methods.logit_adjustment:recipe"),
        "crt": ("cRT", "sharpness.methods.crt:recipe"),
        "lws": ("LWS", "sharpness.methods.lws:recipe"),
        "tau-norm": ("τ-norm", "sharpness.methods.tau_norm:recipe"),
        "m2m": ("M2m", "sharpness.methods.m2m:recipe"),
        "rsg": ("RSG", "sharpness.methods.rsg:recipe"),
    },
    python="sharpness.methods.METHODS",
    option="--method",
)

#: Flattening operations for any method; each states its ``paper`` and its ``deviations`` from it.
OPERATIONS: Registry[Callable[..., Any]] = Registry(
    "flattening operation",
    "sharpness.operations",
    {
        "sam": ("SAM", "sharpness.flattening.sam:SAM"),
        "asam": ("ASAM", "sharpness.flattening.sam:ASAM"),
        "gp": ("GP", "sharpness.flattening.gradient_norm:GradientNormPenalty"),
        "mp": ("MP", "sharpness.flattening.model_perturbation:ModelPerturbation"),
        "imbsam": ("ImbSAM", "sharpness.flattening.imbsam:ImbSAM"),
        "focal-sam": ("Focal-SAM", "sharpness.flattening.focal_sam:FocalSAM"),
        "rwsam": ("rwSAM", "sharpness.flattening.rwsam:ReweightedSAM"),
        "fs-dgpm": ("FS-DGPM", "sharpness.flattening.fs_dgpm:FSDGPM"),
        "swa": ("SWA", "sharpness.flattening.swa:SWA"),
        "sn": ("SN", "sharpness.flattening.spectral_normalization:SpectralNormalization"),
        "pof": ("PoF", "sharpness.flattening.pof:PoF"),
    },
    python="sharpness.flattening.OPERATIONS",
)

#: Data sets, functions that return ``LongTailData``; their parameters are the options of the data set.
DATASETS: Registry[Callable[..., Any]] = Registry(
    "data set",
    "sharpness.datasets",
    {
        "digits-lt": "sharpness.data.digits:load_digits_lt",
        "cifar10-lt": "sharpness.data.cifar:cifar10_lt",
        "cifar100-lt": "sharpness.data.cifar:cifar100_lt",
        "cifar10": "sharpness.data.cifar:cifar10",
        "cifar100": "sharpness.data.cifar:cifar100",
        "imagenet-lt": "sharpness.data.listed_data:imagenet_lt",
        "places-lt": "sharpness.data.listed_data:places_lt",
        "inat18": "sharpness.data.listed_data:inat18",
        "glyphs-lt": "sharpness.data.listed_data:glyphs_lt",
        "list": "sharpness.data.listed_data:listed_data",
    },
    python="sharpness.data.DATASETS",
)

#: Readers of checkpoints of other code bases, tried in this order after registered ones: the most specific first.
FAMILIES: Registry[Any] = Registry(
    "family",
    "sharpness.checkpoints",
    {
        "mislas": "sharpness.checkpoints.families.mislas:FAMILY",
        "oltr": "sharpness.checkpoints.families.oltr:FAMILY",
        "m2m": "sharpness.checkpoints.families.m2m:FAMILY",
        "swa": "sharpness.checkpoints.families.swa:FAMILY",
        "gcl-places": "sharpness.checkpoints.families.gcl_places:FAMILY",
        "pof": "sharpness.checkpoints.families.pof:FAMILY",
        "bagoftricks": "sharpness.checkpoints.families.bagoftricks:FAMILY",
        "ldam": "sharpness.checkpoints.families.ldam:FAMILY",
        "cc-sam": "sharpness.checkpoints.families.cc_sam:FAMILY",
        "imbsam": "sharpness.checkpoints.families.imbsam:FAMILY",
        "plain": "sharpness.checkpoints.families.plain:FAMILY",
    },
    python="sharpness.checkpoints.FAMILIES",
    wanted="a sharpness.checkpoints.families.Family",
    fits=lambda family: all(
        hasattr(family, name) for name in ("matches", "read", "usual_files", "weights", "two_files", "twin")
    ),
)

#: Libraries of networks, by the word before the colon in ``--model timm:resnet18``.
HUBS: Registry[Any] = Registry(
    "library of networks",
    "sharpness.hubs",
    {
        "timm": "sharpness.models.hubs.timm:HUB",
        "torchvision": "sharpness.models.hubs.torchvision:HUB",
        "hf": "sharpness.models.hubs.huggingface:HUB",
    },
    python="sharpness.registries.HUBS",
    wanted="a sharpness.models.hubs.Hub",
    fits=lambda hub: hasattr(hub, "make") and hasattr(hub, "published"),
)
