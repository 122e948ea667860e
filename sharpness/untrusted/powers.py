"""The power of a global that a pickle asks for, for the message that refuses it."""

from __future__ import annotations

import re
import sys

from sharpness.errors import shown

RUNS_CODE = "can run any code"
HARMLESS = "is harmless, but no weights need it"
POWERS: dict[str, str] = {
    **{f"builtins.{name}": HARMLESS for name in ("int", "float", "bool", "str", "list", "dict", "tuple", "frozenset")},
    **{f"builtins.{name}": HARMLESS for name in ("slice", "range", "object")},
    **{f"pathlib.{name}Path": HARMLESS for name in ("", "Posix", "Windows", "PurePosix", "PureWindows")},
    **{f"pathlib._local.{name}Path": HARMLESS for name in ("", "Posix", "Windows", "PurePosix", "PureWindows")},
    **dict.fromkeys(["collections.defaultdict", "collections.deque", "types.SimpleNamespace", "datetime"], HARMLESS),
    **dict.fromkeys(["decimal", "fractions", "uuid", "logging", "re._compile"], HARMLESS),
    **dict.fromkeys(["builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"], RUNS_CODE),
    **dict.fromkeys(["os", "posix", "nt", "subprocess", "pty", "commands"], "can run any command"),
    **dict.fromkeys(["builtins.open", "io", "shutil", "pathlib", "tempfile", "codecs.open"], "can change any file"),
    **dict.fromkeys(["socket", "urllib", "http", "requests", "ftplib", "webbrowser"], "can reach the network"),
    **dict.fromkeys(["builtins.getattr", "builtins.setattr", "operator", "functools", "types"], "can reach any code"),
    **dict.fromkeys(["importlib", "runpy", "pickle", "marshal", "dill", "cloudpickle"], RUNS_CODE),
    **dict.fromkeys(["torch.load", "torch.hub", "torch.jit", "torch.package", "numpy.load"], RUNS_CODE),
    **dict.fromkeys(["ctypes", "sys", "signal", "gc", "builtins"], "can change the running program"),
    **dict.fromkeys(["codecs", "zlib", "bz2", "lzma"], "can unpack hidden content"),
    "torch.nn": "builds a whole model, which is code rather than weights",
    "torch._utils": "builds a kind of tensor that no network's weights need",
}
#: Most parts of a key of ``POWERS``: a name from a file may have millions, and all their beginnings would take hours.
_DEPTH = max(name.count(".") + 1 for name in POWERS)


def power(name: str) -> str:
    """One clause: what a global could do.

    >>> power("_io.open")
    'can change any file'
    """
    # A module's twin in C has its power: since Python 3.12 `open` is pickled as `_io.open`.
    parts = (name if name in POWERS else name.lstrip("_")).split(".", _DEPTH)
    for end in range(min(len(parts), _DEPTH), 0, -1):
        if ".".join(parts[:end]) in POWERS:
            return POWERS[".".join(parts[:end])]
    return f"runs code of the module {shown(name.partition('.')[0], 40)}"


#: Names that stand for nothing but settings and parts of networks, though their packages hold more than that.
_PARTS = ("torch.nn.modules.", "torch.nn.parallel.", "torch.nn.functional.", "torch.optim.", "numpy.random.")
_FOREIGN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def may_be_passed_over(name: str) -> bool:
    """True for globals that training scripts save beside weights: own classes, paths, parts of networks or optimizers.

    They are never imported; names that can act, or could hide such a name, end the reading.

    >>> may_be_passed_over("parse_config.ConfigParser"), may_be_passed_over("os.system")
    (True, False)
    """
    if not _FOREIGN.fullmatch(name) or len(name) > 200:
        return False
    if power(name) == HARMLESS or name.startswith(_PARTS) or name == "functools.partial":
        return True
    top = name.partition(".")[0]
    known = {*(known.partition(".")[0] for known in POWERS), "torch", "numpy", "joblib", "__builtin__"}
    return top not in known and top not in sys.stdlib_module_names
