"""From a state dict to the network it belongs to: depth, width and head are read off names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.models import PLANS, CifarResNet, CosineHead, LearnableWeightScaling, LinearHead, ResNet, WideResNet

State = dict[str, Tensor]

_BODY = re.compile(r"(conv1|bn1|layer\d+)\.")
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_HEADS = ("", "fc.", "fc_.", "linear.", "classifier.", "classifier.fc.", "head.")
_FACTORS = ("learned_norm", "scales")


def read_backbone(state: Mapping[str, Tensor], path: str, shortcut: str = "both") -> tuple[str, nn.Module, State]:
    """The feature extractor that a state describes, with its weights, its name, and the entries that are not its own.

    Args:
        state: without prefixes; names of torchvision, akamaster/LDAM or the wide ResNet of SWA.
        shortcut: of a CIFAR ResNet without parameters in its shortcuts, see :class:`~sharpness.models.BasicBlock`.

    Raises:
        UserError: no network known here, or one with missing, unexpected or misshapen entries.
    """
    body = {n.replace(".shortcut.", ".downsample."): t for n, t in state.items() if _BODY.match(n)}
    rest = {n: t for n, t in state.items() if not _BODY.match(n)}
    blocks = _blocks(body)
    convolutions = [body.get(f"{n}conv1.weight", torch.empty(0)) for n in ("", "layer1.0.")]
    if any(t.ndim != 4 for t in convolutions):
        raise UserError(
            f"{path} holds no network known here (its names: {_some(state)}): build the model in Python and pass it as "
            "load_checkpoint(path, model=...)"
        )
    (width, channels, size, _), first = convolutions[0].shape, convolutions[1]
    network: nn.Module
    if len(body.get("bn1.weight", body["conv1.weight"])) != width:
        factor = first.shape[0] // width
        network = WideResNet(blocks[0], factor, channels, width, bias="conv1.bias" in body)
        name = f"wrn-{6 * blocks[0] + 4}-{factor}"
    elif len(blocks) == 3 and not any(".downsample." in n or ".conv3." in n for n in body):
        depth = 2 * sum(blocks) + 2
        network = CifarResNet(depth, channels, width=width, blocks=blocks, shortcut=shortcut)
        usual = width == 16 and len(set(blocks)) == 1
        name = f"resnet{depth}" + ("-m2m" if shortcut == "end" else "")
        name += "" if usual else f" ({'-'.join(map(str, blocks))} blocks, width {width})"
    else:
        bottleneck = "layer1.0.conv3.weight" in body
        inner, groups = width, 1
        if bottleneck:
            inner = first.shape[0]
            groups = inner // body["layer1.0.conv2.weight"].shape[1]
        stem = "imagenet" if size == 7 else "cifar"
        network = ResNet(blocks, bottleneck, channels, width=width, inner=inner, groups=groups, stem=stem)
        name = _plan_name(tuple(blocks), bottleneck, width, inner, groups) + ("-cifar" if stem == "cifar" else "")
    load_strictly(network, body, path)
    return name, network, rest


def read_head(
    state: Mapping[str, Tensor], num_features: int, scale: float | None, path: str
) -> tuple[nn.Module, str, State]:
    """The classifier among the entries of a state, its layout, and the entries that are not its own.

    With a bias it is linear, ``[C, d]``; without, and stored as ``[d, C]``, it is normalised. C = d is normalised.

    Args:
        scale: of a normalised head.

    Raises:
        UserError: no classifier, several, or one for other features.
    """
    found = [p for p in _HEADS if f"{p}weight" in state and state[f"{p}weight"].ndim == 2]
    if len(found) != 1:
        what = "no classifier" if not found else f"{len(found)} classifiers"
        raise UserError(f"{path} holds {what} that is known here (names beside the backbone: {_some(state)})")
    own = found[0]
    weight, bias = state[f"{own}weight"], state.get(f"{own}bias")
    used = {f"{own}weight", f"{own}bias"}
    if bias is None and weight.shape[0] == num_features:
        head: nn.Module = CosineHead(num_features, weight.shape[1], 30.0 if scale is None else scale)
        layout, classes = "[d, C]", weight.shape[1]
    elif weight.shape[1] == num_features:
        if scale is not None:
            raise UserError(
                f"scale={scale} was given, but the head in {path} is linear: only normalised heads have one"
            )
        head, layout, classes = LinearHead(num_features, len(weight), bias is not None), "[C, d]", len(weight)
    else:
        raise UserError(f"the classifier in {path} has shape {tuple(weight.shape)}, the features are {num_features}")
    load_strictly(head, {"weight": weight} if bias is None else {"weight": weight, "bias": bias}, path)
    factor = next((n for n in state if n.split(".")[-1] in _FACTORS), None)
    if factor is not None:
        if state[factor].numel() != classes:
            raise UserError(f"{factor} in {path} has {state[factor].numel()} factors for {classes} classes")
        head = LearnableWeightScaling(head, classes).to(state[factor].dtype)
        head.factor.data.copy_(state[factor].flatten())
        used.add(factor)
    return head, layout, {n: t for n, t in state.items() if n not in used}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Give a module its weights, in the precision of the file (half precision becomes float32).

    Raises:
        UserError: names the missing, unexpected and misshapen entries. ``num_batches_tracked`` may be missing.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    misshapen = [
        f"{n} {tuple(t.shape)} instead of {tuple(own[n].shape)}"
        for n, t in state.items()
        if n in own and t.shape != own[n].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    wrong = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    if wrong:
        raise UserError(f"{path} does not fit {type(module).__name__}: entries {', '.join(wrong)}")
    numbers = next((t for t in state.values() if t.is_floating_point()), None)
    if numbers is not None:
        module.to(torch.float64 if numbers.dtype == torch.float64 else torch.float32)
    module.load_state_dict(dict(state), strict=False)


def require_nothing_left(rest: Iterable[str], path: str, ignored: Iterable[str] = ()) -> list[str]:
    """Names that are ignored on purpose (those that contain one of ``ignored``).

    Raises:
        UserError: there are others.
    """
    known = [n for n in rest if any(part in n for part in ignored)]
    unknown = [n for n in rest if n not in known]
    if unknown:
        raise UserError(f"{path} has {len(unknown)} unexpected entries: {_some(unknown)}")
    return known


def _blocks(body: Iterable[str]) -> list[int]:
    """Blocks in each group."""
    found = [(int(m[1]), int(m[2])) for m in map(_BLOCK.match, body) if m]
    groups = max((g for g, _ in found), default=0)
    return [max((i + 1 for g, i in found if g == group), default=0) for group in range(1, groups + 1)]


def _plan_name(blocks: tuple[int, ...], bottleneck: bool, width: int, inner: int, groups: int) -> str:
    for name, plan in PLANS.items():
        if width == 64 and plan == (blocks, bottleneck, inner, groups):
            return name
    kind = "resnext" if groups > 1 else "resnet"
    depth = (3 if bottleneck else 2) * sum(blocks) + 2
    return f"{kind}{depth} ({'-'.join(map(str, blocks))} blocks, width {width})"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(str(n)[:80] for n in names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
