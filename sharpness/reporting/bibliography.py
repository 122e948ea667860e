"""BibTeX entries of the methods, operations and measures that were used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

from sharpness.registries import METHODS, OPERATIONS
from sharpness.version import __version__

#: Entries of methods and of flattening operations, by their names.
PAPERS = {
    "ce": "cao2019ldam", "ce-drw": "cao2019ldam", "ldam-drw": "cao2019ldam", "focal": "lin2017focal",
    "mislas": "zhong2021mislas", "gcl": "li2022gcl", "cc-sam": "zhou2023ccsam", "balanced-softmax": "ren2020balanced",
    "logit-adjustment": "menon2021logit", "crt": "kang2020decoupling", "lws": "kang2020decoupling",
    "tau-norm": "kang2020decoupling", "m2m": "kim2020m2m", "rsg": "wang2021rsg", "sam": "foret2021sam",
    "asam": "kwon2021asam", "gp": "zhao2022gradient", "mp": "shi2021flat", "imbsam": "zhou2023imbsam",
    "focal-sam": "li2025focalsam", "rwsam": "liu2022rwsam", "fs-dgpm": "deng2021fsdgpm", "swa": "izmailov2018swa",
    "sn": "miyato2018spectral", "pof": "sato2022pof",
}  # fmt: skip
SOFTWARE = f"""@software{{sharpness,
  title = {{sharpness: loss-landscape sharpness of deep long-tailed recognition, for every class}},
  author = {{{{the sharpness developers}}}},
  version = {{{__version__}}}
}}
"""


def paper_of(label: str) -> str | None:
    """The key of the paper of a method or operation, by its name or by its label in figures.

    >>> paper_of("LDAM-DRW"), paper_of("ce"), paper_of("my network")
    ('cao2019ldam', 'cao2019ldam', None)
    """
    names = {
        registry.label(name).casefold(): name for registry in (METHODS, OPERATIONS) for name in registry.built_in()
    }
    return PAPERS.get(names.get(label.casefold(), label.casefold()))


def entries() -> dict[str, str]:
    """All entries by key."""
    text = files("sharpness.reporting").joinpath("references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{(\w+),\n.*?^\}\n", text, re.MULTILINE | re.DOTALL)
    parts = re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]
    return dict(zip(found, parts, strict=True))


def bibtex(keys: Iterable[str]) -> str:
    """The entries with these keys, each once and in this order, after that of the software."""
    known = entries()
    return "\n".join([SOFTWARE, *(known[key] for key in dict.fromkeys(keys))])


def authors_year(key: str) -> str:
    """Short words for a reference in a text, such as ``"Foret et al., 2021"``."""
    entry = entries()[key]
    names = re.search(r"author = \{(.*)\},\n", entry)
    year = re.search(r"year = \{(\d+)\}", entry)
    assert names and year
    listed = [name.partition(",")[0].strip() for name in names[1].split(" and ")]
    plain = [re.sub(r"[{}\\']", "", name) for name in listed]
    who = plain[0] if len(plain) == 1 else f"{plain[0]} and {plain[1]}" if len(plain) == 2 else f"{plain[0]} et al."
    return f"{who}, {year[1]}"
