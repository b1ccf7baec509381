"""What EDM2's configs share (Karras et al. 2024, table 6): lengths are in images, Mi = 2^20."""

from configs import base

MI = 2**20
BATCH = 2048
# Peak learning rate, dropout.
SIZES = {
    "XXS": (0.0170, 0.0), "XS": (0.0120, 0.0), "S": (0.0100, 0.0), "M": (0.0090, 0.1),
    "L": (0.0080, 0.1), "XL": (0.0070, 0.1), "XXL": (0.0065, 0.1),
}  # fmt: skip


def get_base(variant: str, lengths: dict[str, int], *, t_ref: int, mean: float, std: float):
    """Returns the config without codec, data and target.

    `lengths`: size -> training in Mi images; `t_ref`: batches after which the learning rate falls;
    `mean`, `std`: of ln sigma. Raises `ValueError` for a size without a length.
    """
    if variant not in lengths:
        raise ValueError(f"{variant!r} is no size; choose one of {', '.join(lengths)}")
    rate, dropout = SIZES[variant]
    c = base.get_base()
    c.task = dict(
        name="diffusion",
        model=dict(
            name="edm2",
            variant=variant,
            dropout=dropout,
            num_classes=1000,
            # Activations of the larger sizes fill a chip's memory before its compute.
            remat="none" if variant in ("XXS", "XS", "S") else "full",
            dtype="bfloat16",
        ),
        process=dict(name="edm"),
        precond=dict(name="edm"),
        objective=dict(name="edm2", reduction="sum"),
        times=dict(name="lognormal", mean=mean, std=std),
        sampler=dict(
            solver=dict(name="heun", space="lam"),
            grid=dict(name="karras"),
            guidance=dict(name="none"),
            steps=32,
        ),
        condition_dropout=0.0,
    )
    c.data.main = dict(batch=BATCH)
    c.optimizer.model = dict(
        name="adam",
        learning_rate=rate,
        b1=0.9,
        b2=0.99,
        schedule=dict(
            name="inverse_time", reference=float(t_ref * BATCH), power=0.5, warmup=10_000_000.0
        ),
        freeze=("/(freqs|phases)$",),
    )
    # The first by name samples by default; snapshots of both give any other (`posthoc:WIDTH`).
    c.ema = dict(long=dict(name="power", sigma_rel=0.10), short=dict(name="power", sigma_rel=0.05))
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.train.images = lengths[variant] * MI
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = 8 * MI
    c.checkpoint.ema_every_images = 8 * MI
    c.samples.every_images = 8 * MI
    return c


def target(dataset: str, value: float | None, width: float | None) -> dict:
    """Returns the published FID without guidance, with the EMA width that it was found at."""
    if value is None or width is None:
        return dict(dataset=dataset, metric="fid50k", value=None)
    return dict(
        dataset=dataset,
        metric="fid50k",
        value=value,
        nfe=63,
        guidance=1.0,
        protocol=f"Heun 32 steps, 50,000 samples, --ema posthoc:{width}, minimum of three",
        source="arXiv 2312.02696, tables 2 and 3; EMA width of the authors' presets",
    )
