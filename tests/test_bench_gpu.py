"""The script that a GPU runs for a few minutes runs to its end without one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_row_is_measured_and_a_failure_is_told(tmp_path):
    output = tmp_path / "table.txt"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small", "--output", output]
    command += ["--only", "ceilings", "plane", "--checkpoint", tmp_path / "missing.pt"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    text = output.read_text()
    assert "| matrix product, bfloat16 |" in text
    assert "## plane" in text
    assert "no checkpoint" in text.lower(), "what failed is in the table"
