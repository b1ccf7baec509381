"""launch/slurm.sh as sbatch would start it, with stand-ins for srun, squeue and scontrol."""

import pytest

from tests.launch.stubs import restarts, terminate, wait_for

SAVES = 'trap "echo saved; exit 143" TERM; while sleep 0.1; do :; done'


def job(stubs):
    variables = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_SUBMIT_DIR": str(stubs.checkout)}
    return stubs.start("launch/slurm.sh", "train", "--workdir", "a run", **variables)


def finish(process):
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_every_task_runs_the_command(stubs):
    stubs.script("/")
    code, _, err = finish(job(stubs))
    assert (code, err) == (0, "")
    assert stubs.calls("genjax") == [["train", "--workdir", "a run"]] * 2
    (step,) = stubs.calls("srun")
    assert step[:2] == ["--kill-on-bad-exit=1", "--gpu-bind=none"]
    assert stubs.calls("scontrol") == []


def test_the_task_that_failed_first_is_shown_and_all_start_again(stubs):
    stubs.script("sleep 1; exit 134/echo no memory; exit 1", "/")
    code, _, err = finish(job(stubs))
    assert code == 0 and len(restarts(err)) == 1
    assert "task 1 failed first, with exit code 1" in err and "no memory" in err
    assert stubs.attempts(0) == 2


@pytest.mark.parametrize("final", [2, 3])
def test_wrong_input_and_divergence_end_the_job(stubs, final):
    # srun tells the highest code, that of the task that was killed.
    stubs.script(f"kill -9 $$/exit {final}")
    code, _, err = finish(job(stubs))
    assert code == final and restarts(err) == [] and stubs.calls("scontrol") == []


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_before_the_time_limit_it_saves_and_queues_again_unless_cancelled(
    stubs, monkeypatch, state
):
    monkeypatch.setenv("JOB_STATE", state)
    stubs.script(f"{SAVES}/{SAVES}")
    process = job(stubs)
    logs = stubs.checkout / "genjax-7.tasks"
    wait_for(lambda: all((logs / f"{i}.log").exists() for i in (0, 1)))
    wait_for(lambda: all("attempt" in (logs / f"{i}.log").read_text() for i in (0, 1)))
    code, _, err = terminate(process)
    assert code == 143 and restarts(err) == []
    assert all("saved" in (logs / f"{i}.log").read_text() for i in (0, 1))
    assert stubs.calls("scontrol") == ([["requeue", "7"]] if state == "RUNNING" else [])


def test_outside_of_slurm_it_says_how(stubs):
    code, _, err = stubs.run("launch/slurm.sh", "train")
    assert code == 2 and "sbatch" in err and err.count("\n") == 1
