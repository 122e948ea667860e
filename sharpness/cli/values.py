"""Parsing of option values: literals, keyword arguments and widths; nothing is executed."""

from __future__ import annotations

import ast
from typing import Any

from sharpness.errors import UserError


def inches(text: str) -> str | float:
    """Parse a width, given by name or in inches."""
    try:
        return float(text)
    except ValueError:
        return text


def pair(text: str) -> tuple[str, Any]:
    """Parse ``"key=value"`` with a Python literal or a bare word as value."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"option {text!r}: write it as name=value")
    return key, literal(value)


def literal(text: str) -> Any:
    """Parse a Python literal, or true or false in any case; other text is returned unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def keywords(text: str) -> dict[str, Any]:
    """Parse keyword arguments with literals or bare words as values; nothing is executed.

    >>> keywords("depth=20, blocks=(5, 5, 4), head=linear, wide=false")
    {'depth': 20, 'blocks': (5, 5, 4), 'head': 'linear', 'wide': False}
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise UserError(f"arguments {text!r}: write them as name=value, name=value")
    return {str(k.arg): literal(ast.unparse(k.value)) for k in call.keywords}
