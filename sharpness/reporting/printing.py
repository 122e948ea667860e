"""Printing a page as PDF with a browser without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sharpness.files import write_atomically

#: Names of Chromium and its relatives.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
#: Seconds after which a browser is given up.
PATIENCE = 120


def browser() -> str | None:
    """The program of a browser that prints, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def print_page(page: Path, target: Path) -> str | None:
    """Write a page as PDF, whole or not at all.

    Returns:
        None, or in a line why there is no PDF: without one the page stays, which any browser prints.
    """
    program = browser()
    if program is None:
        return f"no PDF: none of {', '.join(BROWSERS[:3])} is installed; print {page} from any browser"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "page.pdf"
        # A profile of its own: the user's browser may be open.
        command = [program, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/profile"]
        command += ["--disable-dev-shm-usage", "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append(
                "--no-sandbox"
            )  # which refuses to run as root otherwise; the page is ours, and has no script
        try:
            done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no PDF: {program} failed ({type(error).__name__}); print {page} from any browser"
        if done.returncode or not made.is_file():
            return f"no PDF: {program} ended with {done.returncode} and wrote none; print {page} from any browser"
        content = made.read_bytes()
    write_atomically(target, lambda partial: partial.write_bytes(content))
    return None
