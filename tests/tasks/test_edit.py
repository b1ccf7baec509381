"""Edits as tasks: whom they accept, and what is constrained and guided at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.solvers import operators
from genjax.tasks.edit import Edit, measured_picture
from genjax.tasks.generate import Generator
from tests.tasks import tiny
from tests.tasks.test_noisy_classifier import build, parameters

COLOUR = {"image": (8, 8, 3), "levels": 256, "data_range": (0.0, 1.0)}


def classifier(**fields):
    return build(model={"name": "wide_resnet", "depth": 10, "widen": 1}, **fields)


def test_who_is_accepted():
    task = tiny.task()
    for wrong, words in (
        (classifier(process=None), "trained on clean images"),
        (classifier(image=(8, 8, 3)), r"reads images \[8, 8, 3\]"),
    ):
        with pytest.raises(UserError, match=words):
            Edit(task, wrong)
    assert Edit(task, classifier()).nfe == task.nfe


@pytest.mark.parametrize("guided", [False, True])
def test_colours_keep_their_grey_values(guided):
    """In whole images to 1e-5, in pixels to their rounding, guided by a classifier or not."""
    task = tiny.task(**COLOUR).with_sampler(steps=4)
    noisy = classifier(image=(8, 8, 3), levels=256)
    edit = Edit(task, noisy)
    given = np.random.default_rng(0).uniform(0.3, 0.7, (4, 8, 8, 3)).astype(np.float32)
    frozen = {"operator": operators.colorize((8, 8, 3)), "classifier": parameters(noisy)["model"]}
    generator = Generator(edit, batch=4)
    arrays = {"image": given} | ({"target": np.arange(4, dtype=np.int32)} if guided else {})
    ((images, _),) = generator(
        tiny.parameters(task)["model"],
        frozen,
        num=4,
        labels=np.full(4, 10, np.int32),
        seed=0,
        given=arrays,
    )
    inside = (images > 0).all(-1) & (images < 255).all(-1)  # clipped pixels lose what they were
    assert inside.any()
    grey = images.astype(float).mean(-1) / 255
    assert np.abs(grey - given.mean(-1))[inside].max() < 0.51 / 255
    assert np.abs(images / 255 - given).max() > 0.05  # the colours are new


def test_the_measured_picture():
    task = tiny.task(**COLOUR)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    mask = np.zeros((8, 8))
    mask[:, :4] = 1
    half = measured_picture(task, operators.inpaint(mask, (8, 8, 3)), x)
    np.testing.assert_allclose(half[:, :, :4], x[:, :, :4], atol=1e-6)
    np.testing.assert_allclose(half[:, :, 4:], 0.5)
    grey = measured_picture(task, operators.colorize((8, 8, 3)), x)
    np.testing.assert_allclose(grey, jnp.repeat(x.mean(-1, keepdims=True), 3, -1), atol=1e-6)
