"""Every solver against diffusers' scheduler of the same settings, on the scheduler's own levels.

The model is the exact eps of a mixture, as a function of sigma/alpha. A scheduler's `sigmas` are
the levels of its steps; its float32 table of them is read as float64, as the samples of both sides
are. What a scheduler keeps in float32 besides (abar, UniPC's nodes) limits the agreement.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from genjax.core import keys as keys_lib  # noqa: E402
from genjax.process import VP, RectifiedFlow, Table  # noqa: E402
from genjax.solvers import GRIDS, sample  # noqa: E402
from tests.solvers.solver_toys import bound, keys, mixture, predictor  # noqa: E402

pytestmark = pytest.mark.parity

MIX = (np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.25, 0.4]))
SHAPE = (3, 2, 4, 4)
START = np.random.default_rng(0).standard_normal(SHAPE)
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
LOW = {"lower_order_final": False}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


def eps(y, level):
    """The best eps of the mixture for y = x/alpha [...] at sigma/alpha = level, in NumPy."""
    weights, means, stds = MIX
    y = np.asarray(y)[..., None]
    variance = stds**2 + level**2
    logits = np.log(weights) - 0.5 * np.log(variance) - (y - means) ** 2 / (2 * variance)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    x0 = np.sum(share * (means + stds**2 / variance * (y - means)), axis=-1)
    return (y[..., 0] - x0) / level


def step_noise(i):
    """What genjax draws in step i for the images of START, and hands to a scheduler here."""
    with jax.enable_x64(True):
        own = keys_lib.fold_each(keys(SHAPE[0]), jnp.uint32(i))
        return np.asarray(keys_lib.normal(own, (np.prod(SHAPE[1:]),), jnp.float64)).reshape(SHAPE)


def ours(name, fields, process, grid, start):
    """Returns what genjax makes of the noise `start`, in float64."""
    solver = bound(name, process, **fields)
    scalar = mixture(process, *MIX)

    def denoise(x, t):
        flat = x.reshape(-1, 1)
        return scalar(flat, t).reshape(x.shape)

    with jax.enable_x64(True):
        x = jnp.asarray(start.reshape(SHAPE[0], -1))
        out = jax.jit(lambda r, x, k: sample(solver, predictor(denoise), r, x, k))(
            solver.rows(np.asarray(grid, np.float64)), x, keys(SHAPE[0])
        )
    return np.asarray(out).reshape(SHAPE)


def theirs(scheduler, n, *, scaled=False, levels=None, noise=None, before=lambda s, i: None):
    """Returns (the scheduler's sample, its levels); `scaled`: it works on x/alpha.

    `levels`: of each evaluation, if not its `sigmas`. `noise`: keyword of `step` for the noise.
    """
    scheduler.set_timesteps(n)
    if hasattr(scheduler, "sigmas"):
        own = scheduler.sigmas.double() if levels is None else torch.tensor(levels)
        scheduler.sigmas, levels = own, own.numpy()
    x = torch.tensor(START)
    if scaled:
        x = x * np.sqrt(1 + levels[0] ** 2)
    for i, t in enumerate(scheduler.timesteps):
        level = float(levels[i])
        y = x.numpy() if scaled else x.numpy() * np.sqrt(1 + level**2)
        if scaled:
            scheduler.scale_model_input(x, t)
        before(scheduler, i)
        extra = {noise: torch.tensor(step_noise(i))} if noise else {}
        x = scheduler.step(torch.tensor(eps(y, level)), t, x, **extra).prev_sample
    return x.numpy(), levels


def agree(found, wanted, atol=5e-6):
    assert np.abs(wanted - START).max() > 0.3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def grid_of(levels):
    """The times of VP, where any level exists, and 0 for level 0."""
    levels = np.asarray(levels, np.float64)
    return np.where(levels > 0, VP().t_of_lam(np.maximum(levels, 1e-300)), 0.0)


MULTISTEP = diffusers.DPMSolverMultistepScheduler
PAIRS = [
    ("dpmpp_2m", {}, MULTISTEP, {**SIGMA_MIN}),
    ("dpmpp_2m", {}, MULTISTEP, {"final_sigmas_type": "zero"}),
    (
        "dpmpp_2m",
        {"flavour": "heun", **LOW},
        MULTISTEP,
        {"solver_type": "heun", **SIGMA_MIN, **LOW},
    ),
    ("dpmpp_2m", {"euler_at_final": True, **LOW}, MULTISTEP, {"euler_at_final": True, **LOW}),
    ("dpmpp_3m", {"compat": "released"}, MULTISTEP, {"solver_order": 3, **SIGMA_MIN}),
    (
        "dpmpp_3m",
        {"compat": "released", **LOW},
        MULTISTEP,
        {"solver_order": 3, "final_sigmas_type": "zero", **LOW},
    ),
    (
        "dpm_solver_multistep",
        LOW,
        MULTISTEP,
        {"algorithm_type": "dpmsolver", **SIGMA_MIN, **LOW},
    ),
    (
        "dpm_solver_multistep",
        {"order": 3, "compat": "released"},
        MULTISTEP,
        {"algorithm_type": "dpmsolver", "solver_order": 3, **SIGMA_MIN},
    ),
    ("dpmpp_2m_sde", {}, MULTISTEP, {"algorithm_type": "sde-dpmsolver++", **SIGMA_MIN}),
    (
        "dpmpp_2m_sde",
        {"flavour": "heun", **LOW},
        MULTISTEP,
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_type": "heun",
            "final_sigmas_type": "zero",
            **LOW,
        },
    ),
    ("dpmpp_1", {"eta": 1.0}, MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
    (
        "deis",
        {"polynomial": "log_lam", "lower_order_final": True},
        diffusers.DEISMultistepScheduler,
        {"solver_order": 3},
    ),
    (
        "deis",
        {"polynomial": "log_lam", "order": 2},
        diffusers.DEISMultistepScheduler,
        {"solver_order": 2, **LOW},
    ),
    *(
        (
            "unipc",
            {"order": order, "B": bh, **LOW},
            diffusers.UniPCMultistepScheduler,
            {"solver_order": order, "solver_type": bh, **SIGMA_MIN, **LOW},
        )
        for order in (1, 2, 3)
        for bh in ("bh1", "bh2")
    ),
    (
        "unipc",
        {"order": 3},
        diffusers.UniPCMultistepScheduler,
        {"solver_order": 3, "final_sigmas_type": "zero"},
    ),
    (
        "unipc",
        {"order": 3, "data_prediction": False, **LOW},
        diffusers.UniPCMultistepScheduler,
        {"solver_order": 3, "predict_x0": False, **SIGMA_MIN, **LOW},
    ),
    (
        "unipc",
        {"order": 2, "corrector": False, **LOW},
        diffusers.UniPCMultistepScheduler,
        {"solver_order": 2, "disable_corrector": list(range(20)), **SIGMA_MIN, **LOW},
    ),
]


@pytest.mark.parametrize(("name", "fields", "kind", "config"), PAIRS)
def test_multistep_pairs(name, fields, kind, config):
    noise = "variance_noise" if "sde" in config.get("algorithm_type", "") else None
    scheduler = kind(**LINEAR, timestep_spacing="linspace", **config)
    wanted, levels = theirs(scheduler, 10, noise=noise)
    agree(ours(name, fields, VP(), grid_of(levels), START), wanted)


@pytest.mark.parametrize(
    ("name", "fields", "kind", "config"),
    [
        ("euler", {"space": "lam"}, diffusers.EulerDiscreteScheduler, {}),
        ("euler_ancestral", {}, diffusers.EulerAncestralDiscreteScheduler, {}),
        ("lms", {}, diffusers.LMSDiscreteScheduler, {}),
        ("lms", {}, diffusers.LMSDiscreteScheduler, {"use_karras_sigmas": True}),
        ("heun", {"space": "lam"}, diffusers.HeunDiscreteScheduler, {}),
        ("restart", {"intervals": []}, diffusers.HeunDiscreteScheduler, {}),
    ],
)
def test_pairs_in_x_over_alpha(monkeypatch, name, fields, kind, config):
    if name == "euler_ancestral":
        count = iter(range(100))
        module = diffusers.schedulers.scheduling_euler_ancestral_discrete
        monkeypatch.setattr(
            module, "randn_tensor", lambda *a, **k: torch.tensor(step_noise(next(count)))
        )
    scheduler = kind(**LINEAR, timestep_spacing="linspace", **config)
    wanted, levels = theirs(scheduler, 10, scaled=True)
    if kind is diffusers.HeunDiscreteScheduler:
        levels = np.append(levels[:-1:2], 0.0)  # every level but the ends stands there twice
    agree(ours(name, fields, VP(), grid_of(levels), START), wanted)


def even(n):
    """n + 1 levels even in log sigma, on which inner stages of r = 1/2, 1/3 and 2/3 lie too."""
    return np.geomspace(150.0, 0.02, n + 1)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("n", [9, 10, 11])
def test_single_step_dpm_solver(order, n):
    """diffusers puts inner stages on the grid: even in log sigma, they are the published ones.

    Its second stage of the third order is the published one with `solver_type="heun"`, its end with
    "midpoint".
    """
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        **LINEAR,
        solver_order=order,
        algorithm_type="dpmsolver",
        lower_order_final=order == 3 or n % 2 == 1,  # as the authors' "fast" budget
        **SIGMA_MIN,
    )

    def before(scheduler, i):
        orders = scheduler.order_list
        inner = orders[i] == 2 and i + 1 < len(orders) and orders[i + 1] == 3
        scheduler.register_to_config(solver_type="heun" if inner else "midpoint")

    wanted, levels = theirs(scheduler, n, levels=even(n), before=before)
    agree(ours("dpm_solver", {"order": order}, VP(), grid_of(levels), START), wanted)


def test_dpmpp_2s():
    scheduler = diffusers.DPMSolverSinglestepScheduler(**LINEAR, solver_order=2, **LOW, **SIGMA_MIN)
    wanted, levels = theirs(scheduler, 12, levels=even(12))
    agree(ours("dpmpp_2s", LOW, VP(), grid_of(levels[::2]), START), wanted)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim(spacing, eta):
    """With "linspace" diffusers steps to t - N//n, which is not the next time; not compared."""
    scheduler = diffusers.DDIMScheduler(
        **LINEAR, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    table = Table()
    levels = table.lam(scheduler.timesteps.numpy() + 1.0)
    grid = GRIDS.build({"name": spacing}).times(table, 10)
    np.testing.assert_array_equal(grid[:-1] - 1, scheduler.timesteps.numpy())
    x = torch.tensor(START)
    for i, t in enumerate(scheduler.timesteps):
        e = torch.tensor(eps(x.numpy() * np.sqrt(1 + levels[i] ** 2), levels[i]))
        z = torch.tensor(step_noise(i))
        x = scheduler.step(e, t, x, eta=eta, variance_noise=z if eta else None).prev_sample
    agree(ours("ddim", {"eta": eta}, table, grid, START), x.numpy())


@pytest.mark.parametrize(
    ("name", "fields", "skip", "evaluations"),
    [("pndm", {}, False, 19), ("plms", {}, True, 11)],
)
def test_pndm(name, fields, skip, evaluations):
    scheduler = diffusers.PNDMScheduler(
        **LINEAR,
        skip_prk_steps=skip,
        steps_offset=1,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(10)
    table = Table()
    levels = table.lam(scheduler.timesteps.numpy() + 1.0)
    wanted, _ = theirs(scheduler, 10, levels=levels)
    grid = GRIDS.build({"name": "leading", "offset": 1}).times(table, 10)
    assert len(levels) == evaluations == bound(name, table, **fields).nfe(10)
    agree(ours(name, fields, table, grid, START), wanted)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(8)
    grid = scheduler.sigmas.numpy().astype(np.float64)
    x = torch.tensor(START)
    for i, t in enumerate(scheduler.timesteps):
        s = grid[i]
        if s == 1:  # the data's mean is the best estimate
            x0 = np.full(SHAPE, np.sum(MIX[0] * MIX[1]))
        else:
            y = x.numpy() / (1 - s)
            x0 = y - s / (1 - s) * eps(y, s / (1 - s))
        u = (x.numpy() - x0) / s
        x = scheduler.step(torch.tensor(u), t, x).prev_sample
    agree(ours("euler", {}, RectifiedFlow(), grid, START), x.numpy())
    moved = GRIDS.build({"name": "uniform", "shift": 3.0}).times(RectifiedFlow(), 8)
    u = np.linspace(1, 0, 9)
    np.testing.assert_allclose(moved, 3 * u / (1 + 2 * u), rtol=1e-12)
