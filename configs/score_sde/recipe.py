"""What Score SDE's configs share: processes as published, optimiser, samplers (section 5, App. G).

VE models see pixels in [0, 1], the units of their sigmas; VP and sub-VP models see [-1, 1]. The
samplers are the published ones (`discretisation="legacy"`), since the targets were measured
with them; `--config.task.sampler.solver.discretisation=consistent` takes exact steps instead.
"""

from configs import base


def get_base(batch: int, steps: int, *, ema: float):
    """Returns the part of the config that does not depend on process and network."""
    c = base.get_base()
    c.optimizer.model = dict(
        name="adam",
        learning_rate=2e-4,
        clip=1.0,
        schedule=dict(name="constant", warmup=batch * 5_000),
    )
    c.ema = dict(main=dict(name="constant", decay=ema))
    c.train.images = batch * steps
    c.log.every_images = batch * 100
    c.checkpoint.every_images = batch * 10_000
    c.checkpoint.keep_every_images = batch * 50_000  # the best of them was published
    c.samples.every_images = batch * 50_000
    return c


def ve(task: dict, *, sigma_max: float, snr: float, steps: int = 1000, discrete: bool = False):
    """Returns the task with the VE process, its loss and reverse diffusion with Langevin steps.

    The discrete form draws one of 1,000 noise levels and tells the network its rank from the top.
    """
    time = dict(time="reverse", time_scale=999.0) if discrete else dict(time="log_sigma")
    return {
        **task,
        "data_range": (0.0, 1.0),
        "process": dict(name="ve", sigma_min=0.01, sigma_max=sigma_max),
        "precond": dict(name="eps", negative=True, **time),
        "objective": dict(name="denoising", reduction="half_sum"),
        "times": dict(name="discrete", n=1000) if discrete else dict(name="uniform"),
        "sampler": _pc(
            "reverse_diffusion", steps, corrector=dict(name="langevin", snr=snr, norms="batch")
        ),
    }


def vp(task: dict, *, predictor: str = "euler_maruyama", discrete: bool = False):
    """Returns the task with the VP process, its loss and a predictor without corrector.

    The discrete form is DDPM's table of 1,000 betas.
    """
    table = dict(name="table", betas="linear", n=1000, lo=1e-4, hi=2e-2)
    return {
        **task,
        "process": table if discrete else dict(name="vp"),
        "precond": dict(name="eps") if discrete else dict(name="eps", time_scale=999.0),
        "objective": dict(name="denoising"),
        "times": dict(name="index") if discrete else dict(name="uniform"),
        "sampler": _pc(predictor, 1000),
    }


def subvp(task: dict):
    """Returns the task with the sub-VP process; the rest is VP's."""
    return {**vp(task), "process": dict(name="subvp")}


def _pc(predictor: str, steps: int, corrector: dict | None = None) -> dict:
    solver = dict(
        name="pc",
        predictor=dict(name=predictor),
        corrector=corrector or dict(name="none"),
        discretisation="legacy",
    )
    return dict(solver=solver, grid=dict(name="score_sde"), steps=steps)


def ode() -> dict:
    """Returns the sampler of table 2: the probability flow by RK45."""
    return dict(solver=dict(name="rk45"), grid=dict(name="score_sde"), steps=1)
