"""PoF (family H): features in ``fet_E.pth`` and classifier in ``clf_E.pth``, each under ``param``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state
from sharpness.checkpoints.families.swa import SETUPS
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

CODE = Code("PoF", SETUPS)


def matches(content: Any) -> bool:
    """True of a state under ``param``."""
    return isinstance(content, Mapping) and is_state(content.get("param"))


def read(content: Any, path: str, options: Options) -> Reading:
    """Either file first; ``stage2`` is the other one."""
    second = options.stage2.get("param") if isinstance(options.stage2, Mapping) else None
    if second is None or not is_state(second):
        raise UserError(
            f"{path} is one of PoF's two files: give the other one, fet_E.pth or clf_E.pth, as stage2= (--stage2)"
        )
    (features, prefix), (head, _) = strip_prefixes(content["param"]), strip_prefixes(second)
    if len(head) > len(features):
        features, head = head, features
    renamed = {re.sub(r"\.num_(\d+)\.", r".\1.", n).replace("bn_out.", "bn1."): t for n, t in features.items()}
    head = {n.replace("classifiers.0.", "fc."): t for n, t in head.items()}
    return assemble(CODE, renamed, path, options, head, prefix, stage2=options.stage2_path)


def _twin(path: Path) -> Path | None:
    """The other file, if it lies beside this one."""
    for own, other in (("fet_", "clf_"), ("clf_", "fet_")):
        twin = path.with_name(other + path.name.removeprefix(own))
        if path.name.startswith(own) and path.suffix == ".pth" and twin.is_file():
            return twin
    return None


FAMILY = Family("pof", matches, read, two_files=True, twin=_twin)
