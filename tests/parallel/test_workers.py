import pytest

from genjax.parallel.workers import difference


def workers(number, **columns):
    """Returns what `number` workers have found: alike but for the columns, one value a worker."""
    same = {"jax": "0.12.0", "libtpu": "0.0.42", "clock": 1000.0}
    return [
        {"host": f"host{i}"} | same | {key: column[i] for key, column in columns.items()}
        for i in range(number)
    ]


def test_equal_workers_with_clocks_almost_alike_pass():
    assert difference(workers(3)) is None
    assert difference(workers(3, clock=[1000.0, 1029.0, 971.5])) is None
    assert difference([{"host": "a", "devices": "4 TPU v5 lite"}] * 2) is None


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            {"jax": ["0.10.2", "0.12.0", "0.12.0"]},
            "the workers differ in jax: worker 0 (host0) has 0.10.2, the others have 0.12.0; "
            "install the same version everywhere",
        ),
        # Two alike and one without: the one without is wrong, whichever it is.
        (
            {"libtpu": ["0.0.42", "0.0.42", "none"]},
            "the workers differ in libtpu: worker 2 (host2) has none, the others have 0.0.42; "
            "install the same version everywhere",
        ),
        # No majority: the first worker is believed.
        (
            {"genjax": ["1+a", "1+b", "1+c"]},
            "the workers differ in genjax: worker 1 (host1) has 1+b, worker 2 (host2) has 1+c, "
            "the others have 1+a; copy the same checkout everywhere",
        ),
        (
            {"clock": [1000.0, 905.0, 1000.4]},
            "the workers' clocks differ: worker 1 (host1) is 95 s behind worker 0 (host0); "
            "set them by NTP",
        ),
        (
            {"clock": [5000.0, 1000.0, 1000.1]},
            "the workers' clocks differ: worker 0 (host0) is 4000 s ahead of worker 1 (host1); "
            "set them by NTP",
        ),
    ],
)
def test_the_line_names_the_worker_that_differs(columns, line):
    assert difference(workers(3, **columns)) == line


def test_a_line_about_many_stays_a_line():
    found = difference(workers(40, jax=["0.12.0"] * 21 + ["0.10.2"] * 19))
    assert found is not None
    assert found.count("has 0.10.2") == 4 and "worker 24 (host24) has 0.10.2 and 15 more," in found
