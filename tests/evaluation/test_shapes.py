import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from genjax.cli.main import main
from genjax.core.errors import UserError
from genjax.core.scenes import COLOURS, SHAPES, Group, Scene, Statement, Thing
from genjax.data.array_record import Writer, finalise
from genjax.data.shapes import Shapes, render
from genjax.data.shapes_captions import caption as write
from genjax.evaluation.shapes import read
from genjax.evaluation.shapes_score import judge, parse, score


def tokenizer_like(image, i, blur=0.7, noise=0.05):
    """Blur of 0.7 pixels and noise of 5 % of the range: worse than a tokenizer one would keep."""
    soft = ndimage.gaussian_filter(image.astype(np.float64), (blur, blur, 0))
    drawn = np.random.default_rng(i).normal(0, noise * 255, image.shape)
    return np.clip(np.rint(soft + drawn), 0, 255).astype(np.uint8)


def agree(found, made):
    """Says whether every attribute of every object is read, and where it lies, to a pixel."""
    left = list(found)
    if len(left) != len(made.things):
        return False
    for thing in made.things:
        near = min(left, key=lambda t: abs(t.x - thing.x) + abs(t.y - thing.y))
        left.remove(near)
        names = ("shape", "colour", "texture", "size")
        if any(getattr(near, n) != getattr(thing, n) for n in names):
            return False
        if max(abs(near.x - thing.x), abs(near.y - thing.y)) > 1:
            return False
    return True


def shares(count, side, damage=None):
    """Returns the shares of pictures read right, and of those that fulfil their own caption."""
    source, right, fulfilled = Shapes(split="all", side=side).open(), 0, 0
    for i in range(count):
        made, image = source.scene(i), source[i]["image"]
        found = read(image if damage is None else damage(image, i))
        right += agree(found, made)
        fulfilled += judge(found, parse(made.caption)).right
    return right / count, fulfilled / count


@pytest.mark.parametrize("side", [32, 64])
def test_reads_real_pictures(side):
    right, fulfilled = shares(120, side)
    assert right >= 0.99 and fulfilled >= 0.99


def test_reads_pictures_that_went_through_a_tokenizer():
    right, fulfilled = shares(120, 32, tokenizer_like)
    assert right >= 0.95 and fulfilled >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_reads_two_thousand_pictures(side):
    assert min(shares(2000, side)) >= 0.99
    assert min(shares(2000, side, tokenizer_like)) >= 0.95


def test_parse_is_the_inverse_of_the_grammar():
    source = Shapes(split="all").open()
    for i in range(3000):
        made = source.scene(i)
        assert parse(made.caption) == made.statement, made.caption
    said = parse("Two small red circles to the left of an orange square.")
    groups = (Group(2, "circle", "red", "small"), Group(1, "square", "orange"))
    assert said == Statement(groups, ((0, "left of", 1),)) and said.count == 3
    assert write(said, lambda: 0.99) == (
        "a picture of two small red circles to the left of an orange square"
    )
    for text in ("a red dog", "a red circle near a blue square", "a red circle, a blue square", ""):
        with pytest.raises(UserError, match="no caption of the data set shapes"):
            parse(text)


def thing(shape="circle", colour="red", x=16.0, y=16.0, texture="solid", size="large"):
    radius = {"large": 6.2, "small": 4.1}[size]
    return Thing(shape, colour, texture, size, x, y, radius, COLOURS[colour])


def draw(*things, side=32):
    return render(Scene(things, (235, 235, 235), Statement(()), ""), side)


def test_verdicts_name_what_is_wrong():
    image = draw(thing(x=9, y=8), thing("square", "blue", 22, 23, "striped", "small"))
    good = score(image, "a large red circle above a small striped blue square")
    assert good.right and good.count
    assert (good.objects, good.attributes, good.relations) == ((2, 2), (3, 3), (1, 1))
    assert good.held_out == (1, 1)  # red circles are kept out of training, blue squares not
    swapped = score(image, "a red circle below a blue square")
    assert (swapped.objects, swapped.relations, swapped.right) == ((2, 2), (0, 1), False)
    assert score(image, "a red circle left of a blue square").right
    bound = score(image, "a blue circle above a red square")  # colours on the wrong shapes
    assert (bound.objects, bound.relations, bound.count) == ((0, 2), (0, 1), True)
    textures = score(image, "a small striped red circle above a blue square")
    assert (textures.objects, textures.attributes) == ((2, 2), (0, 2)) and not textures.right
    fewer = score(image, "a red circle")
    assert (fewer.objects, fewer.count, fewer.right) == ((1, 1), False, False)
    more = score(image, "two red circles above a blue square")
    assert (more.objects, more.relations, more.count) == ((2, 3), (0, 1), False)
    empty = score(draw(), "two red circles")
    assert (empty.objects, empty.count, empty.right) == ((0, 2), False, False)


def test_one_object_cannot_stand_for_two():
    said = parse("a red circle above a large red circle")
    one = [thing(y=8)]
    assert judge(one, said).objects == (1, 2)
    both = [thing(y=8, size="large"), thing(y=24, size="small")]
    assert judge(both, said).objects == (2, 2)
    assert not judge(both, said).relations[0]  # the large one is on top, not below


def test_what_is_none_of_the_shapes_has_no_shape_but_counts():
    y, x = np.mgrid[:32, :32] + 0.5
    white = np.full((32, 32, 3), 235, np.uint8)
    radius = np.hypot(x - 16, y - 16)
    ring, half, bar, gradient = (white.copy() for _ in range(4))
    ring[(radius < 7) & (radius > 4)] = COLOURS["red"]
    half[radius < 6.2] = COLOURS["red"]
    half[(radius < 6.2) & (x > 16)] = COLOURS["green"]
    bar[(abs(x - 16) < 10) & (abs(y - 16) < 2)] = COLOURS["blue"]
    gradient[radius < 6.2] = np.stack([x * 8, 255 - x * 8, y * 8], -1)[radius < 6.2]
    for image in (ring, half, bar):
        found = read(image)
        assert len(found) == 1 and found[0].shape is None, found
    (found,) = read(gradient)  # round, and of no colour that has a name
    assert found.colour is None
    grey = white.copy()
    grey[radius < 6.2] = 100
    (found,) = read(grey)
    assert (found.shape, found.colour) == ("circle", None)
    assert read(white) == ()


def test_every_shape_is_read_at_every_place():
    for shape in SHAPES:
        for k, size in enumerate(("small", "large")):
            for x in np.linspace(8, 24, 7):
                (found,) = read(draw(thing(shape, "purple", x, 16 + 0.13 * x, "checkered", size)))
                assert (found.shape, found.texture, found.size) == (shape, "checkered", size)
                assert abs(found.x - x) < 0.3, k


def test_other_sizes_are_refused():
    for shape in ((33, 33, 3), (32, 32, 1), (32, 64, 3)):
        with pytest.raises(ValueError, match="multiple of 32"):
            read(np.zeros(shape, np.uint8))


def test_genjax_eval_measures_it(tmp_path, capsys):
    source, n = Shapes(split="heldout").open(), 24
    images = np.stack([source[i]["image"] for i in range(n)])
    captions = np.array([source.caption(i) for i in range(n)])
    images[:4] = 255  # four empty pictures
    np.savez(tmp_path / "s.npz", arr_0=images, captions=captions)
    flags = ["eval", "--samples", str(tmp_path / "s.npz"), "--metrics", "shapes"]
    flags += ["--reference", "array_record:" + str(tmp_path / "ref"), "--heldout", "none"]
    meta = {"levels": 256, "split": "heldout"}
    with Writer(str(tmp_path / "ref"), meta) as writer:
        for i in range(30):
            writer.write(source[i])
    finalise(str(tmp_path / "ref"), 1, meta)
    assert main([*flags, "--json", str(tmp_path / "r.json")]) == 0
    entry = json.loads((tmp_path / "r.json").read_text())["metrics"]["shapes"]
    said = [parse(str(c)).count for c in captions]
    assert entry["value"] == pytest.approx(1 - sum(said[:4]) / sum(said))
    details = entry["details"]
    assert details["pictures"] == details["pictures_objects"] == details["count"] == 20 / 24
    assert details["held_out"] == pytest.approx(entry["value"])  # all objects are
    assert 0 < details["standard_error"] < 0.15
    assert "+-" in capsys.readouterr().out
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    (folder / "captions.txt").write_text("\n".join(captions))
    flags[2] = str(folder)
    assert main([*flags, "--json", str(tmp_path / "f.json")]) == 0
    again = json.loads((tmp_path / "f.json").read_text())["metrics"]["shapes"]
    assert again["details"] == details
    capsys.readouterr()
    flags[2] = str(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", arr_0=images)
    assert main(flags) == 2
    assert "has no captions, which shapes needs" in capsys.readouterr().err
    np.savez(tmp_path / "s.npz", arr_0=images, captions=captions[:5])
    assert main(flags) == 2
    assert "5 captions for 24 images" in capsys.readouterr().err
