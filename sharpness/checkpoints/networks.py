"""Build the network of a state dict, whose depth and width follow from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharpness.errors import UserError, shown
from sharpness.models import PLANS, CifarResNet, ResNet, WideResNet
from sharpness.models.factory import load_weights

State = dict[str, Tensor]

#: The remedy where names and shapes do not tell the network.
GIVE_NETWORK = (
    "give the network that takes these weights, model= in Python, --model package.module:factory on the command line"
)

_BODY = re.compile(r"(conv1|bn1|layer\d+)\.")
_BLOCK = re.compile(r"layer(\d{1,4})\.(\d{1,4})\.")


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
    blocks = block_counts(body)
    convolutions = [body.get(f"{n}conv1.weight", torch.empty(0)) for n in ("", "layer1.0.")]
    if any(t.ndim != 4 or not t.numel() for t in convolutions) or 0 in blocks or sum(blocks) > len(body):
        raise UserError(f"{path} holds no network known here (its names: {some(state)}): {GIVE_NETWORK}")
    name, build = _plan(body, blocks, shortcut)
    return name, filled(build, body, path), rest


def require_nothing_left(rest: Iterable[str], path: str, ignored: Iterable[str] = ()) -> None:
    """Raise a :class:`UserError` for names of which none of ``ignored`` is a part."""
    unknown = [n for n in rest if not any(part in n for part in ignored)]
    if unknown:
        raise UserError(f"{path} has {len(unknown)} unexpected entries: {some(unknown)}; {GIVE_NETWORK}")


def block_counts(body: Iterable[str]) -> list[int]:
    """Blocks in each group, by names such as ``layer2.0.conv1.weight``.

    >>> block_counts(["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.bn1.bias"])
    [2, 1]
    """
    found = [(int(m[1]), int(m[2])) for m in map(_BLOCK.match, body) if m]
    groups = max((g for g, _ in found), default=0)
    return [max((i + 1 for g, i in found if g == group), default=0) for group in range(1, groups + 1)]


def some(names: Iterable[object]) -> str:
    """The first few names of a file, fit for one line."""
    first = [shown(str(n)) for n in names]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "") if first else "none"


def _plan(body: State, blocks: list[int], shortcut: str) -> tuple[str, Callable[[], nn.Module]]:
    """Name and constructor of the network with these names and shapes."""
    (width, channels, size, _), planes = body["conv1.weight"].shape, body["layer1.0.conv1.weight"].shape[0]
    if len(body.get("bn1.weight", body["conv1.weight"])) != width:
        factor, bias = max(1, planes // width), "conv1.bias" in body
        return f"wrn-{6 * blocks[0] + 4}-{factor}", partial(WideResNet, blocks[0], factor, channels, width, bias)
    if len(blocks) == 3 and not any(".downsample." in n or ".conv3." in n for n in body):
        depth = 2 * sum(blocks) + 2
        name = f"resnet{depth}" + ("-m2m" if shortcut == "end" else "")
        if width != 16 or len(set(blocks)) > 1:
            name += f" ({'-'.join(map(str, blocks))} blocks, width {width})"
        return name, partial(CifarResNet, depth, channels, width=width, blocks=blocks, shortcut=shortcut)
    bottleneck = "layer1.0.conv3.weight" in body
    inner = planes if bottleneck else width
    second = body.get("layer1.0.conv2.weight", torch.empty(0))
    groups = max(1, inner // second.shape[1]) if bottleneck and second.ndim == 4 and second.numel() else 1
    stem = "imagenet" if size == 7 else "cifar"
    name = _plan_name(tuple(blocks), bottleneck, width, inner, groups) + ("-cifar" if stem == "cifar" else "")
    shape: dict[str, Any] = {"width": width, "inner": inner, "groups": groups, "stem": stem}
    return name, partial(ResNet, blocks, bottleneck, channels, **shape)


def _plan_name(blocks: tuple[int, ...], bottleneck: bool, width: int, inner: int, groups: int) -> str:
    for name, plan in PLANS.items():
        if width == 64 and plan == (blocks, bottleneck, inner, groups):
            return name
    kind = "resnext" if groups > 1 else "resnet"
    depth = (3 if bottleneck else 2) * sum(blocks) + 2
    return f"{kind}{depth} ({'-'.join(map(str, blocks))} blocks, width {width})"


class Unfilled(TorchFunctionMode):
    """Leaves out random initial values: tensors without memory have none, and drawing them loads torch's compiler.

    >>> with torch.device("meta"), Unfilled():
    ...     nn.init.kaiming_normal_(torch.empty(2, 2)).shape
    torch.Size([2, 2])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in ("normal_", "uniform_") and getattr(filled, "is_meta", False):
            return filled
        return func(*args, **kwargs)


def filled(build: Callable[[], nn.Module], state: Mapping[str, Tensor], path: str) -> nn.Module:
    """The module with its weights, in the precision of the file (half precision becomes float32).

    It is made without memory first: a few bytes can describe a network that no machine holds.

    Raises:
        UserError: no network, one that is larger than the file, or one with other entries.
    """
    try:
        with torch.device("meta"), Unfilled():
            module = build()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise UserError(f"{path}: the shapes of its entries make no network (its names: {some(state)})") from None
    numbers = next((t for t in state.values() if t.is_floating_point()), None)
    if numbers is not None and numbers.dtype == torch.float64:
        module.to(torch.float64)
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}.values())
    needed = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if needed > 2 * held + 2**20:
        raise UserError(f"{path} describes a network of {needed:,} bytes and holds {held:,} of them")
    module._apply(lambda t: torch.zeros(t.shape, dtype=t.dtype))
    return load_weights(module, state, where=path)
