"""Lists that papers share, recognised by their git blob ids, and properties of their data.

The fingerprints were read in the repositories of classifier-balancing, BALMS, MiSLAS, GCL, Saddle-LongTail, PaCo, BCL,
LIFT, Kaihua and Focal-SAM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sharpness.data.standardization import Standardization

IMAGENET = Standardization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INATURALIST = Standardization((0.466, 0.471, 0.380), (0.195, 0.194, 0.192))

#: Beginnings of git blob ids, and whose file it is.
FINGERPRINTS: Mapping[str, str] = {
    "a063f095fc": "ImageNet_LT_train of classifier-balancing, BALMS, MiSLAS, GCL, Saddle, PaCo, BCL, LIFT, Kaihua",
    "10096494e5": "ImageNet_LT_train of Focal-SAM: the same images in another order",
    "3ed3188b2f": "ImageNet_LT_val of classifier-balancing, BALMS, MiSLAS, GCL, Saddle, PaCo, BCL, LIFT, Kaihua",
    "76a2fb9749": "ImageNet_LT_test of classifier-balancing, BALMS, MiSLAS, GCL, Saddle, PaCo, BCL, LIFT",
    "0b447ac539": "ImageNet_LT_test of Kaihua: the flat folder of validation images",
    "6392252f8a": "Places_LT_train of classifier-balancing, BALMS, LIFT, Kaihua (train/airfield/x.jpg)",
    "1d608b558c": "Places_LT_train of MiSLAS, GCL, PaCo (data_256/a/airfield/x.jpg)",
    "b93a2ca58c": "Places_LT_val of classifier-balancing, BALMS, LIFT, Kaihua",
    "89c29c0973": "Places_LT_val of PaCo",
    "e732e58b8a": "Places_LT_test of classifier-balancing, BALMS, LIFT, Kaihua (val/airfield/x.jpg)",
    "d43400ac9b": "Places_LT_test of MiSLAS, GCL, PaCo (val_256/x.jpg)",
    "4accdb7584": "iNaturalist18_train of every repository that has one",
    "4c23900857": "iNaturalist18_val of every repository but Focal-SAM",
    "0218102407": "iNaturalist18_val of Focal-SAM",
}


@dataclass(frozen=True)
class PublishedData:
    """A data set that comes as lists.

    Attributes:
        lists: beginnings of the names of its list files, per part, the usual one first.
        num_classes: C; None where the training list tells.
        constants: what standardises its images.
        model: the usual network.
        augmentation: of training images, a name of ``sharpness.data.AUGMENTATIONS``.
        groups: the usual convention.
        tree: whether a bare tree of folders tells the labels.
        whole_names: whether its images are told apart by their whole names (``ImageList.whole``).
    """

    lists: Mapping[str, tuple[str, ...]]
    num_classes: int | None
    constants: Standardization = IMAGENET
    model: str = "resnet50"
    augmentation: str = "resized-crop-jitter"
    groups: str = "oltr"
    tree: bool = False
    whole_names: bool = False


def _lists(name: str) -> dict[str, tuple[str, ...]]:
    return {part: (f"{name}_{part}",) for part in ("train", "val", "test", "open")}


PUBLISHED: Mapping[str, PublishedData] = {
    "imagenet-lt": PublishedData(_lists("ImageNet_LT"), 1000),
    "places-lt": PublishedData(_lists("Places_LT"), 365, model="resnet152"),
    "inat18": PublishedData(
        {
            "train": ("iNaturalist18_train", "train2018"),
            "test": ("iNaturalist18_val", "val2018"),
            "open": ("iNaturalist18_open",),
        },
        8142,
        INATURALIST,
        augmentation="resized-crop",
        groups="mislas",
        tree=True,
    ),
    # A mirrored character is another sign: crops alone.
    "glyphs-lt": PublishedData(
        {part: (part,) for part in ("train", "test", "open")},
        None,
        Standardization((0.8,) * 3, (0.35,) * 3),
        model="resnet10",
        augmentation="crop",
    ),
    "list": PublishedData({part: (part,) for part in ("train", "val", "test", "open")}, None, whole_names=True),
}


def recognised(blob: str | None) -> str | None:
    """Whose list has this git blob id; None if nobody's that is known.

    >>> recognised("b93a2ca58c0000")
    'Places_LT_val of classifier-balancing, BALMS, LIFT, Kaihua'
    """
    return None if blob is None else FINGERPRINTS.get(blob[:10])
