"""Search for the layer of a model, or the ``autograd.Function`` in it, whose derivative is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from sharpness.engine.modules import layer
from sharpness.engine.stateless import called_with
from sharpness.engine.witness import Verdict, Witness, double_backward


@dataclass(frozen=True)
class Call:
    """One call of a module or a function, with its arguments and its output.

    Attributes:
        name: name of the module that was called, or whose forward pass called the function.
        function: an ``autograd.Function``; None if the module itself was called.
    """

    name: str
    module: nn.Module
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def description(self) -> str:
        """A description of the layer, and of the function in it if there is one."""
        where = layer(self.name, self.module)
        return where if self.function is None else f"autograd.Function {self.function.__name__!r} in {where}"

    @property
    def leaf(self) -> bool:
        return self.function is not None or next(self.module.children(), None) is None


@contextmanager
def calls(model: nn.Module) -> Iterator[list[Call]]:
    """Record the calls of modules and functions while a model runs, in the order they return: innermost first."""
    made: list[Call] = []
    # TorchScript modules do not support these hooks; they count as part of their callers.
    names = {m: name for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
    running = [model]
    apply = torch.autograd.Function.__dict__["apply"]

    def enter(module: nn.Module, args: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        running.pop()
        made.append(Call(names[module], module, None, args, kwargs, output))

    def applied(function: Any, *args: Any, **kwargs: Any) -> Any:
        output = apply.__func__(function, *args, **kwargs)
        made.append(Call(names[running[-1]], running[-1], function, args, kwargs, output))
        return output

    hooks = [m.register_forward_pre_hook(enter) for m in names]
    hooks += [m.register_forward_hook(leave, with_kwargs=True) for m in names]
    torch.autograd.Function.apply = classmethod(applied)  # type: ignore[method-assign, assignment]
    try:
        yield made
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        for hook in hooks:
            hook.remove()


class Culprit:
    """Search the recorded calls for the innermost one with a wrong derivative; each is examined by its own witness.

    Args:
        model: the model.
        run: function that runs the model in float64, with a graph.
        tensors: the float64 tensors of the model that ``run`` uses, by name.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Any], tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        with calls(model) as self.calls, torch.enable_grad():
            run()

    def wrong_gradient(self) -> tuple[Call | None, bool]:
        """Return the call whose gradient is not the derivative of its result, and whether that is a mistake.

        A locally constant function with a gradient (rounding with a straight-through estimator) and a part behind
        ``detach`` are intentional, not mistakes.
        """
        for call in self.calls:
            alone = self._alone(call)
            if alone is None or alone.judge(second=False).gradient is not False:
                continue
            return call, call.function is not None and not alone.constant_in_one()
        return None, False

    def wrong_product(self, leaves: bool = False) -> Call | None:
        """Return the call whose second derivative is wrong or not symmetric.

        Args:
            leaves: only consider functions and layers without sublayers.
        """
        for call in self.calls:
            alone = self._alone(call) if call.leaf or not leaves else None
            if alone is None:
                continue
            try:
                verdict = alone.judge(second=True)
            except Exception:
                continue  # a call that cannot be run alone is part of one that can
            if verdict.product is False:
                return call
        return None

    def _alone(self, call: Call) -> _Alone | None:
        try:
            return _Alone(call, self.tensors)
        except Exception:
            return None


class _Alone:
    """One call as a function of all its differentiable tensors, with results contracted with fixed random numbers."""

    def __init__(self, call: Call, tensors: dict[str, Tensor]) -> None:
        self.call = call
        self.given, self.layout = tree_flatten((call.args, call.kwargs))
        module = call.module
        own = [] if call.function is not None else [*module.named_parameters(), *module.named_buffers()]
        self.own = {n: tensors[f"{call.name}.{n}" if call.name else n] for n, _ in own}
        self.inputs = [i for i, t in enumerate(self.given) if _differentiable(t)]
        self.keys = [n for n, t in self.own.items() if _differentiable(t)]
        self.at = [*(self.given[i].detach() for i in self.inputs), *(self.own[n].detach() for n in self.keys)]
        results = tree_flatten(call.output)[0]
        generator = torch.Generator().manual_seed(0)
        self.tilts = {
            i: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device)
            for i, t in enumerate(results)
            if _differentiable(t)
        }
        if not self.tilts or not self.at:
            raise ValueError("no gradient passes here")
        self.magnitude = sum(float((results[i].detach() * c).abs().sum()) for i, c in self.tilts.items())

    def judge(self, second: bool) -> Verdict:
        """Return the witness's verdict on first and, if ``second``, second derivatives."""
        product = double_backward(self.value, self.at) if second else None
        return Witness(self.value, self.at, self.magnitude).verdict(product)

    def constant_in_one(self) -> bool:
        """True if the call has a gradient by one of its tensors although it does not depend on that tensor."""
        for i in range(len(self.at)):

            def value(moved: Sequence[Tensor], i: int = i) -> Tensor:
                return self.value([*self.at[:i], moved[0], *self.at[i + 1 :]])

            witness = Witness(value, [self.at[i]], self.magnitude)
            if witness.finite and float(witness.gradient.norm()) and all(witness.look(k).slope == 0 for k in (0, 1)):
                return True
        return False

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the results of the call at these tensors, contracted with the random numbers."""
        filled = [t.detach() if isinstance(t, Tensor) else t for t in self.given]
        for i, t in zip(self.inputs, tensors, strict=False):
            filled[i] = t * 1  # a layer may write to its inputs, which is not allowed for a leaf
        args, kwargs = tree_unflatten(filled, self.layout)
        if self.call.function is not None:
            returned = self.call.function.apply(*args, **kwargs)
        else:
            rest = dict(zip(self.keys, tensors[len(self.inputs) :], strict=True))
            inside = {n: t.detach() for n, t in self.own.items()} | rest
            returned = called_with(self.call.module, inside, args, kwargs)
        results = tree_flatten(returned)[0]
        return torch.stack([(results[i] * c).sum() for i, c in self.tilts.items()]).sum()


def _differentiable(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point() and t.requires_grad
