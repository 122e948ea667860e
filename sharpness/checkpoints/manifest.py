"""Manifests of checkpoints: training, or the family that wrote the file, and data.

A manifest of ours is checked field by field when it is read: a field that is there must be of its kind. A missing field
keeps its default, and its reader reports that: files of earlier versions have fewer fields.
"""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sharpness.checkpoints.heads import HeadReading
from sharpness.data import LongTail
from sharpness.data.longtail import IN_FILES
from sharpness.data.standardization import Standardization
from sharpness.errors import UserError, shown
from sharpness.models import ModelSpec

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_text, value))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _integer(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _integers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_integer, value))


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value))


def _options(value: Any) -> bool:
    return _named(value) and all(isinstance(v, str | bool | int | float | None) for v in value.values())


def _cards(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_named(card) for card in value)


def _accuracies(value: Any) -> bool:
    """Shares by name; NaN for a group without classes."""
    return _named(value) and all(
        type(share) in (int, float) and (math.isnan(share) or 0 <= share <= 1) for share in value.values()
    )


def _standardization(value: Any) -> bool:
    if not (_named(value) and value.keys() == {"mean", "std"}):
        return False
    lists = all(isinstance(v, list | tuple) and v and all(map(_number, v)) for v in value.values())
    return lists and len(value["mean"]) == len(value["std"]) and all(std > 0 for std in value["std"])


def _longtail(value: Any) -> bool:
    if not _named(value):
        return False
    named = [value.get(k) for k in ("dataset", "profile", "subset", "group_convention")]
    return (
        all(map(_text, named))
        and _texts(value.get("class_names"))
        and _integers(value.get(IN_FILES["train_counts"]))
        and _number(value.get("imbalance"))
    )


def _sides(value: Any) -> bool:
    return _named(value) and (not value or value.keys() == {"size", "resize"}) and all(map(_integer, value.values()))


def _training(value: Any) -> bool:
    """Settings: epochs and batch sizes of the stages, a seed, and words."""
    checks: dict[str, Check] = {
        "epochs": _integers, "batch_size": _integers, "seed": _integer, "precision": _text, "flatten": _texts,
        "helper_sha256": _text, "pretrained_sha256": _text, "augmentation": _text, "sharpness": _text, "torch": _text,
        "device": _text,
    }  # fmt: skip
    return _named(value) and all(check(value[name]) for name, check in checks.items() if name in value)


def _ours(check: Check, default: Any = None) -> Any:
    """A field that our own files have, and what its plain value must be; a class as default makes a new one."""
    if isinstance(default, type):
        return field(default_factory=default, metadata={"check": check})
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True)
class Network:
    """The description of a network in a file; None is unknown, as for one that the caller built."""

    architecture: str = ""
    num_classes: int | None = None
    in_channels: int | None = None
    head: str | None = None
    scale: float | None = None
    source: str | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> Network:
        """The network that a specification builds."""
        return cls(**spec.to_dict())


@dataclass(frozen=True)
class Manifest(Mapping[str, Any]):
    """The manifest of a checkpoint: everything that is known of it besides its weights.

    ``manifest["epoch"]`` and other ways of a mapping work for one more version, with a warning.

    Attributes:
        model: architecture, head, scale.
        normalization: what standardises its images.
        accuracy: recorded shares of correct predictions: ``accuracy`` of all test images, of groups and of classes.
        epoch: epochs that the weights have seen.
        notes: remarks for whoever uses it.

        method: of training, and with ``options``, ``flattening``, ``stages`` and ``card`` (one for each stage) what it
            did. These and the following are fields of our own files.
        method_source: ``"package.module:function"`` of a method that does not come with this package; reading the file
            does not import it.
        label: for tables and legends.
        paper: where the method is from.
        loss: of the last stage.
        training: settings: epochs, batch sizes, seed, precision, versions.
        longtail: the training set.
        data_sha256: of its images and labels.
        image_sides: for images from files, ``size`` and ``resize`` of ``load_data``, with which test images are read.
        history_sha256: of the history beside the file.

        family: who wrote a file that is not ours. This and the following are fields of such files.
        head_layout: ``"[C, d]"`` or ``"[d, C]"``, how the file stores the weight of its head.
        head_readings: kinds that the head may have where the file leaves it open, the one taken first.
        stage: of training.
        prefix: that all names in the file begin with.
        dataset: the training set's name, and how it was cut: ``subset``, ``profile`` and ``imbalance``.
        class_order: how the model numbers the classes, see :func:`sharpness.data.class_order`.
        unused_parameters: names that the forward pass never uses.

        extra: fields that only one family has, or that a later version wrote.
    """

    model: Network = Network()
    normalization: Standardization | None = _ours(_standardization)
    accuracy: Mapping[str, float] = _ours(_accuracies, dict)
    epoch: int | None = _ours(_integer)
    notes: Sequence[str] = _ours(_texts, ())

    method: str | None = _ours(_text)
    method_source: str | None = _ours(_text)
    label: str | None = _ours(_text)
    paper: str | None = _ours(_text)
    options: Mapping[str, Any] | None = _ours(_options)
    flattening: Sequence[str] = _ours(_texts, ())
    stages: Sequence[str] = _ours(_texts, ())
    card: Sequence[Mapping[str, Any]] = _ours(_cards, ())
    loss: str | None = _ours(_text)
    training: Mapping[str, Any] = _ours(_training, dict)
    longtail: LongTail | None = _ours(_longtail)
    data_sha256: str | None = _ours(_text)
    image_sides: Mapping[str, int] = _ours(_sides, dict)
    history_sha256: str | None = _ours(_text)

    family: str | None = None
    head_layout: str | None = None
    head_readings: Sequence[HeadReading] = ()
    stage: int | None = None
    prefix: str | None = None
    dataset: str | None = None
    subset: Mapping[str, Any] | None = None
    profile: str | None = None
    imbalance: float | None = None
    class_order: str | Sequence[int] | None = None
    unused_parameters: Sequence[str] = ()

    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed of the training, if it is recorded."""
        return self.training.get("seed")

    @property
    def cut(self) -> dict[str, Any]:
        """The known options of ``load_data`` that select the training set."""
        known = {k: v for k, v in (self.subset or {}).items() if k in ("profile", "subset")}
        given = {"profile": self.profile, "imbalance": self.imbalance}
        return known | {k: v for k, v in given.items() if known and v is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values fit for JSON; fields at their defaults are left out.

        >>> Manifest(Network("resnet32", 10), epoch=3).to_dict()["epoch"]
        3
        """
        empty = Manifest()
        names = [f.name for f in fields(self) if f.name != "extra" and getattr(self, f.name) != getattr(empty, f.name)]
        values: dict[str, Any] = asdict(self) | ({"longtail": self.longtail.to_dict()} if self.longtail else {})
        return {name: _plain(values[name]) for name in names} | dict(self.extra)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], model: Network, path: Path) -> Manifest:
        """The manifest of a file of ours.

        Args:
            values: as the file holds them.
            model: its network, which was read before.
            path: of the file, for messages.

        Raises:
            UserError: names the first field that is of another kind than those that ``sharpness train`` writes, with
                its value; or classes that do not fit the network.
        """
        known = {f.name: f.metadata.get("check") for f in fields(cls)}
        # What describes other people's files would make one of ours pass for theirs.
        foreign = ("family", "head_readings", "class_order", "dataset", "subset")
        for name, value in values.items():
            check = known.get(name)
            if name in foreign or (check is not None and not check(value)):
                told = shown(reprlib.repr(value), 120)
                raise UserError(f"{path} is damaged: its manifest has {shown(str(name))} {told}: train it again")
        own = {name: value for name, value in values.items() if known.get(name) is not None}
        extra = {name: value for name, value in values.items() if name not in own and name != "model"}
        if "normalization" in own:
            own["normalization"] = Standardization(*(tuple(own["normalization"][k]) for k in ("mean", "std")))
        if "longtail" in own:
            try:
                own["longtail"] = LongTail.from_dict(own["longtail"])
            except (UserError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
                told = shown(str(error), 160)
                raise UserError(f"{path} is damaged: its manifest describes no training set ({told})") from None
            if own["longtail"].num_classes != model.num_classes:
                raise UserError(
                    f"{path} is damaged: its manifest has {model.num_classes} outputs for "
                    f"{own['longtail'].num_classes} classes: train it again"
                )
        return cls(model, extra=extra, **own)

    def _as_mapping(self) -> dict[str, Any]:
        """The manifest as a dict, its form before it had attributes: foreign files had None in some unknown fields."""
        stated = ("head_layout", "stage", "prefix", "epoch", "accuracy", "class_order", "dataset", "normalization",
                  "subset", "unused_parameters", "notes") if self.family else ()  # fmt: skip
        return {name: _plain(getattr(self, name)) for name in stated} | self.to_dict()

    def __getitem__(self, name: str) -> Any:
        found = self._as_mapping()[name]
        new = f"manifest.extra[{name!r}]" if name in self.extra else f"manifest.{name}"
        warnings.warn(
            f"manifest[{name!r}] is now {new}: a manifest is no mapping any more in the next version, to_dict() is one",
            FutureWarning,
            stacklevel=2,
        )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._as_mapping())

    def __len__(self) -> int:
        return len(self._as_mapping())


def _plain(value: Any) -> Any:
    """Lists in the place of tuples, in nested values."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
