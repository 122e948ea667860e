"""Trained models that come with the package, as ``zoo:METHOD``: long-tailed networks that anybody can measure.

Networks of CIFAR-10-LT at imbalance 100, ResNet-32, trained by the published schedules; what each of them is says
``sharpness inspect zoo:METHOD``, and how they were made ``zoo/cifar10-lt-100/README.md``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharpness.errors import choose

PREFIX = "zoo:"
FOLDER = Path(__file__).parent.parent / "zoo" / "cifar10-lt-100"


def zoo() -> dict[str, Path]:
    """The file of every model by its method, in alphabetical order.

    >>> "ldam-drw" in zoo()
    True
    """
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def training_images(data_sha256: str | None) -> np.ndarray | None:
    """Digests (n,) of the training images of the zoo, in their order; None of other training sets.

    Its images are a selection of a folder that was not the whole archive: no recipe finds them in another folder, their
    pixels do.

    Args:
        data_sha256: of the training set.
    """
    path = FOLDER / f"images-{(data_sha256 or '')[:16]}.npy"
    return np.load(path, allow_pickle=False) if path.is_file() else None


def from_zoo(path: str | Path) -> Path:
    """The file or folder that a path stands for, of the zoo (``zoo:METHOD``, ``zoo:`` for all of it) or any other.

    Raises:
        UserError: there is no such model.
    """
    name = str(path)
    if not name.startswith(PREFIX) or Path(path).exists():
        return Path(path)
    if name == PREFIX:
        return FOLDER
    models = zoo()
    choose("model of the zoo", name.removeprefix(PREFIX), list(models))
    return models[name.removeprefix(PREFIX)]
