"""Configuration of the site, which `make docs` builds from these pages, the notebooks and docstrings, offline."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

from sharpness.version import __version__

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE))  # for cards.py
#: Pages of the repository that the site includes.
PROJECT_PAGES = [HERE.parent / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]

project = "sharpness"
author = "the sharpness developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "gallery/*.ipynb", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]

# Markdown pages, which also render on a repository's web page.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with the outputs that are committed with them

# The reference, from docstrings in Google's style.
autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True


def draw(block: tuple[object, ...], variables: dict[str, Any], gallery: dict[str, Any]) -> str:
    """Save the figure of the variable ``picture``; the gallery only finds figures of pyplot, and ours are not."""
    picture = variables["example_globals"].pop("picture", None)
    if picture is None:
        return ""
    path = next(variables["image_path_iterator"])
    np.ravel(picture)[0].figure.savefig(path, dpi=150)
    return figure_rst([path], gallery["src_dir"])


# One script per picture; each draws saved results within a second.
sphinx_gallery_conf = {
    "examples_dirs": str(HERE / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1e9,
    "image_scrapers": (draw,),
    "capture_repr": (),
}

html_theme = "furo"
html_title = f"sharpness {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
# MathJax from a package, not from the network.
mathjax_path = "mathjax/tex-svg.js"

suppress_warnings = ["config.cache"]  # a function among the gallery's settings: they are not kept between builds
linkcheck_timeout = 10


def _copy_pages(app: Sphinx) -> None:
    """Copy notebooks and the repository's own pages to where Sphinx looks for pages (git ignores the copies)."""
    for target, pages in (("notebooks", HERE.parent.glob("notebooks/*.ipynb")), ("project", PROJECT_PAGES)):
        shutil.rmtree(HERE / target, ignore_errors=True)  # removes renamed pages
        (HERE / target).mkdir()
        for page in pages:
            # Notebooks link to pages of the repository, which are one folder higher on the site.
            text = page.read_text(encoding="utf-8").replace("](../docs/", "](../")
            (HERE / target / page.name).write_text(text, encoding="utf-8")


def _write_cards(app: Sphinx) -> None:
    """Generate the page of cards (git ignores it)."""
    cards = importlib.import_module("cards")
    (HERE / "reference" / "cards.md").write_text(cards.page(), encoding="utf-8")


def _link(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links that leave ``docs/`` into links to copies, or into file names, because the site contains no code."""

    def replaced(found: re.Match[str]) -> str:
        text, target = found["text"], (HERE / page).parent / found["target"]
        if target.resolve() in [path.resolve() for path in PROJECT_PAGES]:
            return f"[{text}]({os.path.relpath(HERE / 'project' / target.name, (HERE / page).parent)})"
        if target.resolve().parent == HERE.parent / "notebooks":
            return f"[{text}]({os.path.relpath(HERE / 'notebooks' / target.name, (HERE / page).parent)})"
        inside = target.resolve().is_relative_to(HERE)
        return (
            found[0]
            if inside
            else text
            if text.startswith("`")
            else f"{text} (`{target.resolve().relative_to(HERE.parent)}`)"
        )

    if page.startswith("project/"):  # written for the repository's root
        source[0] = re.sub(
            r"\]\((docs|notebooks)/", lambda found: "](../" + ("" if found[1] == "docs" else "notebooks/"), source[0]
        )
    source[0] = re.sub(r"(?<!!)\[(?P<text>[^]]*)\]\((?P<target>\.\./[^)#]*)\)", replaced, source[0])


def _copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the one file of MathJax that is used; the package's own extension would copy all 24 MB."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if error is None and package is not None and package.origin is not None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js", target / "tex-svg.js")


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _copy_pages)
    app.connect("builder-inited", _write_cards)
    app.connect("source-read", _link)
    app.connect("build-finished", _copy_mathjax)
