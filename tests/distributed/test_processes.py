import json
import re

import numpy as np
import pytest

ROWS = np.arange(16.0)
SUM = float(3 * np.sum(ROWS * (ROWS + 1)))


@pytest.mark.parametrize(
    ("spec", "shards"),
    [
        ({"fsdp": 2}, [[0, 2], [1, 2]]),
        ({"data": 2, "fsdp": 2, "dcn_data": 2}, [[0, 2], [1, 2]]),
        # tensor spans the processes: both hold, and read, the same rows
        ({"data": 1, "tensor": 8}, [[0, 1], [0, 1]]),
    ],
)
def test_global_arrays_of_two_processes(processes, spec, shards):
    found = processes("worker_arrays.py", json.dumps(spec), processes=2, devices=4)
    assert [f["shard"] for f in found] == shards
    for each in found:
        assert (each["processes"], each["devices"], each["sum"]) == (2, 8, SUM)
        assert each["rows"] == ROWS.tolist()
    (alone,) = processes("worker_arrays.py", "{}", processes=1, devices=1)
    for each in found:
        np.testing.assert_allclose(each["noise"], alone["noise"], rtol=1e-6)


def test_a_failing_process_ends_the_run_with_its_message(processes):
    with pytest.raises(AssertionError, match=r"mesh\.tensor=3"):
        processes("worker_arrays.py", '{"tensor": 3}', processes=2, devices=1)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("devices", r"the workers differ in devices: worker 1 \(.+\) has 3 cpu, the others have 2"),
        ("clock", r"the workers' clocks differ: worker 1 \(.+\) is 9\d s behind worker 0"),
    ],
)
def test_workers_that_differ_are_named_on_all_of_them(processes, what, line):
    found = processes("worker_start.py", what, processes=2, devices=2)
    assert len(set(found)) == 1 and re.match(line, found[0]), found
