"""The names that help texts list: reading them from their registries would load all that these are made of.

They are what is built in, in the order of the registries; a test compares.
"""

AUGMENTATIONS = ("crop-flip", "crop", "none", "autoaugment-cutout")
CLASS_ORDERS = ("label", "introsort", "stable")
DATASETS = ("digits-lt", "cifar10-lt", "cifar100-lt", "cifar10", "cifar100")
FAMILIES = ("mislas", "oltr", "m2m", "swa", "gcl-places", "pof", "bagoftricks", "ldam", "cc-sam", "imbsam", "plain")
FIGURE_METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")
MEASURES = ("accuracy", "loss", "lambda_max", "lambda_min", "trace", "random_rise", "worst_rise")
METHODS = (
    "ce",
    "ldam-drw",
    "mislas",
    "gcl",
    "cc-sam",
    "ce-drw",
    "focal",
    "balanced-softmax",
    "logit-adjustment",
    "crt",
    "lws",
    "tau-norm",
    "m2m",
    "rsg",
)
OPERATIONS = ("sam", "asam", "gp", "mp", "imbsam", "focal-sam", "rwsam", "fs-dgpm", "swa", "sn", "pof")
STUDY_METHODS = ("ce", "ldam-drw", "mislas", "gcl")
STUDY_OPERATIONS = ("none", "swa", "sn", "gp", "mp")
UNITS = ("linear", "cosine", "unit-features", "unit-weights")
#: In tables for which they are named alone.
UNUSUAL_MEASURES = ("trace",)
