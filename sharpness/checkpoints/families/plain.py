"""Everybody else: a bare state dict, safetensors, Lightning, ``{"state_dict": ...}`` and its other spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sharpness.checkpoints.families.datasets import USUAL, Setup
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import (
    WEIGHTS,
    Code,
    Options,
    Reading,
    assemble,
    is_state,
    recorded,
    trained_names,
)
from sharpness.checkpoints.networks import some
from sharpness.checkpoints.prefixes import covering_prefixes, strip_prefixes
from sharpness.data.published_lists import IMAGENET
from sharpness.errors import UserError

KEYS = {
    "model": ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"),
    "ema": ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema"),
    "swa": ("swa_state_dict", "state_dict_swa", "swa_model", "model_swa"),
}
#: Modules of losses that Lightning keeps beside the network, such as the weights of classes.
LOSSES = ("criterion", "loss", "loss_fn", "loss_func", "loss_function")
_GUESS = "the normalisation is a guess from the number of classes ({}): give mean and std if others were used"
#: Balanced data, or unknown: only the set's usual constants are known.
SETUPS = {
    c: replace(r, subset=None, dataset=None, class_order=None, notes=(_GUESS.format(c),)) for c, r in USUAL.items()
}
AKAMASTER = {10: Setup("cifar10", IMAGENET, None, "label")}


def matches(content: Any) -> bool:
    """True of a state, bare or under any name, also of an inner dict, and of parts of one."""
    return isinstance(content, Mapping) and (is_state(content) or _holds_states(_opened(content)))


def read(content: Any, path: str, options: Options, also: Sequence[str] = ()) -> Reading:
    """Read the state dict that ``options`` choose; ``also`` are further notes."""
    if is_state(content):
        found: dict[str, Mapping[str, Tensor]] = {"model": content}
        content = {}
    else:
        content = _opened(content)
        found = {kind: states[0] for kind, states in _states(content).items() if states}
    parts = _parts(content)
    # Parts are joined only if they alone fill the given network: a whole state beside them comes first.
    if parts and options.weights == "model":
        joined = {f"{part}.{n}": t for part, state in parts.items() for n, t in _unwrapped(state).items()}
        needed = [] if options.model is None else trained_names(options.model)
        # A "model" may itself be one of the parts, which covers the network only together with the others.
        if "model" not in found or (
            needed and not covering_prefixes(found["model"], needed) and covering_prefixes(joined, needed)
        ):
            if options.model is None and len(parts) > 1 and _flat(joined) is joined:
                raise UserError(
                    f"{path} holds parts of a network ({some(parts)}): give the network that takes them, model= in "
                    "Python, --model package.module:factory on the command line"
                )
            # What stands alone under a name of anybody's is the network, whose names do not begin with that one.
            found["model"] = next(iter(parts.values())) if len(parts) == 1 and options.model is None else joined
    if options.weights not in found:
        raise UserError(f"{path} holds no weights={options.weights!r}: choose one of {', '.join(found)}")
    others = [kind for kind in found if kind != options.weights]
    notes = [*also, *(f"the file holds other weights as well: weights={kind!r}" for kind in others)]
    chosen = found[options.weights]
    if options.model is None and (of_loss := [n for n in chosen if n.partition(".")[0] in LOSSES]):
        notes.append(f"{len(of_loss)} entries of the loss are left out: {some(of_loss)}")
        chosen = {n: t for n, t in chosen.items() if n not in of_loss}
    state, prefix = strip_prefixes(chosen)
    if options.model is None:
        state = _flat(state)
    lightning = "pytorch-lightning_version" in content
    akamaster = "best_prec1" in content and any(n.endswith("linear.bias") for n in state)
    plain = Code("Lightning" if lightning else "plain state_dict", SETUPS)
    return assemble(
        Code("akamaster", AKAMASTER) if akamaster else plain, state, path, options, prefix=prefix,
        **recorded(content, "best_prec1" if "best_prec1" in content else "best_acc1"), weights=options.weights,
        notes=notes,
    )  # fmt: skip


def _opened(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content, with that of the only dict in it that holds states, where it holds none itself."""
    if _holds_states(content):
        return content
    inner = [v for v in content.values() if isinstance(v, Mapping) and _holds_states(v)]
    return {**content, **inner[0]} if len(inner) == 1 else content


def _holds_states(content: Mapping[str, Any]) -> bool:
    return any(_states(content).values()) or bool(_parts(content))


def _states(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Tensor]]]:
    return {kind: [content[k] for k in keys if is_state(content.get(k))] for kind, keys in KEYS.items()}


def _parts(content: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """State dicts of parts of a network, by the names of the parts: LIFT's ``{"tuner": ..., "head": ...}``."""
    averages = {*KEYS["ema"], *KEYS["swa"]}
    return {k: v for k, v in content.items() if isinstance(k, str) and k not in averages and is_state(v)}


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefix of DataParallel."""
    wrapped = all(n.startswith("module.") for n in state)
    return {n.removeprefix("module.") if wrapped else n: t for n, t in state.items()}


def _flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a model whose feature extractor is its ``backbone``, ours among them, without that."""
    flat = {n.removeprefix("backbone.").replace("head.head.", "head."): t for n, t in state.items()}
    return flat if "backbone.conv1.weight" in state and len(flat) == len(state) else state


#: As libraries of Hugging Face write them, whole or in several files with an index.
USUAL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FAMILY = Family("plain", matches, read, usual_files=USUAL_FILES, weights=WEIGHTS)
