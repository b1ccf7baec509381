"""Who hangs: the judgement in closed form, and a real thread that ends a real process."""

import subprocess
import sys
import textwrap
import time

import pytest

from genjax.parallel import heartbeat
from genjax.parallel.heartbeat import ASIDE, DATA, DONE, STEP, Pulse, judge

LIMIT = 50.0


def pulses(*rows):
    """Returns the pulses of processes on hosts h0, h1, ...; a row: step, doing, silent, still."""
    return [Pulse(f"h{i}", *row) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        # all is well: everybody moves
        ([(7, STEP, 1, 2), (7, DATA, 1, 0)], None),
        # slow, but not for long enough; one still moves
        ([(7, STEP, 1, 50), (7, DATA, 1, 50)], None),
        ([(7, STEP, 1, 51), (9, STEP, 1, 3)], None),
        # frozen or dead, whatever the others do
        (
            [(9, STEP, 1, 0), (8, DATA, 51, 51)],
            "process 1 (host h1) hangs or is dead: no sign of it for 50 s; it was waiting for "
            "data, step 8",
        ),
        ([(9, ASIDE, 1, 99), (9, ASIDE, 51, 99)], "process 1 (host h1) hangs or is dead"),
        ([(9, ASIDE, 1, 99), (9, DONE, 999, 999)], None),
        # alive, behind the others, which have run ahead as far as they may
        ([(14, STEP, 1, 60), (10, DATA, 1, 66)], "process 1 (host h1) hangs: 50 s waiting for"),
        ([(10, STEP, 1, 66), (14, STEP, 1, 60)], "process 0 (host h0) hangs: 50 s in the step"),
        # at the same step the one without a batch keeps the others waiting
        ([(10, STEP, 1, 60), (10, DATA, 1, 60), (10, DATA, 1, 60)], "process 1 (host h1), process"),
        ([(10, STEP, 1, 60), (10, STEP, 1, 60)], "all 2 processes hang for 50 s in the step"),
        ([(10, DATA, 1, 60)], "process 0 (host h0) hangs: 50 s waiting for data, step 10"),
        # whoever saves, compiles or draws may keep the others waiting
        ([(10, ASIDE, 1, 99), (11, STEP, 1, 99)], None),
    ],
)
def test_who_hangs(rows, said):
    found = judge(pulses(*rows), LIMIT)
    assert found is None if said is None else (found or "").startswith(said), found


def test_silence_is_found_before_jax_ends_the_run():
    rows = pulses((7, STEP, 0, 0), (7, STEP, 81, 81))
    assert "no sign of it for 80 s" in (judge(rows, 600.0) or "")


def test_a_frozen_process_is_ended_with_a_line(tmp_path):
    script = """
        import time
        from genjax.parallel.heartbeat import DATA, STEP, Heartbeat
        with Heartbeat(2.0) as beat:
            for step in range(4):
                beat.at(step, STEP)
                time.sleep(1)
            with beat.aside():
                time.sleep(4)
            print("alive", flush=True)
            beat.at(9, DATA)
            time.sleep(600)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "alive\n" and done.returncode == 1, done.stderr
    assert "hangs: 2 s waiting for data, step 9; the run ends, to be started" in done.stderr
    assert done.stderr.startswith("genjax: process 0 (host ") and done.stderr.count("\n") == 1


def test_without_a_limit_nothing_watches(monkeypatch):
    monkeypatch.setattr(heartbeat.os, "_exit", lambda code: pytest.fail("ended"))
    with heartbeat.Heartbeat(0.0) as beat:
        beat.at(1, DATA)
        time.sleep(0.1)
