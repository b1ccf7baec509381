import pytest

from tests.launch.stubs import restarts, terminate

SCRIPT = "launch/with_restarts.sh"


def test_a_failing_command_runs_again_until_it_succeeds(stubs):
    stubs.script("exit 1", "kill -9 $$", "exit 143", "exit 0")
    code, out, err = stubs.run(SCRIPT, "genjax", "train", "a b", GENJAX_PROCESS_ID="0")
    assert code == 0 and stubs.attempts(0) == 4
    assert out.count("train a b") == 4
    assert [line.split(";")[0] for line in restarts(err)] == [
        f"exit code {c}" for c in (1, 137, 143)
    ]


@pytest.mark.parametrize("final", [2, 3])
def test_wrong_input_and_divergence_are_final(stubs, final):
    stubs.script("exit 1", f"exit {final}", "exit 0")
    assert stubs.run(SCRIPT, "genjax", GENJAX_PROCESS_ID="0")[0] == final
    assert stubs.attempts(0) == 2


def test_the_wait_doubles_and_the_number_is_limited(stubs):
    # The waits are only said, not waited: `sleep` is a stand-in.
    stubs.tool(stubs.bin / "sleep", "#!/bin/sh\n")
    stubs.script(*["exit 5"] * 20)
    code, _, err = stubs.run(
        SCRIPT, "genjax", GENJAX_PROCESS_ID="0", GENJAX_RESTARTS="8", GENJAX_BACKOFF="10"
    )
    assert code == 5 and stubs.attempts(0) == 9
    waits = [10, 20, 40, 80, 160, 320, 600, 600]
    assert restarts(err) == [
        *(f"exit code 5; restart {i} of 8 in {w} s" for i, w in enumerate(waits, 1)),
        "exit code 5; given up after 8 restarts in a row",
    ]


def test_an_attempt_that_lasted_begins_the_count_anew(stubs):
    stubs.script("exit 1", "sleep 8; exit 1", "exit 1", "exit 1")
    code, _, err = stubs.run(
        SCRIPT, "genjax", GENJAX_PROCESS_ID="0", GENJAX_RESTARTS="1", GENJAX_STEADY="8"
    )
    assert code == 1 and stubs.attempts(0) == 3
    assert [line.split("; ")[1][:9] for line in restarts(err)] == [
        "restart 1",
        "restart 1",
        "given up ",
    ]


def test_sigterm_reaches_the_command_and_is_final(stubs):
    stubs.script(
        'trap "sleep 1; echo saved; exit 143" TERM; echo ready >&2; while sleep 0.1; do :; done'
    )
    process = stubs.start(SCRIPT, "genjax", GENJAX_PROCESS_ID="0")
    assert process.stderr is not None and process.stderr.readline() == "ready\n"
    code, out, _ = terminate(process)
    assert code == 143 and "saved" in out and stubs.attempts(0) == 1


def test_sigterm_ends_a_wait(stubs):
    stubs.script("exit 1", "exit 0")
    process = stubs.start(SCRIPT, "genjax", GENJAX_PROCESS_ID="0", GENJAX_BACKOFF="60")
    assert process.stderr is not None
    assert "in 60 s" in process.stderr.readline()
    assert terminate(process)[0] == 1 and stubs.attempts(0) == 1
