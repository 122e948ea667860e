"""Fingerprints of tensors and plain values, by which a file of ours shows that it is what was written."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor


def checksum(content: Any) -> str:
    """The SHA-256 of nested containers, plain values and tensors; lists and tuples are alike, devices do not matter.

    Raises:
        TypeError: something else is in it.

    >>> checksum({"a": [1, 2.0]}) == checksum({"a": (1, 2.0)}), checksum([1]) == checksum([True])
    (True, False)
    """
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The same with its checksum.

    >>> is_whole(sealed({"a": 1})), is_whole(sealed({"a": 1}) | {"a": 2}), is_whole({"a": 1})
    (True, False, True)
    """
    return content | {"checksum": checksum(content)}


def is_whole(content: dict[Any, Any]) -> bool:
    """True if a dict agrees with its checksum, or has none."""
    if "checksum" not in content:
        return True
    try:
        return checksum({name: value for name, value in content.items() if name != "checksum"}) == content["checksum"]
    except (TypeError, RuntimeError, RecursionError):
        # It holds what no checksum is taken of, such as a sparse tensor.
        return False


def _feed(digest: Any, content: Any) -> None:
    if isinstance(content, dict):
        digest.update(b"{%d:" % len(content))
        for key, value in content.items():
            _feed(digest, key)
            _feed(digest, value)
    elif isinstance(content, list | tuple):
        digest.update(b"[%d:" % len(content))
        for value in content:
            _feed(digest, value)
    elif isinstance(content, Tensor):
        digest.update(f"{content.dtype}{list(content.shape)}:".encode())
        digest.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif content is None or isinstance(content, bool):
        digest.update(f"={content};".encode())
    else:
        # NumPy's float64 and other subclasses are read back as what they are kinds of.
        kind = next((kind for kind in (int, float, str, bytes) if isinstance(content, kind)), None)
        if kind is None:
            raise TypeError(f"a {type(content).__name__} is no plain value")
        told = kind.__repr__(content).encode(errors="surrogatepass")
        digest.update(b"%s%d:%s" % (kind.__name__.encode(), len(told), told))
