"""Evaluation in training: the same metrics as `genjax eval`, of raw and averaged weights."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genjax.cli.eval_inputs import (
    LABEL_RULES,
    how_drawn,
    labels_by_rule,
    load_classifier,
    load_weights,
    open_reference,
    statistics_cache,
    target_of,
)
from genjax.core.errors import UserError
from genjax.evaluation import (
    METRICS,
    MODEL,
    Settings,
    Tools,
    evaluate,
    images,
    open_extractor,
    runner,
    with_extractor,
)
from genjax.evaluation.metrics import Evidence
from genjax.tasks import Diffusion
from genjax.tasks.generate import Generator, whole_batch
from genjax.training.hooks import Hook, Moment


def hook(run: Any, config: Mapping[str, Any], mesh: Mesh) -> Hook:
    """Returns the hook that measures `eval/WEIGHTS/METRIC` and keeps the whole report, with its
    protocols, in evaluations/IMAGES_WEIGHTS.json.

    Networks and reference are opened now, so that what is wrong with them is found before training.
    What is made of the reference is made once. Raises `UserError` naming the key.
    """
    settings, task = run.evaluation, run.task
    if not isinstance(task, Diffusion):
        raise UserError(
            f"config.evaluation: draws samples, which a {type(task).__name__} does not; set "
            "evaluation.every_images to 0"
        )
    if settings.labels not in LABEL_RULES:
        raise UserError(
            f"config.evaluation.labels: {settings.labels!r} is none of {', '.join(LABEL_RULES)}"
        )
    if not settings.reference:
        raise UserError(
            "config.evaluation.reference: name the data to compare with, such as fashion_mnist, "
            "image_folder:PATH or a FILE.npz"
        )
    metrics = {
        name: with_extractor(
            METRICS.build({"name": name}, "config.evaluation.metrics"), settings.extractor
        )
        for name in settings.metrics
    }
    roles = {m.extractor for m in metrics.values()} - {None, MODEL}
    tools = Tools(load_classifier, load_weights)
    extractors: dict[Any, Any] = {r: open_extractor(r or settings.extractor, tools) for r in roles}
    reference = open_reference(settings.reference, tuple(task.image), dict(config))
    labels = labels_by_rule(
        settings.labels, settings.num, task.num_classes, reference, settings.seed
    )
    planned = images.ImageSet("samples", settings.num, tuple(task.image), np.empty, lambda: labels)
    runner.check(planned, reference, metrics, extractors)
    batch = whole_batch(settings.num, settings.batch, mesh)
    generator = Generator(task, batch=batch, mesh=mesh, rules=run.rules)
    known: dict[Any, Evidence] = {}

    def measure(moment: Moment) -> dict[str, float]:
        values = {}
        for name, params in moment.weights().items():
            drawn = generator(
                params["model"],
                moment.frozen,
                num=settings.num,
                labels=labels,
                seed=settings.seed,
            )
            pictures = np.concatenate([part for part, _ in drawn])
            if generator.problem and not jax.process_index():
                print(f"warning: evaluation: {generator.problem}", file=sys.stderr, flush=True)
            made = f"step {moment.step}"
            report = evaluate(
                images.of_arrays(f"weights {name}", pictures, labels, made),
                reference,
                metrics,
                extractors,
                settings=Settings(
                    seed=settings.seed,
                    batch=settings.batch,
                    cache=statistics_cache(None),
                    note=how_drawn(
                        task.sampler, labels, settings.labels, generator.evaluations, name
                    ),
                    target=target_of(config),
                ),
                known=known,
            )
            values |= {f"eval/{name}/{k}": e["value"] for k, e in report["metrics"].items()}
            if jax.process_index() == 0:
                file = f"evaluations/{moment.images:012d}_{name}.json"
                moment.workdir.write(file, f"{json.dumps(report, indent=1)}\n".encode())
        return values

    return Hook("evaluation", settings.every_images, measure)
