"""What EDM's configs share (Karras et al. 2022, appendix F): lengths are in images throughout."""

from configs import base


def get_base(*, batch: int, learning_rate: float, half_life: float, images: int):
    """Returns optimiser, average and length of the paper's own runs (config B and later)."""
    c = base.get_base()
    ramp = dict(name="constant", warmup=10_000_000)
    c.optimizer.model = dict(name="adam", learning_rate=learning_rate, schedule=ramp)
    c.ema = dict(main=dict(name="half_life", images=half_life))
    c.train.images = images
    c.log.every_images = batch * 100
    c.checkpoint.every_images = 2_500_000
    c.samples.every_images = 2_500_000
    return c


def edm(task: dict) -> dict:
    """Returns the task with EDM's process, preconditioning, noise levels and weight (config E)."""
    return {
        **task,
        "process": dict(name="edm"),
        "precond": dict(name="edm"),
        "objective": dict(name="denoising", weighting=dict(name="edm"), reduction="sum"),
        "times": dict(name="lognormal", mean=-1.2, std=1.2),
    }


def heun(steps: int, **churn: float) -> dict:
    """Returns algorithm 2's sampler: Heun on the rho = 7 grid, NFE 2 steps - 1."""
    return dict(solver=dict(name="edm", **churn), grid=dict(name="karras"), steps=steps)
