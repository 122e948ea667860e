"""Path styles of the published lists, and which of them a user's disk has.

The list of Places-LT comes as ``train/airfield/x.jpg`` and as ``data_256/a/airfield/x.jpg``, its test list as
``val/airfield/Places365_val_1.jpg`` and as ``val_256/Places365_val_1.jpg``; that of ImageNet-LT's test images as
``val/n01440764/ILSVRC2012_val_1.JPEG`` and as ``val/ILSVRC2012_val_1.JPEG``. The images are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sharpness.errors import UserError, shown

Style = Callable[[str, str], str]


def as_listed(name: str, folder: str) -> str:
    """The name itself."""
    return name


def by_class(name: str, folder: str) -> str:
    """``train/a[-b]/x.jpg`` of ``data_256/letter/a[/b]/x.jpg``, and ``val/CLASS/x.jpg`` of a flat ``val`` folder.

    >>> by_class("data_256/a/apartment_building/outdoor/1.jpg", "")
    'train/apartment_building-outdoor/1.jpg'
    >>> by_class("val_256/Places365_val_1.jpg", "airfield"), by_class("val/ILSVRC2012_val_1.JPEG", "n01440764")
    ('val/airfield/Places365_val_1.jpg', 'val/n01440764/ILSVRC2012_val_1.JPEG')
    """
    top, *inner = name.split("/")
    if top == "data_256" and len(inner) >= 3:
        return f"train/{'-'.join(inner[1:-1])}/{inner[-1]}"
    return f"val/{folder}/{inner[-1]}" if top in ("val", "val_256") and inner else name


def flat(name: str, folder: str) -> str:
    """A validation image without the folder of its class.

    >>> flat("val/n01440764/ILSVRC2012_val_1.JPEG", "")
    'val/ILSVRC2012_val_1.JPEG'
    """
    top, *inner = name.split("/")
    return f"{top}/{inner[-1]}" if top == "val" and len(inner) > 1 else name


def places_256(name: str, folder: str) -> str:
    """The style of the archives of 256 pixels: ``data_256/letter/a[/b]/x.jpg`` and ``val_256/x.jpg``.

    >>> places_256("train/airfield/1.jpg", ""), places_256("val/airfield/Places365_val_1.jpg", "")
    ('data_256/a/airfield/1.jpg', 'val_256/Places365_val_1.jpg')
    >>> places_256("train/apartment_building-outdoor/1.jpg", "")
    'data_256/a/apartment_building/outdoor/1.jpg'
    """
    top, *inner = name.split("/")
    if top == "val" and inner:
        return f"val_256/{inner[-1]}"
    if top == "train" and len(inner) == 2:
        kind, _, where = inner[0].partition("-")
        return "/".join(["data_256", kind[:1], kind, *([where] if where else []), inner[1]])
    return name


STYLES: tuple[Style, ...] = (as_listed, by_class, flat, places_256)


def found_style(root: Path, name: str, folder: str, place: str) -> Style:
    """The style in which an image lies below a root.

    Args:
        name: of the image in the list.
        folder: of its class in the training list.
        place: of the line, for the message.

    Raises:
        UserError: in none of them; the message has the first two places that were tried.
    """
    for style in STYLES:
        if (root / style(name, folder)).is_file():
            return style
    tried: Sequence[str] = list(dict.fromkeys(style(name, folder) for style in STYLES))
    told = " nor ".join(shown(str(root / one), 120) for one in tried[:2])
    raise UserError(f"{place}: there is no {told}: say with root= (--data-root) where the list's paths begin")
