"""What a design trains: whole steps, budgets spent, limits kept."""

import pytest

from genjax.scaling.designs import DESIGNS, IsoFlop, Parametric, Size

SIZES = [Size("small", 1_000, 1e6, 32), Size("large", 10_000, 8e6, 64)]


def test_isoflop_spends_each_budget_on_each_size():
    cells, left_out = IsoFlop((1e9, 1e10)).cells(SIZES)
    assert not left_out and [c.flops for c in cells] == sorted(c.flops for c in cells)
    by_name = {c.name: c for c in cells}
    assert set(by_name) == {"small-1e9", "large-1e9", "small-1e10", "large-1e10"}
    for cell in cells:
        assert cell.images % cell.size.batch == 0
        exact = cell.budget / cell.size.flops
        assert abs(cell.images - exact) <= cell.size.batch / 2
        assert cell.flops == cell.size.flops * cell.images
    assert by_name["small-1e9"].images == 31 * 32  # 31.25 steps
    assert by_name["large-1e9"].images == 2 * 64  # 1.95 steps


def test_limits_leave_runs_out():
    cells, left_out = IsoFlop((1e9, 1e10), least_images=500, most_images=2_000).cells(SIZES)
    assert {c.name for c in cells} == {"small-1e9", "large-1e10"}
    assert left_out == ["large-1e9", "small-1e10"]


def test_parametric_crosses_sizes_and_images():
    cells, left_out = Parametric((100, 1000)).cells(SIZES)
    assert not left_out and all(c.budget is None for c in cells)
    assert {c.name: c.images for c in cells} == {
        "small-100": 96, "large-100": 128, "small-1000": 992, "large-1000": 1024,
    }  # fmt: skip


def test_wrong_designs_are_refused():
    for wrong in ({"budgets": ()}, {"budgets": (1e9, 0)}, {"budgets": (1e9, 1e9)}):
        with pytest.raises(ValueError, match="budgets"):
            IsoFlop(**wrong)
    with pytest.raises(ValueError, match="most_images"):
        IsoFlop((1e9,), most_images=-1)
    with pytest.raises(ValueError, match="images"):
        Parametric(())
    assert set(DESIGNS.entries) == {"isoflop", "parametric"}
