"""Printing a page as PDF with a headless browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sharpness.files import write_atomically

#: Names of Chromium and its relatives.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
#: Timeout of the browser in seconds.
PATIENCE = 120


def browser() -> str | None:
    """The path of a browser that can print, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def print_page(page: Path, target: Path) -> str | None:
    """Write a page as PDF (atomically).

    Returns:
        None, or one line with the reason why there is no PDF; any browser can print the page instead.
    """
    program = browser()
    if program is None:
        return f"no PDF: none of {', '.join(BROWSERS[:3])} is installed; print {page} from any browser"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "page.pdf"
        # A separate profile, because the user's browser may be open.
        command = [program, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/profile"]
        command += ["--disable-dev-shm-usage", "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # required as root; safe, because the page is ours and has no scripts
        try:
            done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no PDF: {program} failed ({type(error).__name__}); print {page} from any browser"
        if done.returncode or not made.is_file():
            return f"no PDF: {program} ended with {done.returncode} and wrote none; print {page} from any browser"
        content = made.read_bytes()
    write_atomically(target, lambda partial: partial.write_bytes(content))
    return None
