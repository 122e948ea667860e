"""Published schedules for ImageNet-LT, Places-LT and iNaturalist 2018, which replace those for CIFAR.

The numbers are those of the official repositories. Two conventions of the cosine are in use. classifier-balancing and
BALMS step the scheduler before an epoch, so that the last epoch has a learning rate of 0, and drop an incomplete last
batch. MiSLAS, GCL and Saddle-LongTail count epochs from 0 and use all batches. If numbers are not published, a note on
the card states the source of those used instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sharpness.data import LongTail
from sharpness.methods.changes import Rescale
from sharpness.methods.recipe import Recipe
from sharpness.methods.schedules import Cosine, CosineToZero, MultiStep

DATASETS = ("imagenet-lt", "places-lt", "inat18")
#: Fields of a stage and the options of another name that set them.
OPTIONS = {"frozen_batchnorm": "shift_batchnorm"}
#: Cosine of classifier-balancing, whose last epoch has learning rate 0, and that of MiSLAS, GCL and Saddle-LongTail.
TO_ZERO, COSINE = CosineToZero(), Cosine()


@dataclass(frozen=True)
class Published:
    """Changes of a recipe's stages for one data set.

    Attributes:
        stages: fields of each stage; those of its loss are under ``"loss"``.
        notes: notes for the card, in addition to those of the recipe for all data.
        head_scale: logit scale of a cosine head; None keeps that of the recipe.
    """

    stages: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    head_scale: float | None = None


def _stage(epochs: int, batch: int, lr: float, decay: float, schedule: Any = TO_ZERO, **more: Any) -> dict[str, Any]:
    # Other schedules leave incomplete batches to the recipe: CC-SAM's released code drops them.
    dropped = {"drop_last": True} if isinstance(schedule, CosineToZero) else {}
    return {"epochs": epochs, "batch_size": batch, "lr": lr, "weight_decay": decay, "schedule": schedule,
            **dropped, **more}  # fmt: skip


#: The steps for Places-LT in the code of OLTR and RSG.
_PLACES_STEPS = MultiStep((10, 20), (0.1, 0.01), warmup=1, warmup_start=1.0, of=30)
#: Stage 1 of classifier-balancing; the one for Places-LT is not published.
_KANG = {
    "imagenet-lt": _stage(90, 512, 0.2, 5e-4),
    "inat18": _stage(90, 512, 0.2, 1e-4),
    "places-lt": _stage(30, 128, 1e-3, 5e-4, _PLACES_STEPS),
}
_PLACES_STAGE_1 = (
    "stage 1 for Places-LT is not published by classifier-balancing: 30 epochs of OLTR's at 0.001, all layers trained",
)
_GCL_PLACES = MultiStep((60, 80), (0.1, 0.01), of=90)
_MISLAS = {"imagenet-lt": (180, 5e-4, 0.3, 0.0), "inat18": (200, 1e-4, 0.3, 0.0), "places-lt": (90, 5e-4, 0.4, 0.1)}
_GCL = Published(
    (
        _stage(90, 512, 0.2, 5e-4, _GCL_PLACES, mixup=0.2, loss={"kappa": 1.0, "scale": 30.0}),
        _stage(
            30, 512, 0.002, 5e-4, COSINE, mixup=0.2, sampler="inverse_frequency",
            loss={"kappa": 1.0, "scale": 15.0, "margin": 0.1, "gamma": 1.0},
        ),
    ),
    head_scale=15.0,
)  # fmt: skip
_CC_SAM_BATCH = {"imagenet-lt": 256, "inat18": 512, "places-lt": 128}


def _rows() -> dict[tuple[str, str], Published]:
    rows: dict[tuple[str, str], Published] = {}
    # Rows exist for unpublished combinations, too: their notes state the source of the numbers.
    for data in DATASETS:
        first, places = _KANG[data], _PLACES_STAGE_1 if data == "places-lt" else ()
        decay, small = first["weight_decay"], data == "places-lt"
        again = {"imagenet-lt": 10, "inat18": 30, "places-lt": 10}[data]
        batch, lr = (256, 0.1) if small else (512, 0.2)
        rows["ce", data] = Published((first,), places)
        rows["crt", data] = Published((first, _stage(again, batch, lr, decay)), places)
        rows["lws", data] = Published((first, _stage(5, batch, 0.1 if small else 0.2, decay)), places)
        rows["tau-norm", data] = Published((first, {}), places)
        epochs, mislas_decay, head, tail = _MISLAS[data]
        rows["mislas", data] = Published(
            (
                _stage(epochs, 256, 0.1, mislas_decay, COSINE, mixup=0.2),
                _stage(
                    10, 256, 0.1, mislas_decay, COSINE, frozen_batchnorm=False, loss={"head": head, "tail": tail},
                    lr_factors=(("head.head.", 0.05),),
                ),
            ),
            ("published with the augmentation resized-crop-jitter",) if data == "inat18" else (),
        )  # fmt: skip
        rows["gcl", data] = replace(
            _GCL,
            notes=("published with the augmentation resized-crop",)
            if small
            else (f"GCL is not published for {data}: the numbers for Places-LT were taken",),
        )
        schedule = _stage(epochs, _CC_SAM_BATCH[data], 0.1, mislas_decay, COSINE)
        unknown = "epochs and learning rate of CC-SAM are not published for this data: MiSLAS's were taken"
        rows["cc-sam", data] = Published(
            (schedule, {"batch_size": _CC_SAM_BATCH[data]}), (f"{unknown}; batches as the paper has them",)
        )
    rows["ldam-drw", "imagenet-lt"] = Published(
        (_stage(90, 256, 0.2, 2e-4, COSINE, loss={"max_margin": 0.3, "reweight_from": 60 / 90}),),
        ("the numbers of Saddle-LongTail",),
    )
    rows["ldam-drw", "inat18"] = Published(
        (_stage(90, 256, 0.1, 1e-4, COSINE, loss={"max_margin": 0.3, "reweight_from": 60 / 90}),),
        ("the numbers of Saddle-LongTail; from which epoch it re-weights is taken from its ImageNet-LT",),
    )
    rows["ldam-drw", "places-lt"] = Published(
        (
            _stage(
                30, 256, 0.01, 1e-4, _PLACES_STEPS, loss={"max_margin": 0.2, "scale": 50.0, "reweight_from": 10 / 30}
            ),
        ),
        ("the numbers of RSG's code",),
        head_scale=50.0,
    )
    rows["balanced-softmax", "imagenet-lt"] = Published(
        (_KANG["imagenet-lt"], _stage(10, 512, 0.4, 5e-4)), ("the numbers of BALMS for ResNet-10",)
    )
    rows["balanced-softmax", "inat18"] = Published(
        (_KANG["inat18"], _stage(10, 512, 0.4, 1e-4)),
        ("Balanced Softmax is not published for iNaturalist: epochs of BALMS for ImageNet-LT, weight decay of cRT",),
    )
    rows["balanced-softmax", "places-lt"] = Published(
        (_KANG["places-lt"], _stage(10, 256, 0.02, 5e-4)), _PLACES_STAGE_1
    )  # fmt: skip
    return rows


#: Rows by method and data set.
PUBLISHED: Mapping[tuple[str, str], Published] = _rows()


def at_large_scale(recipe: Recipe, longtail: LongTail, given: Collection[str] = ()) -> Recipe:
    """Replace the numbers of a recipe by the published ones for a large data set; other data keep those of the recipe.

    If a method has no numbers for a large data set, it keeps those for CIFAR, and a note says so.

    Args:
        recipe: recipe of a method.
        longtail: the training set.
        given: names of options that the user chose, which keep their values.
    """
    if longtail.dataset not in DATASETS:
        return recipe.noted(*recipe.cifar_notes)
    row = PUBLISHED.get((recipe.method, longtail.dataset))
    if row is None:
        taken = f"no numbers are published for {longtail.dataset}: those for CIFAR were taken"
        return recipe.noted(*recipe.cifar_notes, taken)
    chosen = {*given, *(field for field, option in OPTIONS.items() if option in given), "loss"}
    stages = []
    for stage, changes in zip(recipe.stages, row.stages, strict=False):
        kept = {name: value for name, value in changes.items() if name not in chosen}
        of_loss = {name: value for name, value in changes.get("loss", {}).items() if name not in chosen}
        stages.append(replace(stage, **kept, loss=replace(stage.loss, **of_loss)))  # type: ignore[type-var]
    # With two stages, the first has the scale of the recipe, and the second sets its own scale when it is entered.
    scale, last = recipe.scale, None if "scale" in given else row.head_scale
    if last is not None and len(stages) == 1:
        scale = last
    elif last is not None:
        stages[1] = replace(stages[1], enter=(Rescale(last),))
    places = longtail.dataset == "places-lt"
    trunk = places and recipe.method in ("mislas", "gcl", "cc-sam")
    changed = replace(recipe, stages=tuple(stages), scale=scale, pretrained=places, frozen_trunk=trunk)
    return changed.noted(*row.notes)
