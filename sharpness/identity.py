"""Identity of samples, independent of their order; results store it and compare it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

#: Kinds of identity: 8-bit pixels, input values, or names given by the user.
PIXELS, VALUES, NAMES = "pixels", "values", "names"
#: The class names of samples that are not split into classes.
ONE_CLASS = ("all",)


@dataclass(frozen=True, eq=False)
class SampleIdentity:
    """The identity of probed samples, in their order.

    Attributes:
        by: kind of identity, see :class:`~sharpness.data.Content`.
        classes: (n,) class indices.
        digests: (n,) uint64 digests of the contents.
        weights: (n,) weights, or None if all are equal.
    """

    by: str
    classes: np.ndarray
    digests: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of_words(cls, by: str, words: np.ndarray, weights: np.ndarray | None) -> SampleIdentity:
        """Restore an identity from its ``words``."""
        words = np.ascontiguousarray(words, dtype="<i4")
        digests = np.ascontiguousarray(words[:, 1:]).view("<u8")[:, 0]
        return cls(by, words[:, 0], digests, weights)

    @property
    def words(self) -> np.ndarray:
        """(n, 3) int32 array for files: the class, and the digest in two halves."""
        halves = np.ascontiguousarray(self.digests, dtype="<u8").view("<i4").reshape(-1, 2)
        return np.column_stack([self.classes, halves]).astype("<i4")

    @property
    def keys(self) -> np.ndarray:
        """(n,) uint64 numbers that combine content and class."""
        return self.digests + (self.classes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)

    @property
    def sha256(self) -> str:
        """SHA-256 of content and classes, independent of the order of samples."""
        return hashlib.sha256(np.sort(self.keys).astype("<u8").tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.digests)

    def missing_in(self, other: SampleIdentity, classes: bool = True) -> np.ndarray:
        """Return the indices of samples that ``other`` lacks or has less often; ``classes=False`` ignores classes."""
        mine, theirs = (self.keys, other.keys) if classes else (self.digests, other.digests)
        kinds, inverse = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
        there = np.bincount(inverse[len(mine) :], minlength=len(kinds))
        order = np.argsort(inverse[: len(mine)], kind="stable")
        ranked = inverse[order]
        rank = np.arange(len(mine)) - np.searchsorted(ranked, ranked)
        return np.sort(order[rank >= there[ranked]])

    def order_of(self, other: SampleIdentity) -> np.ndarray | None:
        """Return the indices that bring the same samples of ``other`` into this order; None if they already are."""
        if np.array_equal(self.keys, other.keys):
            return None
        indices = np.empty(len(self), dtype=np.int64)
        indices[self._sorted()] = other._sorted()
        return indices

    def relative_weights(self) -> np.ndarray:
        """Return the weights (n,) divided by their mean, in the order of the sorted keys."""
        weights = np.ones(len(self)) if self.weights is None else self.weights
        return (weights / weights.mean())[self._sorted()]

    def _sorted(self) -> np.ndarray:
        return np.argsort(self.keys, kind="stable") if self.weights is None else np.lexsort((self.weights, self.keys))
