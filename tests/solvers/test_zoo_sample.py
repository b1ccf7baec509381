"""The zoo in the sampling loop: evaluations, compilations, batches and devices."""

import pytest

from genjax.solvers import SOLVERS
from tests.solvers import test_sample

ZOO = [
    ("euler_ancestral", {}, lambda n: n),
    ("restart", {"intervals": [[0.5, 2.0, 3, 2]]}, lambda n: 2 * (n + 1) - 1 + 12),
    ("dpm_solver", {}, lambda n: n),
    ("dpm_solver", {"order": 2, "budget": "fixed"}, lambda n: 2 * n - 1),
    ("dpm_solver_multistep", {"order": 3}, lambda n: n),
    ("dpmpp_1", {}, lambda n: n),
    ("dpmpp_2s", {}, lambda n: 2 * n - 1),
    ("dpmpp_2m", {}, lambda n: n),
    ("dpmpp_3m", {}, lambda n: n),
    ("dpmpp_2s_ancestral", {}, lambda n: 2 * n - 1),
    ("dpmpp_sde", {}, lambda n: 2 * n - 1),
    ("dpmpp_2m_sde", {}, lambda n: n),
    ("dpmpp_3m_sde", {}, lambda n: n),
    ("unipc", {}, lambda n: n),
    ("deis", {}, lambda n: n),
    ("lms", {}, lambda n: n),
    ("pndm", {}, lambda n: n + 3 * min(3, n - 1)),
    ("pndm", {"form": "s"}, lambda n: n + (n > 1)),
    ("plms", {}, lambda n: n + (n > 1)),
    ("ipndm", {}, lambda n: n),
]


def some(*indices):
    return pytest.mark.parametrize(("name", "fields", "nfe"), [ZOO[i] for i in indices])


def test_every_solver_is_counted():
    listed = {name for name, _, _ in ZOO + test_sample.EVERY} | test_sample.ADAPTIVE
    assert listed == set(SOLVERS.entries)


@pytest.mark.parametrize(("name", "fields", "nfe"), ZOO)
def test_nfe_is_what_is_really_called(name, fields, nfe):
    test_sample.test_nfe_is_what_is_really_called(name, fields, nfe)


@some(1, 6, 12, 13, 16)  # each template; not dpm_solver, whose steps depend on the length alone
def test_another_grid_never_compiles_again(name, fields, nfe):
    test_sample.test_another_grid_and_weight_of_the_same_length_never_compile_again(
        name, fields, nfe
    )


@some(10, 13)
def test_images_depend_neither_on_batch_nor_on_devices(name, fields, nfe):
    test_sample.test_images_depend_neither_on_batch_nor_on_devices(name, fields, nfe)


@some(0, 2, 6)
def test_rows_of_single_images(name, fields, nfe):
    test_sample.test_rows_of_single_images(name, fields, nfe)
