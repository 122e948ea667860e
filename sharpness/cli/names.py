"""Names listed in help texts, copied here because importing their registries would load torch.

They are the built-in names in the order of the registries; a test compares them.
"""

AUGMENTATIONS = ("crop-flip", "crop", "none", "autoaugment-cutout", "resized-crop-jitter", "resized-crop")
CLASS_ORDERS = ("label", "introsort", "stable")
FIGURE_METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")
STUDY_METHODS = ("ce", "ldam-drw", "mislas", "gcl")
STUDY_OPERATIONS = ("none", "swa", "sn", "gp", "mp")
UNITS = ("linear", "cosine", "unit-features", "unit-weights")
#: Measures that are only in a table if they are named.
UNUSUAL_MEASURES = (
    "trace", "critical_radius", "update_radius", "soft_rank", "relative_flatness", "fisher_rao_norm", "displacement",
    "optimum_loss", "ece", "margin",
)  # fmt: skip
