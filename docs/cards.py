"""Page of the site with the cards of all methods and flattening operations, as printed by `sharpness inspect RUN`."""

from __future__ import annotations

from sharpness.data import LongTail, profile_counts
from sharpness.flattening import build_operation, operation_label
from sharpness.methods import METHODS, Recipe, build_recipe
from sharpness.methods.card import formula, stage_card
from sharpness.registries import OPERATIONS

OPENING = """# Cards

Default settings of every method on CIFAR-10-LT (imbalance 100), and definitions of the flattening operations, with
every deviation from the published version. The page is generated from the code; `sharpness inspect RUN` prints the
same card for a run, with its own data and options. See [methods and operations](../methods.md) for the options.
"""


def page() -> str:
    """Return the page in Markdown."""
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    counts = profile_counts("exp", 100, 10, 5000)
    tail = LongTail("cifar10-lt", names, "exp", 100.0, "ldam_seed0", tuple(counts), "oltr")
    parts = [OPENING, "## Methods"]
    for name in METHODS:
        recipe = build_recipe(name, tail)
        parts += [f"### {METHODS.label(name)} (`--method {name}`)", f"{recipe.paper}. Head: {_head(recipe)}."]
        for stage in recipe.stages:
            rows = stage_card(stage)
            title = rows.pop("stage")
            parts += [_table(title, rows)]
        parts += [_deviations(recipe.notes)]
    parts.append("## Flattening operations")
    for name in OPERATIONS:
        operation = build_operation(name)
        parts += [
            f"### {operation_label(name)} (`--flatten {name}`)",
            f"{operation.paper}.",
            "`{}`: {}".format(*formula(operation).split(": ", 1)),
            _deviations(operation.deviations),
        ]
    return "\n\n".join(parts) + "\n"


def _head(recipe: Recipe) -> str:
    return f"{recipe.head}{f', logits times {recipe.scale:g}' if recipe.scale else ''}"


def _table(title: str, rows: dict[str, str]) -> str:
    lines = [f"| {title} | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {about} | {_cell(words)} |" for about, words in rows.items())])


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _deviations(notes: tuple[str, ...]) -> str:
    if not notes:
        return "No deviation from what was published."
    return "Deviations and choices:\n\n" + "\n".join(f"- {_cell(note)}" for note in notes)
