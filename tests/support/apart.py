"""Packages that cannot be installed beside the others, each set in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

INSTALLED = Path(__file__).parents[2] / ".venv/apart"


def installed_apart(*requirements: str) -> Path:
    """The folder of these packages, for PYTHONPATH; it is made once, and named after the first.

    What they need is not installed: it is there already, or it is one of them. Skips the test where
    pip cannot have them.
    """
    folder, stamp = INSTALLED / requirements[0], INSTALLED / requirements[0] / ".installed"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() not in (wanted, ""):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        done = subprocess.run(
            [*command, "--target", str(folder), *requirements], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"pip cannot install {wanted}: {done.stderr.strip()[-200:]}")
        stamp.write_text(wanted)
    return folder
