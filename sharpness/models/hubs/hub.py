"""Libraries of networks: what they make by name, and the published weights that they find."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from sharpness.errors import UserError, shown
from sharpness.extensions import in_one_line
from sharpness.registries import HUBS


@dataclass(frozen=True)
class Published:
    """A network with its published weights, and how its authors prepare images.

    Attributes:
        model: images ``(n, channels, h, w)`` to logits ``(n, C)``.
        num_classes: C.
        mean: of every channel, of pixels in [0, 1].
        std: as ``mean``.
        size: side of the central square.
        resize: the shorter side before that crop.
        notes: where images are prepared otherwise here.
    """

    model: nn.Module
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    resize: int
    notes: tuple[str, ...] = ()


class Hub(Protocol):
    """A library of networks."""

    def make(self, name: str, num_classes: int | None, in_channels: int | None, **arguments: Any) -> nn.Module:
        """The network of this name with random weights; nothing is ever downloaded for it."""
        ...

    def published(self, name: str, download: bool) -> Published:
        """The network of this name with its published weights, from this machine unless ``download`` is true."""
        ...


@dataclass(frozen=True)
class Architecture:
    """The function that makes a network of a library, with random weights.

    Args:
        hub: name of the library in :data:`~sharpness.registries.HUBS`.
        name: of the network there.
    """

    hub: str
    name: str

    def __call__(self, num_classes: int | None = None, in_channels: int | None = None, **arguments: Any) -> nn.Module:
        return HUBS[self.hub].make(self.name, num_classes, in_channels, **arguments)

    def __str__(self) -> str:
        return f"{self.hub}:{self.name}"


def hub_of(source: object) -> Architecture | None:
    """The network that ``"timm:resnet18"`` names; None of a file, and of all that names no library.

    >>> hub_of("timm:resnet18.a1_in1k"), hub_of("mynets:resnet18")
    (Architecture(hub='timm', name='resnet18.a1_in1k'), None)
    """
    if not isinstance(source, str | Path):
        return None
    hub, colon, name = str(source).partition(":")
    if not (colon and name and hub in HUBS) or Path(source).exists():
        return None
    return Architecture(hub, name)


def library(name: str, wanted: str) -> Any:
    """The library of networks, imported on first use.

    Args:
        name: of the module, and of what ``pip install`` takes.
        wanted: the network, for messages.

    Raises:
        UserError: it is not installed, or importing it raises.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise UserError(f"{wanted}: importing {name} needs {error.name}: install it") from None
        raise UserError(f"{wanted} needs {name}, which is not installed: pip install {name}") from None
    except Exception as error:
        raise UserError(f"{wanted}: importing {name} raised {in_one_line(error)}") from None


def unknown(wanted: str, names: Iterable[str], where: str) -> UserError:
    """The error of a name that a library does not have, with those that are spelled like it."""
    close = difflib.get_close_matches(wanted.partition(":")[2], list(names), n=4)
    remedy = f"did you mean {', '.join(close)}?" if close else f"{where} lists what there is"
    return UserError(f"{shown(wanted, 120)}: the library has no network of this name: {remedy}")


def not_here(wanted: str) -> UserError:
    """The error of weights that would have to be downloaded."""
    return UserError(
        f"the weights of {wanted} are not on this machine: add --download (download=True of load_checkpoint), or give "
        f"their file and --model {wanted}"
    )


def made(wanted: str, make: Any, *args: Any, **arguments: Any) -> Any:
    """Call a function of a library; its exceptions become one-line errors.

    Raises:
        UserError: it raises.
    """
    try:
        return make(*args, **arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{shown(wanted, 120)}: {in_one_line(error)}") from None


def prepared_otherwise(how: str | None, library: str) -> tuple[str, ...]:
    """The note on pictures that the library resizes by another rule than :func:`~sharpness.data.read_images`."""
    known = how in (None, "bilinear")
    return () if known else (f"{library} resizes its images by {how} interpolation, --images by bilinear",)
