"""The job definitions for GKE: fields by Kubernetes' schemas, numbers by what a slice is."""

import math

import pytest
import yaml

from tests.launch.stubs import ROOT

IMAGE = "europe-docker.pkg.dev/p/genjax/genjax:1"


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((ROOT / "launch" / "gke" / "jobset.yaml").read_text())


def unknown(given, known, path=""):
    """Returns the paths of `given` that are missing in `known` or differ there."""
    if isinstance(given, dict):
        return [
            p
            for key, value in given.items()
            for p in unknown(value, (known or {}).get(key), f"{path}.{key}")
        ]
    if isinstance(given, list):
        known = known or [None] * len(given)
        return [p for i, v in enumerate(given) for p in unknown(v, known[i], f"{path}[{i}]")]
    return [] if given == known else [path]


def by_schema(manifest):
    """Returns the fields that JobSet's and Kubernetes' schemas do not know.

    The models of `kubeflow-trainer-api` are generated from them; types, required fields and
    values of enumerations are checked by pydantic, which raises.
    """
    models = pytest.importorskip("kubeflow_trainer_api.models")
    return unknown(manifest, models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict())


def test_the_jobset_is_valid(manifest):
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and manifest["kind"] == "JobSet"
    assert by_schema(manifest) == []


def test_the_check_finds_mistakes(manifest):
    job = manifest["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]["template"]["spec"]
    for wrong in (
        manifest | {"spec": manifest["spec"] | {"replicas": 2}},
        with_pod(manifest, spec | {"nodeSelectors": spec["nodeSelector"]}),
    ):
        assert len(by_schema(wrong)) >= 1
    with pytest.raises(ValueError, match="containers"):
        by_schema(with_pod(manifest, {k: v for k, v in spec.items() if k != "containers"}))


def with_pod(manifest, pod):
    (job,) = manifest["spec"]["replicatedJobs"]
    inner = job["template"]["spec"]
    inner = inner | {"template": inner["template"] | {"spec": pod}}
    job = job | {"template": job["template"] | {"spec": inner}}
    return manifest | {"spec": manifest["spec"] | {"replicatedJobs": [job]}}


def test_a_slice_has_all_its_chips(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    inner = job["template"]["spec"]
    pod = inner["template"]["spec"]
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container["resources"]["limits"]["google.com/tpu"] * inner["parallelism"]
    assert chips == math.prod(map(int, topology.split("x")))
    assert inner["completions"] == inner["parallelism"]
    # The mesh of the arguments is that of the slices.
    flags = dict(
        f.removeprefix("--config.mesh.").split("=") for f in container["args"] if "mesh" in f
    )
    assert int(flags["dcn_data"]) == job["replicas"] and int(flags["fsdp"]) == chips


def test_exit_codes_that_are_final_are_not_tried_again(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    inner = job["template"]["spec"]
    (rule,) = inner["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3]
    names = [c["name"] for c in inner["template"]["spec"]["containers"]]
    assert rule["onExitCodes"]["containerName"] in names
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 10
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert (inner["backoffLimit"], inner["template"]["spec"]["restartPolicy"]) == (0, "Never")


@pytest.mark.parametrize(
    ("attempt", "pause"), [("0", None), ("1", "10"), ("3", "40"), ("6", "320"), ("7", "600")]
)
def test_a_restart_waits(stubs, manifest, attempt, pause):
    (job,) = manifest["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    stubs.tool(stubs.bin / "sleep", '#!/bin/sh\necho "$1" >"$STUBS/pause"\n')
    stubs.script("")
    shell, *command = container["command"]
    assert shell == "bash"
    code, _, err = stubs.run(*command, "train", "a b", ATTEMPT=attempt, GENJAX_PROCESS_ID="0")
    assert code == 0, err
    assert stubs.calls("genjax") == [["train", "a b"]]
    waited = stubs.root / "pause"
    assert (waited.read_text().strip() if waited.exists() else None) == pause


def test_xpk_is_given_the_command(stubs):
    args = ("pod", "cluster", "v5litepod-16", "2", IMAGE, "train", "--workdir", "gs://b/a run")
    code, _, err = stubs.run("launch/gke/xpk.sh", *args)
    assert code == 0, err
    (call,) = stubs.calls("xpk")
    assert call[:2] == ["workload", "create"]
    assert dict(zip(call[2::2], call[3::2])) == {
        "--workload": "pod",
        "--cluster": "cluster",
        "--tpu-type": "v5litepod-16",
        "--num-slices": "2",
        "--docker-image": IMAGE,
        "--max-restarts": "10",
        "--restart-on-exit-codes": "1",
        "--termination-grace-period-seconds": "120",
        "--command": "genjax train --workdir gs://b/a\\ run ",
    }
    assert stubs.run("launch/gke/xpk.sh", *args[:5])[0] == 2


@pytest.mark.parametrize(
    ("pods", "shown"),
    [
        # Ends, names and exit codes: pod 1-0 failed before 0-0; 0-1 still runs.
        ("2026-01-01T10:05:00Z a-0-0 134\n a-0-1 \n2026-01-01T10:04:59Z a-1-0 1\n", "a-1-0"),
        (" a-1-0 \n a-0-0 \n", "a-0-0"),
        ("2026-01-01T10:05:00Z a-0-1 0\n2026-01-01T10:05:00Z a-0-0 0\n", "a-0-0"),
    ],
)
def test_logs_are_those_of_the_pod_that_failed_first(stubs, pods, shown):
    (stubs.root / "pods").write_text(pods)
    code, _, err = stubs.run("launch/gke/logs.sh", "pod", "--follow")
    assert code == 0, err
    asked, logs = stubs.calls("kubectl")
    assert asked[2] == "--selector=jobset.sigs.k8s.io/jobset-name=pod"
    assert logs == ["logs", shown, "--tail=40", "--follow"]


def test_logs_of_a_run_without_pods(stubs):
    (stubs.root / "pods").write_text("")
    code, _, err = stubs.run("launch/gke/logs.sh", "pod")
    assert code == 1 and "has no pods" in err
