"""The scripts of launch/ in a copy of the checkout, with stand-ins for Python, pip and genjax."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.commands import ROOT

# A Python that notes what pip is asked for, and makes environments that hold itself.
PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then echo "$@" >> "$PIP_LOG"; echo offline; exit ${{PIP_CODE:-0}}; fi
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; fi
exec {sys.executable} "$@"
"""
# Process i of a run does the i-th of the commands separated by "/", and notes its process id.
GENJAX = """#!/bin/sh
echo $$ > "$PIP_LOG.pid.$GENJAX_PROCESS_ID"
echo "process $GENJAX_PROCESS_ID of $GENJAX_NUM_PROCESSES: $XLA_FLAGS $GENJAX_COORDINATOR"
eval "$(echo "$1" | cut -d/ -f$((GENJAX_PROCESS_ID + 1)))"
"""


class Checkout:
    def __init__(self, root):
        self.root, self.venv, self.log = root / "checkout", root / "venv", root / "pip.log"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / "setup.py", self.root)
        self.python = self.executable(root / "python", PYTHON)
        self.executable(self.venv / "bin" / "python", PYTHON)
        self.executable(self.venv / "bin" / "genjax", GENJAX)

    def executable(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, *command, **env):
        kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHON")}
        env = kept | {"PIP_LOG": str(self.log), "GENJAX_EXTRAS": "gcs"} | env
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(["bash", *command], cwd=self.root.parent, env=env, **pipes)

    def run(self, *command, **env):
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def setup(self, **env):
        return self.run("-c", 'needs="test" source checkout/launch/setup.sh; pwd', **env)

    def pip(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_an_active_environment_is_used_and_installed_into_once(checkout):
    for _ in range(2):
        code, out, err = checkout.setup(VIRTUAL_ENV=str(checkout.venv))
        assert code == 0, err
    assert out.strip() == str(checkout.root)
    assert len(checkout.pip()) == 1 and checkout.pip()[0].endswith("-e .[gcs,test]")
    assert not (checkout.root / ".venv").exists()


def test_without_one_it_is_made_in_the_checkout(checkout):
    for _ in range(2):
        code, _, err = checkout.setup(PYTHON=str(checkout.python))
        assert code == 0, err
    assert (checkout.root / ".venv" / "bin" / "python").exists() and len(checkout.pip()) == 1


@pytest.mark.parametrize("variable", ["PYTHON", "VIRTUAL_ENV"])
def test_an_old_python_is_one_line_and_exit_code_2(checkout, variable):
    old = checkout.executable(checkout.root.parent / "old" / "bin" / "python", "#!/bin/sh\nexit 1")
    value = old if variable == "PYTHON" else old.parents[1]
    code, out, err = checkout.setup(**{variable: str(value)})
    assert (code, out) == (2, "")
    assert err.startswith("launch: ") and err.count("\n") == 1 and "3.11" in err
    assert not (checkout.root / ".venv").exists() and not checkout.pip()


def test_a_failed_installation_is_tried_again(checkout):
    code, _, err = checkout.setup(VIRTUAL_ENV=str(checkout.venv), PIP_CODE="1")
    assert code == 1 and "offline" in err and "the installation failed" in err
    assert checkout.setup(VIRTUAL_ENV=str(checkout.venv))[0] == 0
    assert len(checkout.pip()) == 2


def processes(checkout, number, what):
    return checkout.start(
        "checkout/launch/local_processes.sh", str(number), "4", what, VIRTUAL_ENV=str(checkout.venv)
    )


def alive(checkout, index):
    pid = int((checkout.log.parent / f"pip.log.pid.{index}").read_text())
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_get_what_joins_them(checkout):
    run = processes(checkout, 2, "true/true")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert checkout.pip()[0].endswith("-e .[gcs]")  # the script's arguments are no extras
    (mine,) = (line for line in out.splitlines() if line.startswith("process"))
    folder = err.split()[-1]
    with open(os.path.join(folder, "1.log")) as log:
        other = log.read().strip()
    assert mine.startswith("process 0 of 2: --xla_force_host_platform_device_count=4 localhost:")
    assert other == mine.replace("process 0", "process 1")


@pytest.mark.parametrize(
    ("what", "expected", "told"),
    [
        ("exit 1/exec sleep 60", 1, 137),
        ("exec sleep 60/kill -9 $$", 137, 137),
        ("sleep 1; exit 134/exit 2", 2, 2),
        ("exit 134/sleep 1; exit 3", 3, 3),  # which says more than what came first
    ],
)
def test_one_that_fails_ends_the_others(checkout, what, expected, told):
    started = time.monotonic()
    run = processes(checkout, 2, what)
    _, err = run.communicate(timeout=60)
    assert run.returncode == expected
    assert time.monotonic() - started < 30
    assert not alive(checkout, 0) and not alive(checkout, 1)
    assert f"process 1 ended with exit code {told}" in err


def test_sigterm_reaches_all(checkout):
    saves = 'trap "echo saved; exit 143" TERM; for i in $(seq 600); do sleep 0.1; done'
    run = processes(checkout, 2, f"{saves}/{saves}")
    while not all((checkout.log.parent / f"pip.log.pid.{i}").exists() for i in (0, 1)):
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143 and "saved" in out
    with open(os.path.join(err.split()[-1], "1.log")) as log:
        assert "saved" in log.read()


def test_wrong_arguments_are_exit_code_2(checkout):
    for arguments in (["2", "4"], ["two", "4", "train"], ["2", "0", "train"], []):
        code, _, err = checkout.run("checkout/launch/local_processes.sh", *arguments)
        assert code == 2 and err.startswith("usage: ") and err.count("\n") == 1
