"""Prefixes that wrappers put before every name in a state dict: removed whole, and only where every key has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

#: DataParallel, torch.compile, Lightning modules and the usual names of a wrapped network.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "encoder.", "backbone.", "ema_model.", "param.")

#: torch.compile, activation checkpointing and FSDP, of single layers.
INSIDE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")

#: What averaging and old training loops leave in a state dict beside the network.
LEFTOVERS = ("n_averaged",)


def strip_prefixes(state: Mapping[str, T]) -> tuple[dict[str, T], str]:
    """The state without the prefixes that all its keys share, and what was removed: known ones, and that of ``conv1``.

    >>> strip_prefixes({"module._orig_mod.fc.weight": 1, "module._orig_mod.fc.bias": 2})
    ({'fc.weight': 1, 'fc.bias': 2}, 'module._orig_mod.')
    >>> strip_prefixes({"module.fc.weight": 1, "fc.bias": 2})
    ({'module.fc.weight': 1, 'fc.bias': 2}, '')
    """
    names = {key: value for key, value in state.items() if key not in LEFTOVERS}
    removed = ""
    while names:
        first = next(iter(names)).partition(".")[0] + "."
        known = [p for p in PREFIXES if all(k.startswith(p) and len(k) > len(p) for k in names)]
        if not known and not (f"{first}conv1.weight" in names and all(k.startswith(first) for k in names)):
            break
        found = known[0] if known else first
        names = {key[len(found) :]: value for key, value in names.items()}
        removed += found
    return names, removed


def unwrapped(state: Mapping[str, T]) -> dict[str, T]:
    """The state without the parts of names that wrappers of single layers leave in their middle.

    >>> unwrapped({"layer1._orig_mod.weight": 1, "fc.weight": 2})
    {'layer1.weight': 1, 'fc.weight': 2}
    """
    plain = {".".join(part for part in name.split(".") if part not in INSIDE): value for name, value in state.items()}
    return plain if len(plain) == len(state) else dict(state)


def covering_prefixes(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Beginnings under which ``names`` has every one that is ``wanted``, counters of batches aside.

    >>> covering_prefixes(["net.weight", "net.bias", "loss.weight"], ["weight", "bias"])
    ['net.']
    """
    known, needed = list(names), [n for n in wanted if not n.endswith("num_batches_tracked")]
    starts = [n.removesuffix(needed[0]) for n in known if n.endswith(needed[0])] if needed else []
    have = set(known)
    return [s for s in starts if (not s or s.endswith(".")) and all(s + n in have for n in needed)]
