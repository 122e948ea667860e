"""The names that help texts list: reading them from their registries would load all that these are made of.

They are what is built in, in the order of the registries; a test compares.
"""

AUGMENTATIONS = ("crop-flip", "crop", "none", "autoaugment-cutout", "resized-crop-jitter", "resized-crop")
CLASS_ORDERS = ("label", "introsort", "stable")
FIGURE_METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")
STUDY_METHODS = ("ce", "ldam-drw", "mislas", "gcl")
STUDY_OPERATIONS = ("none", "swa", "sn", "gp", "mp")
UNITS = ("linear", "cosine", "unit-features", "unit-weights")
#: In tables for which they are named alone.
UNUSUAL_MEASURES = (
    "trace", "critical_radius", "update_radius", "soft_rank", "relative_flatness", "fisher_rao_norm", "displacement",
    "optimum_loss", "ece", "margin",
)  # fmt: skip
