"""One evaluation on 1, 2 and 8 devices and on two processes gives one report."""

import pytest

LAYOUTS = [(1, 1), (1, 2), (1, 8), (2, 4)]


def test_devices_and_processes_agree(processes, tmp_path):
    found = {}
    for number, devices in LAYOUTS:
        folder = str(tmp_path / f"{number}-{devices}")
        size = {"processes": number, "devices": devices}
        each = processes("worker_evaluation.py", folder, **size, timeout=600)
        assert all(one["processes"] == number for one in each)
        assert all(one["values"] == each[0]["values"] for one in each)
        found[number, devices] = each
    want = found[1, 1][0]["values"]
    for layout in LAYOUTS[1:]:
        for name, value in found[layout][0]["values"].items():
            assert value == pytest.approx(want[name], rel=1e-6, abs=1e-9), (layout, name)
    # Two processes share the images: neither reads much more than half of what one reads alone.
    alone = found[1, 8][0]["read"]
    assert all(one["read"] < 0.75 * alone for one in found[2, 4])
