"""launch/tpu_vm.sh against a stand-in for gcloud whose workers are folders."""

import pytest

from tests.launch.stubs import restarts, terminate, wait_for

SCRIPT = "launch/tpu_vm.sh"
RUN = (SCRIPT, "run", "pod", "train", "--workdir", "gs://b/a run")


@pytest.fixture
def pod(stubs):
    """Two workers whose environment is made, on a slice that has been created."""
    for home in ("node0", "node1"):
        environment = stubs.root / home / "genjax-env" / "bin"
        stubs.tool(environment / "python", "#!/bin/sh\n")
    code, _, err = stubs.run(SCRIPT, "create", "pod", "v5litepod-16", "--spot")
    assert code == 0, err
    return stubs


def resource_calls(stubs, *commands):
    """Returns the calls of these sub-commands, without what all have in common."""
    return [call[3:] for call in stubs.calls("gcloud") if call[3] in commands]


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (
            ["v5p-128"],
            ["--accelerator-type=v5p-128", "--runtime-version=v2-alpha-tpuv5", "--node-id=pod"],
        ),
        (
            ["v6e-256", "4", "--reserved"],
            [
                *("--accelerator-type=v6e-256", "--runtime-version=v2-alpha-tpuv6e"),
                *("--node-count=4", "--node-prefix=pod", "--reserved"),
            ],
        ),
    ],
)
def test_create_asks_for_the_slices(stubs, arguments, flags):
    code, _, err = stubs.run(SCRIPT, "create", "pod", *arguments)
    assert code == 0 and "pod is ACTIVE" in err
    assert resource_calls(stubs, "create") == [["create", "pod", *flags, "--quiet"]]


def test_a_request_that_fails_is_said(stubs):
    code, _, err = stubs.run(SCRIPT, "create", "pod", "v5p-8", CREATED="FAILED")
    assert code == 1 and "pod is FAILED" in err


def test_run_starts_the_same_command_on_all_workers(pod):
    pod.script("/")
    code, _, err = pod.run(*RUN)
    assert code == 0 and restarts(err) == []
    assert pod.calls("genjax") == [["train", "--workdir", "gs://b/a run"]] * 2
    # The checkout has come along, and every call was for all workers of all slices.
    assert (pod.root / "node1" / "genjax" / "launch" / "tpu_worker.sh").exists()
    everywhere = ["--node=all", "--worker=all"]
    (copy,) = resource_calls(pod, "scp")
    assert copy[2:] == ["pod:genjax.tgz", *everywhere]
    assert all(c[2:4] == everywhere for c in resource_calls(pod, "ssh") if "follow" not in c[-1])


def test_after_a_failure_all_start_again_and_the_first_to_fail_is_shown(pod):
    # Worker 1 dies; worker 0 would hang for ever, and is stopped.
    pod.script("exec sleep 600/echo out of memory; exit 1", "/")
    code, _, err = pod.run(*RUN)
    assert code == 0
    assert [line.split(";")[0] for line in restarts(err)] == ["exit code 1"]
    assert "node1 failed first" in err and "node1: out of memory" in err
    assert "node0: " not in err
    assert (pod.attempts(0), pod.attempts(1)) == (2, 2)
    assert len(resource_calls(pod, "scp")) == 1  # what has not changed is not copied again


@pytest.mark.parametrize("final", [2, 3])
def test_wrong_input_and_divergence_are_not_tried_again(pod, final):
    # The second ends well within the four looks after which it would be stopped.
    pod.script(f"exit 134/sleep 0.5; exit {final}")
    code, _, err = pod.run(*RUN, GENJAX_POLL="0.5")
    assert code == final and restarts(err) == [] and pod.attempts(0) == 1


def test_a_slice_that_was_taken_away_is_requested_again(pod):
    pod.script("cd $STUBS; echo SUSPENDED >state; sleep 60", "/")
    code, _, err = pod.run(*RUN)
    assert code == 0 and "do not answer" in err and "was taken away" in err
    first, second = resource_calls(pod, "create")
    assert first == second and "--spot" in second
    assert resource_calls(pod, "delete") == [["delete", "pod", "--force", "--quiet"]]


def test_a_run_outlives_its_watcher_and_is_found_again(pod):
    waits = "cd $STUBS; until [ -e go ]; do sleep 0.1; done"
    pod.script(f"{waits}/{waits}")
    process = pod.start(*RUN)
    # It is told to stop while it shows the log: what shows it must end too, or keeps the terminal.
    wait_for(lambda: any("follow" in call[-1] for call in pod.calls("gcloud")))
    assert terminate(process)[0] == 143
    process = pod.start(*RUN)
    assert process.stderr is not None
    said = [process.stderr.readline(), process.stderr.readline()]
    (pod.root / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0 and "watching the run that is there" in said[1]
    assert pod.attempts(0) == 1


def test_stop_lets_the_run_save_and_is_no_failure(pod):
    saves = 'trap "echo saved; exit 143" TERM; while sleep 0.1; do :; done'
    pod.script(f"{saves}/{saves}")
    process = pod.start(*RUN)
    wait_for(lambda: pod.attempts(0) and pod.attempts(1))
    wait_for(lambda: pod.run(SCRIPT, "logs", "pod")[1].count("attempt 0") == 2)
    assert pod.run(SCRIPT, "stop", "pod")[0] == 0
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped as told" in err
    out = pod.run(SCRIPT, "logs", "pod")[1]
    assert "node0: saved" in out and "node1: saved" in out


def test_delete_forgets_the_slice(pod):
    assert pod.run(SCRIPT, "delete", "pod")[0] == 0
    assert not list((pod.root / "memory").rglob("pod")) and not (pod.root / "state").exists()


def test_install_makes_an_environment_with_a_python_that_is_new_enough(stubs):
    """On images with an old Python by uv, elsewhere by venv."""
    for version, made in ((0, "-m venv"), (1, "-m uv venv")):
        home = stubs.root / f"node{version}"
        makes = 'mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"'
        tells = (
            f'case "$*" in -c*) [ $HOME != {stubs.root}/node1 ] || [ ! "${{0%/*}}" = {stubs.bin} ]'
        )
        body = (
            f'#!/usr/bin/env bash\necho "$*" >>"$HOME/asked"\n{tells} ;; *venv*) {makes} ;; esac\n'
        )
        stubs.tool(stubs.bin / "python3", body)
        home.mkdir()
        code, out, err = stubs.run("launch/tpu_worker.sh", "install", HOME=str(home))
        assert code == 0, out + err
        asked = (home / "asked").read_text()
        assert made in asked and "-e .[tpu,gcs]" in asked


def test_wrong_arguments_are_exit_code_2(stubs):
    for arguments in ([], ["create"], ["create", "pod"], ["run", "pod"], ["fly", "pod"]):
        code, _, err = stubs.run(SCRIPT, *arguments)
        assert code == 2 and err.startswith("bash launch/tpu_vm.sh create NAME")
    assert stubs.run(SCRIPT, "create", "pod", "v2-8")[0] == 2
    assert stubs.calls("gcloud") == []
