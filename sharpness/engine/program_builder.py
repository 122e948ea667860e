"""Conversion of a ``torch.fx`` graph to the steps of a program, with BatchNorm folded into convolutions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sharpness.engine.convolutions import Convolution, ScaledConvolution
from sharpness.engine.operations import Add, Linear, Operation, PiecewiseLinear, ReLU, Scaling, Smooth
from sharpness.engine.piecewise_linear import rule_of_call, rule_of_module
from sharpness.engine.program import INPUT, Program, Scale, Shift, Step, Traced, Untraceable
from sharpness.engine.stateless import called_with

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RELUS = (F.relu, torch.relu, F.relu_, torch.relu_)
ADDS = (operator.add, operator.iadd, torch.add)


class ProgramBuilder:
    """Steps under construction. Every value has a name; ``from_input`` has the names of those that depend on the batch.

    Args:
        module: the traced module.
        in_scope: ids of the parameters in scope.
    """

    def __init__(self, module: nn.Module, in_scope: set[int]) -> None:
        self.module = module
        self.modules = dict(module.named_modules())
        self.in_scope = in_scope
        self.sources: dict[str, Tensor] = {}
        self.names: dict[fx.Node, str] = {}
        self.nodes: list[tuple[str, tuple[str, ...], Callable[..., Any], Callable[..., Operation] | None]] = []
        self.from_input = {INPUT}
        self.folded: set[fx.Node] = set()
        self.result: str | None = None

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.names:
                raise Untraceable("it takes more than one input")
            self.names[node] = INPUT
        elif node.op == "get_attr":
            self.names[node] = self._source(operator.attrgetter(str(node.target))(self.module))
        elif node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node):
                raise Untraceable("it does not return one tensor")
            self.result = self.names[result]
        elif node.op == "call_module":
            self._module(node, self.modules[str(node.target)])
        else:
            self._function(node)

    def finish(self, sample: Tensor) -> Traced:
        if self.result is None:
            raise Untraceable("it returns nothing")
        if self.result not in self.from_input:
            raise Untraceable("its outputs do not depend on the inputs")
        active = self._active(sample)
        # `_item` calls a function with several results once per result, which leaves the original node unused.
        needed = {self.result}
        for output, inputs, _, _ in reversed(self.nodes):
            if output in needed:
                needed.update(inputs)
        before, after = [], []
        for output, inputs, function, rule in self.nodes:
            flags = [name in active for name in inputs]
            if output not in needed:
                continue
            # Values that do not depend on the input belong to the prologue, which runs once per product, whether or not
            # a parameter in scope reaches them. In the body, steps that none reaches need no operation and no state.
            if output not in self.from_input:
                before.append(Step(output, inputs, function=function))
            elif output not in active:
                after.append(Step(output, inputs, function=function))
            else:
                after.append(Step(output, inputs, Smooth(flags, function) if rule is None else rule(flags)))
        made = {s.output for s in before} | set(self.sources)
        shared = tuple(sorted({n for s in after for n in s.inputs if n in made}))
        body = Program(after, frozenset({self.result, *shared}))
        return Traced(tuple(before), body, self.sources, shared, frozenset(shared) & active, self.result)

    def _module(self, node: fx.Node, m: nn.Module) -> None:
        # Only exact types without hooks: a subclass may compute something else, and a hook may change the output.
        alone = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
        plain = alone and not (m._forward_hooks or m._forward_pre_hooks)
        x = self.names[node.args[0]] if plain else ""  # type: ignore[index]
        weighted = plain and ("weight" in m._parameters or "weight" in m._buffers)  # not computed by a parametrization
        if weighted and type(m) in CONVOLUTIONS and isinstance(m.padding, tuple) and m.padding_mode == "zeros":
            follower = self._batchnorm_after(node)
            inputs = [x, self._source(m.weight)]
            if follower is not None:
                inputs += self._scale_and_shift(self.modules[str(follower.target)], self._own(m, "bias"))
                self.folded.add(follower)
            elif m.bias is not None:
                inputs.append(self._source(m.bias))
            self._convolution(node, inputs, m.stride, m.padding, m.dilation, m.groups)
        elif node in self.folded:
            self.names[node] = x
        elif plain and isinstance(m, _BatchNorm) and m.running_mean is not None:
            s, t = self._scale_and_shift(m, None)
            self._add(node, (x, s, t), _scaled, Scaling)
        elif weighted and type(m) is nn.Linear:
            bias = self._own(m, "bias")
            self._add(node, (x, self._source(m.weight), *([] if bias is None else [bias])), F.linear, Linear)
        elif plain and type(m) is nn.ReLU:
            self._in_place(node, m.inplace)
            self._add(node, (x,), torch.relu, ReLU)
        elif plain and type(m) in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
            self.names[node] = x
        else:
            self._any_module(node, m)

    def _any_module(self, node: fx.Node, m: nn.Module) -> None:
        keys = [n for n, _ in [*m.named_parameters(), *m.named_buffers()]]
        tensors = [t for _, t in [*m.named_parameters(), *m.named_buffers()]]
        modified = self._in_place(node, bool(getattr(m, "inplace", False)))
        nodes, rebuild = _arguments(node)

        def function(*values: Any) -> Any:
            inside = dict(zip(keys, values[: len(keys)], strict=True))
            args, kwargs = rebuild(values[len(keys) :], modified)
            if not inside:
                return m(*args, **kwargs)
            return called_with(m, inside, args, kwargs)

        rule = rule_of_module(m, node, function)
        self._add(node, (*map(self._source, tensors), *(self.names[n] for n in nodes)), function, rule)

    def _function(self, node: fx.Node) -> None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place = bool(node.kwargs.get("inplace")) or name in ("iadd", "imul", "isub", "itruediv", "setitem")
        in_place = in_place or (name.endswith("_") and not name.endswith("__"))
        modified = self._in_place(node, in_place)
        nodes, rebuild = _arguments(node)
        inputs = tuple(self.names[n] for n in nodes)
        tensors = all(isinstance(a, fx.Node) for a in node.args)
        relu = node.target in RELUS if node.op == "call_function" else node.target in ("relu", "relu_")
        add = node.target in ADDS if node.op == "call_function" else node.target in ("add", "add_")
        if relu and len(nodes) == len(node.args) == 1:
            self._add(node, inputs, torch.relu, ReLU)
        elif add and tensors and len(nodes) == len(node.args) == 2 and not node.kwargs:
            self._add(node, inputs, operator.add, Add)
        elif node.target is F.linear and tensors and not node.kwargs:
            self._add(node, inputs, F.linear, Linear)
        elif node.target is operator.getitem and isinstance(node.args[0], fx.Node) and len(nodes) == 1:
            self._item(node)
        else:
            method = "reshape" if node.target == "view" and torch.dtype not in map(type, node.args) else node.target

            def function(*values: Any) -> Any:
                args, kwargs = rebuild(values, modified)
                if node.op == "call_method":  # values are channels-last here, so a view may need a copy
                    return getattr(args[0], str(method))(*args[1:], **kwargs)
                return node.target(*args, **kwargs)  # type: ignore[operator]

            self._add(node, inputs, function, rule_of_call(node, nodes, function))

    def _item(self, node: fx.Node) -> None:
        """Add ``value[index]``. A function with several results is called once for each of them."""
        source, index = node.args
        name = self.names[source]  # type: ignore[index]
        made = next((entry for entry in self.nodes if entry[0] == name), None)
        if made is None or made[3] is not None:
            self._add(node, (name,), part := lambda value: value[index], lambda active: PiecewiseLinear(active, part))
            return
        _, inputs, function, _ = made
        self._add(node, inputs, lambda *values: function(*values)[index])

    def _convolution(self, node: fx.Node, inputs: Sequence[str], *geometry: Any) -> None:
        kind = ScaledConvolution if len(inputs) == 4 else Convolution

        def function(*values: Any) -> Tensor:
            return kind([False] * len(values), *geometry).forward(*values)[0]

        self._add(node, tuple(inputs), function, lambda active: kind(active, *geometry))

    def _batchnorm_after(self, node: fx.Node) -> fx.Node | None:
        """Return the BatchNorm that is the only user of a convolution's output, if it can be folded."""
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user is None or user.op != "call_module" or len(user.args) != 1:
            return None
        m = self.modules[str(user.target)]
        plain = isinstance(m, _BatchNorm) and m.running_mean is not None
        return user if plain and not (m._forward_hooks or m._forward_pre_hooks) else None

    def _scale_and_shift(self, norm: Any, bias: str | None) -> tuple[str, str]:
        """Add ``s = gamma / sigma`` and ``t = beta + s (bias - mu)``, and return their names."""
        mean, variance = self._source(norm.running_mean), self._source(norm.running_var)
        s, t = self._fresh("scale"), self._fresh("shift")
        gamma, beta = self._own(norm, "weight"), self._own(norm, "bias")
        self.nodes.append((s, (variance,) if gamma is None else (variance, gamma), Scale(norm.eps), None))
        terms = [n for n in (beta, bias) if n is not None]
        self.nodes.append((t, (s, mean, *terms), Shift(beta is not None, bias is not None), None))
        return s, t

    def _add(self, node: fx.Node, inputs: tuple[str, ...], function: Callable[..., Any], rule: Any = None) -> None:
        name = self._fresh(node.name)
        self.nodes.append((name, inputs, function, rule))
        self.names[node] = name
        if any(n in self.from_input for n in inputs):
            self.from_input.add(name)

    def _source(self, tensor: Any) -> str:
        """Return the name of a tensor of the module; a tensor that is used several times has one name."""
        for name, known in self.sources.items():
            if known is tensor:
                return name
        if not isinstance(tensor, Tensor):
            raise Untraceable(f"it reads an attribute of type {type(tensor).__name__}")
        name = f"source{len(self.sources)}"
        self.sources[name] = tensor
        return name

    def _own(self, m: nn.Module, key: str) -> str | None:
        tensor = m._parameters.get(key, m._buffers.get(key))  # frozen parts have their weights as buffers
        return None if tensor is None else self._source(tensor)

    def _fresh(self, stem: str) -> str:
        return f"{stem}:{len(self.nodes)}"

    def _in_place(self, node: fx.Node, in_place: bool) -> bool:
        """Return ``in_place``; refuse an operation that overwrites a value with other users."""
        if in_place and isinstance(node.args[0], fx.Node) and len(node.args[0].users) > 1:
            raise Untraceable(f"{node.name} changes in place a value that is used elsewhere")
        return in_place

    def _active(self, sample: Tensor) -> set[str]:
        """Return the names of values that depend on a parameter in scope, by running the graph once under autograd."""
        values: dict[str, Any] = {n: t.detach() for n, t in self.sources.items()}
        for name, tensor in self.sources.items():
            if id(tensor) in self.in_scope:
                values[name] = tensor.detach().requires_grad_()
        values[INPUT] = sample
        with torch.enable_grad():
            for output, inputs, function, _ in self.nodes:
                values[output] = function(*(values[n] for n in inputs))
        return {n for n, v in values.items() if isinstance(v, Tensor) and v.requires_grad}


def _scaled(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    return x * s.view(shape) + t.view(shape)


def _arguments(node: fx.Node) -> tuple[list[fx.Node], Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Return the nodes among a node's arguments, and a function that rebuilds args and kwargs from their values."""
    nodes = list(node.all_input_nodes)

    def rebuild(values: Sequence[Any], in_place: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        known = dict(zip(nodes, values, strict=True))
        args: list[Any] = list(fx.node.map_arg(node.args, known.__getitem__))
        kwargs: dict[str, Any] = dict(fx.node.map_arg(node.kwargs, known.__getitem__))
        if in_place:
            args[0] = args[0].clone()
        return tuple(args), kwargs

    return nodes, rebuild
