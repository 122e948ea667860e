"""Progress on stderr, silent where nobody watches."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress(total: int, what: str, unit: str) -> Any:
    """A bar that counts to ``total`` in ``unit``; hidden when stderr is no terminal."""
    return tqdm(total=total, desc=what, unit=" " + unit, disable=None, leave=False, dynamic_ncols=True)
