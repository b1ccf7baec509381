import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.augment import _CENTRE, AUGMENTS, SYM6, Change, _down, _up, warp

KEY = jax.random.key(5)
SIZES = [(8, 8, 1), (32, 32, 3), (6, 9, 2)]


def build(**fields):
    return AUGMENTS.build({"name": "edm"} | fields)


def images(shape, b=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(b, *shape)), jnp.float32)


def smooth(n, b=1):
    """Band-limited images [b, n, n, 1], many pixels a wave, and far from symmetric."""
    i, j = np.mgrid[:n, :n] / n
    wave = np.sin(2 * np.pi * i + 0.4) + 0.7 * np.cos(2 * np.pi * (i + 0.5 * j)) + 0.3 * j
    return jnp.asarray(np.tile(wave[None, ..., None], (b, 1, 1, 1)), jnp.float32)


def change(b=1, **fields):
    return Change(**{k: jnp.full((b,), fields.get(k, 0.0)) for k in Change._fields})


def test_filter_is_the_symlet_of_six_vanishing_moments():
    k = np.arange(12)
    for shift in range(6):
        product = SYM6[: 12 - 2 * shift] @ SYM6[2 * shift :]
        assert product == pytest.approx(float(shift == 0), abs=2e-12)
    moments = [abs(np.sum((-1.0) ** k * (k - 5.5) ** m * SYM6)) for m in range(7)]
    assert max(moments[:6]) < 1e-9 and moments[6] > 1
    assert SYM6.sum() == pytest.approx(np.sqrt(2), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 8, 32])
def test_up_and_down_are_inverse_and_keep_ramps(n):
    """Down after up is the identity, whatever the image; a ramp's fine points lie on it."""
    up, down = _up(n), _down(n)
    fine = np.arange(2 * n + 10)
    np.testing.assert_allclose(down @ up[fine % len(up)], np.eye(n), atol=1e-6)
    np.testing.assert_allclose(up.sum(1), 1, atol=1e-6)
    place = (np.arange(len(up)) - _CENTRE) / 2
    inside = (place > 3) & (place < n - 4)
    np.testing.assert_allclose((up @ np.arange(n))[inside], place[inside], atol=1e-4)


@pytest.mark.parametrize("shape", SIZES)
def test_nothing_happens_with_probability_zero(shape):
    x = images(shape)
    got, labels = build(p=0.0).sample(KEY, x)
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(labels, np.zeros((4, 9)))
    got, labels = AUGMENTS.build({"name": "none"}).sample(KEY, x)
    assert got is x and labels.shape == (4, 0)


@pytest.mark.parametrize("shape", SIZES)
def test_the_identity_warp_is_the_identity(shape):
    x = images(shape)
    got = warp(x, jnp.tile(jnp.eye(2), (4, 1, 1)), jnp.zeros((4, 2)))
    np.testing.assert_allclose(got, x, atol=3e-5)


def test_flips_move_pixels():
    x = images((6, 9, 2))
    np.testing.assert_array_equal(build().apply(x, change(4, x_flip=1.0)), x[:, :, ::-1])
    np.testing.assert_array_equal(build().apply(x, change(4, y_flip=1.0)), x[:, ::-1])


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (-1, 2), (40, 0)])
def test_integer_shifts_are_exact_and_reflect_at_the_border(right, down):
    n = 8
    fields = {"right": right / (0.125 * n), "down": down / (0.125 * n)}
    x = images((n, n, 1))
    got = build().apply(x, change(4, **fields))
    pad = 48
    wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    want = wide[:, pad - down : pad - down + n, pad - right : pad - right + n]
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles_against_numpy(turns):
    """Within the error of the filter and of the bilinear step between fine points."""
    x = smooth(32)
    got = build().apply(x, change(angle=turns * np.pi / 2))
    want = np.rot90(x, turns, axes=(1, 2))
    error = np.abs(got - want)[:, 5:-5, 5:-5]
    assert error.max() < 5e-3
    wrong = np.abs(got - np.rot90(x, -turns, axes=(1, 2)))[:, 5:-5, 5:-5].max()
    assert turns == 2 or wrong > 0.3


def test_ramps_are_mapped_exactly():
    """Affine images under any map: what was at q is at linear q + shift."""
    n, aug = 32, build()
    axis = np.arange(n) - (n - 1) / 2
    right, down = np.meshgrid(axis, axis)
    x = jnp.asarray((0.3 * right - 0.2 * down)[None, ..., None], jnp.float32)
    some = change(zoom=0.5, angle=0.3, stretch=-0.6, axis=0.9, right=0.1, down=-0.2)
    got = np.asarray(aug.apply(x, some))[0, ..., 0]
    # by hand: zoom, then counter-clockwise rotation, then the stretch along its axis, then shift
    points = np.stack([right, down], -1).reshape(-1, 2) - 0.125 * n * np.array([0.1, -0.2])

    def turned(p, a):
        return p @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])

    points = turned(points, -0.9) / np.array([2 ** (0.2 * -0.6), 2 ** (0.2 * 0.6)])
    points = turned(turned(points, 0.9), -0.3) / 2 ** (0.2 * 0.5)
    want = (points @ np.array([0.3, -0.2])).reshape(n, n)
    near = np.hypot(right, down) < 8
    np.testing.assert_allclose(got[near], want[near], atol=2e-3)
    assert np.abs(got - np.asarray(x)[0, ..., 0])[near].max() > 0.5


def test_a_zoom_magnifies():
    """A blob's second moment grows by the factor squared."""
    n = 32
    axis = np.arange(n) - (n - 1) / 2
    blob = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 2.5**2))[None, ..., None]
    got = np.asarray(build().apply(jnp.asarray(blob, jnp.float32), change(zoom=2.0)))[0, ..., 0]
    wide = 2.5 * 2**0.4
    want = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * wide**2))
    np.testing.assert_allclose(got, want, atol=8e-3)


def test_labels_say_what_was_done():
    """They give back every parameter; of the stretch, up to its published ambiguity."""
    aug, b = build(p=0.6), 500
    done = aug.draw(KEY, b)
    labels = np.asarray(done.labels(), np.float64)
    assert labels.shape == (b, 9)
    for column, name in ((0, "x_flip"), (1, "y_flip"), (2, "zoom"), (7, "right"), (8, "down")):
        np.testing.assert_array_equal(labels[:, column], getattr(done, name))
    angle = np.arctan2(labels[:, 4], labels[:, 3] + 1)
    np.testing.assert_allclose(angle, done.angle, atol=1e-5)
    size, axis = np.hypot(*labels[:, 5:7].T), np.arctan2(labels[:, 6], labels[:, 5])
    same = done._replace(stretch=jnp.asarray(size), axis=jnp.asarray(axis))
    other = done._replace(stretch=jnp.asarray(-size), axis=jnp.asarray(axis + np.pi))
    want, *choices = (np.asarray(aug.linear(c)) for c in (done, same, other))
    errors = np.min([np.abs(c - want).max((1, 2)) for c in choices], 0)
    assert errors.max() < 1e-4
    assert np.abs(choices[0] - choices[1]).max() > 0.1


def test_how_often_each_transform_acts():
    b, p = 40_000, 0.12
    done = build(p=p).draw(KEY, b)
    spread = 5 * np.sqrt(0.25 / b)

    def share(name):
        return np.mean(np.asarray(getattr(done, name)) != 0)

    assert share("x_flip") == pytest.approx(0.5, abs=spread)
    assert share("y_flip") == pytest.approx(p / 2, abs=spread)
    for name in ("zoom", "angle", "stretch", "right", "down"):
        assert share(name) == pytest.approx(p, abs=spread), name
    assert share("axis") == pytest.approx(p / 2, abs=spread)
    on = {name: np.asarray(getattr(done, name)) for name in Change._fields}
    for name in ("zoom", "stretch", "right", "down"):
        assert on[name][on[name] != 0].std() == pytest.approx(1, abs=0.06), name
    angle = on["angle"][on["angle"] != 0]
    assert angle.std() == pytest.approx(np.pi / np.sqrt(3), abs=0.08)
    # transforms are drawn apart
    hits = np.stack([on[n] != 0 for n in ("zoom", "angle", "stretch", "right", "down", "x_flip")])
    assert np.abs(np.corrcoef(hits) - np.eye(6)).max() < 0.04


def test_a_label_of_zero_means_an_unchanged_image():
    x = images((8, 8, 1), 256)
    got, labels = jax.jit(build().sample)(KEY, x)
    still = np.all(np.asarray(labels) == 0, axis=1)
    np.testing.assert_array_equal(np.asarray(got)[still], np.asarray(x)[still])
    changed = np.abs(np.asarray(got) - np.asarray(x)).max((1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(changed, ~still)
    assert 0.1 < still.mean() < 0.4 and got.dtype == labels.dtype == jnp.float32


SWITCHES = {
    "x_flip": (False, [0]), "y_flip": (False, [1]), "scale": (0.0, [2]), "rotate": (0.0, [3, 4]),
    "stretch": (0.0, [5, 6]), "stretch_rotate": (0.0, [6]), "translate": (0.0, [7, 8]),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_every_transform_can_be_switched_off(name):
    off, columns = SWITCHES[name]
    for fields, gone in (({name: off}, True), ({}, False)):
        labels = np.asarray(build(p=1.0, **fields).draw(KEY, 64).labels())
        assert np.all(labels[:, columns] == 0) == gone
    others = [c for c in range(9) if c not in columns]
    labels = np.asarray(build(p=1.0, **{name: off}).draw(KEY, 64).labels())
    assert np.all(np.any(labels[:, others] != 0, axis=0))


def test_amounts_are_options():
    one = change(zoom=1.0, stretch=1.0, angle=0.0)
    np.testing.assert_allclose(
        build(scale=1.0, stretch=0.5).linear(one)[0],
        np.diag([2 * 2**0.5, 2 * 2**-0.5]),
        rtol=1e-6,
    )
    assert np.abs(build(rotate=0.1, p=1.0).draw(KEY, 500).angle).max() <= 0.1 * np.pi
    x = images((8, 8, 1), 1)
    moved = build(translate=0.25).apply(x, change(right=1.0))  # by two pixels
    np.testing.assert_allclose(moved[:, :, 2:], x[:, :, :-2], atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"p": 1.5}, r"p must lie in \[0, 1\]"),
        ({"stretch_rotate": -0.1}, r"stretch_rotate must lie in \[0, 1\]"),
        ({"scale": -1.0}, "scale must be >= 0"),
    ],
)
def test_wrong_fields(fields, text):
    with pytest.raises(UserError, match=text):
        build(**fields)


def test_images_of_one_row_are_refused():
    with pytest.raises(ValueError, match="at least 2 x 2"):
        build().sample(KEY, images((1, 8, 1)))
