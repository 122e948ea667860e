"""Long-tail methods: what a recipe is, and one file per paper."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sharpness.data import LongTail
from sharpness.errors import UserError, choose
from sharpness.methods import (
    balanced_softmax,
    cc_sam,
    ce_drw,
    cross_entropy,
    crt,
    focal,
    gcl,
    ldam,
    logit_adjustment,
    lws,
    m2m,
    mislas,
    rsg,
    tau_norm,
)
from sharpness.methods.flattened import flattened
from sharpness.methods.recipe import Recipe, Stage

METHODS: dict[str, Callable[..., Recipe]] = {
    "ce": cross_entropy.recipe,
    "ldam-drw": ldam.recipe,
    "mislas": mislas.recipe,
    "gcl": gcl.recipe,
    "cc-sam": cc_sam.recipe,
    "ce-drw": ce_drw.recipe,
    "focal": focal.recipe,
    "balanced-softmax": balanced_softmax.recipe,
    "logit-adjustment": logit_adjustment.recipe,
    "crt": crt.recipe,
    "lws": lws.recipe,
    "tau-norm": tau_norm.recipe,
    "m2m": m2m.recipe,
    "rsg": rsg.recipe,
}

#: How figures and tables spell them.
LABELS = {
    "ce": "CE",
    "ldam-drw": "LDAM-DRW",
    "mislas": "MiSLAS",
    "gcl": "GCL",
    "cc-sam": "CC-SAM",
    "ce-drw": "CE-DRW",
    "focal": "Focal",
    "balanced-softmax": "Balanced Softmax",
    "logit-adjustment": "Logit adjustment",
    "crt": "cRT",
    "lws": "LWS",
    "tau-norm": "τ-norm",
    "m2m": "M2m",
    "rsg": "RSG",
}


def build_recipe(method: str, longtail: LongTail, **options: Any) -> Recipe:
    """The recipe of a method for a data set; ``options`` are those of the method's own ``recipe`` function.

    Raises:
        UserError: unknown method or option; the message lists what there is.
    """
    choose("method", method, list(METHODS))
    known = [name for name in inspect.signature(METHODS[method]).parameters if name != "longtail"]
    for name in options:
        if name not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise UserError(f"unknown option {name!r} of {method}: it {has}")
    return METHODS[method](longtail, **options)


__all__ = ["LABELS", "METHODS", "Recipe", "Stage", "build_recipe", "flattened"]
