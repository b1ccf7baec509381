import dataclasses

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.data import Corrupt, Source, StreamSettings, open_once, open_stream
from genjax.data.pipeline import stream_seed


class Numbered(Source):
    """Element i is a 2 x 4 picture holding i, whose columns tell left from right."""

    num_classes = 1000

    def __init__(self, n=20, bad=()):
        self.n, self.bad = n, set(bad)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.bad:
            raise Corrupt(f"picture {i}: cut off")
        image = np.full((2, 4, 1), i % 100, np.uint8)
        image[:, :, 0] += np.arange(4, dtype=np.uint8) * 50
        return {"image": image, "label": np.int32(i), "caption": f"number {i}"}

    def describe(self, i):
        return f"picture {i}"


@dataclasses.dataclass(frozen=True)
class Config:
    """A stand-in for a registered source."""

    n: int = 20
    bad: tuple[int, ...] = ()

    def open(self):
        return Numbered(self.n, self.bad)


def settings(n=20, bad=(), **fields):
    return StreamSettings(**({"source": Config(n, bad), "batch": 4} | fields))


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def labels(count, **fields):
    seed, start = fields.pop("seed", 0), fields.pop("start", 0)
    return take(open_stream(settings(**fields), seed=seed, start=start), count)["label"]


def same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert np.array_equal(a[k], b[k]), k


def test_every_epoch_is_a_permutation_of_its_own_and_really_shuffled():
    n = 500
    order = labels(4 * n // 50, n=n, batch=50).reshape(4, n)
    for epoch in order:
        assert sorted(epoch) == list(range(n))
        assert abs(np.corrcoef(epoch, np.arange(n))[0, 1]) < 0.15  # sigma is 0.045
        assert np.mean(np.abs(np.diff(epoch.astype(int))) == 1) < 0.05  # no runs kept together
    for a in range(4):
        for b in range(a):
            assert np.mean(order[a] == order[b]) < 0.02
    # a batch of a source sorted by class meets all parts of it
    assert np.ptp(order[0][:50]) > 0.8 * n


def test_seeds_and_names_give_other_orders_and_neighbouring_seeds_share_no_epoch():
    n = 100
    epochs = {}
    for seed in (0, 1):
        for name in ("main", "other"):
            stream = open_stream(settings(n=n, batch=n), seed=seed, name=name)
            for e in range(3):
                epochs[seed, name, e] = tuple(next(stream)["label"])
            stream.close()
    assert len(set(epochs.values())) == len(epochs)
    assert abs(stream_seed(3, "main") - stream_seed(4, "main")) > 1000


def test_the_order_is_pinned():
    """Another grain with another permutation would continue old runs on other data."""
    assert labels(3, n=20, start=16).tolist() == PINNED


PINNED = [15, 1, 16, 2, 11, 3, 18, 12, 1, 4, 15, 19]


def test_unshuffled_is_the_order_of_the_source():
    assert labels(3, n=5, shuffle=False).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_the_pieces_of_the_same_global_batches(processes):
    given = settings(flip=True, batch=8)
    whole = take(open_stream(given, seed=1, start=12), 9)
    parts = [
        take(open_stream(given, seed=1, start=12, process_index=p, process_count=processes), 9)
        for p in range(processes)
    ]
    for key, value in whole.items():
        pieces = [part[key].reshape(9, 8 // processes, *value.shape[1:]) for part in parts]
        assert np.array_equal(np.concatenate(pieces, 1).reshape(value.shape), value)


@pytest.mark.parametrize("start", [4, 20, 37, 1_000_003])
def test_continues_from_any_position(start):
    given = settings(flip=True)
    if start < 1000:
        whole = take(open_stream(given, seed=2), 30)
    else:  # nobody reads a million images to get there
        whole = take(open_stream(given, seed=2, start=start - 3), 30)
    offset = start if start < 1000 else 3
    again = take(open_stream(given, seed=2, start=start), 5)
    same(again, {k: v[offset : offset + 20] for k, v in whole.items()})


def test_position_counts_global_images():
    stream = open_stream(settings(), seed=0, start=8, process_index=1, process_count=2)
    next(stream), next(stream)
    assert stream.position == 16
    stream.close()


@pytest.mark.parametrize("fields", [{"threads": 1}, {"threads": 7, "prefetch": 9}])
def test_threads_do_not_change_the_order(fields):
    same(
        take(open_stream(settings(flip=True, **fields), seed=3), 40),
        take(open_stream(settings(flip=True), seed=3), 40),
    )


def test_worker_processes_do_not_change_the_order():
    source = {"name": "synthetic", "shape": (4, 4, 1), "size": 50}
    given = {"source": source, "batch": 6, "flip": True}

    def build(g):
        return construct(StreamSettings, expand(StreamSettings, g, "s"), "s")

    same(
        take(open_stream(build(given | {"workers": 2}), seed=3), 20),
        take(open_stream(build(given), seed=3), 20),
    )


def test_flips_are_fair_reproducible_and_vary_over_epochs():
    n = 400
    batch = take(open_stream(settings(n=n, batch=n, flip=True), seed=0), 2)
    built = np.stack([Numbered(n)[i]["image"] for i in batch["label"]])
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(batch["image"], built)])
    plain = np.array([np.array_equal(a, b) for a, b in zip(batch["image"], built)])
    assert np.all(mirrored ^ plain)
    assert 0.44 < mirrored.mean() < 0.56  # sigma is 0.018
    order = [np.argsort(batch["label"][e * n : (e + 1) * n]) for e in (0, 1)]
    agree = np.mean(mirrored[:n][order[0]] == mirrored[n:][order[1]])
    assert 0.4 < agree < 0.6
    again = take(open_stream(settings(n=n, batch=n, flip=True), seed=0), 2)
    same(again, batch)
    none = take(open_stream(settings(n=n, batch=n), seed=0), 2)
    assert np.array_equal(none["label"], batch["label"])


class Latents(Numbered):
    def __getitem__(self, i):
        return {
            "moments": np.float32([i, 1]),
            "moments_flip": np.float32([i, -1]),
            "label": np.int32(i),
        }


def test_flip_takes_the_mirrored_variant_of_a_field():
    stream = open_stream(settings(batch=200, flip=True), seed=0, source=Latents())
    batch = take(stream, 1)
    assert batch.keys() == {"moments", "label"}
    assert np.array_equal(batch["moments"][:, 0], batch["label"])
    assert set(batch["moments"][:, 1]) == {-1, 1}
    plain = take(open_stream(settings(batch=200), seed=0, source=Latents()), 1)
    assert np.all(plain["moments"][:, 1] == 1)


def test_corrupt_elements_are_replaced_counted_and_named():
    bad = (0, 7)
    stream = open_stream(settings(bad=bad, batch=20), seed=0)
    clean = open_stream(settings(batch=20), seed=0)
    batches, wanted = [next(stream) for _ in range(3)], [next(clean) for _ in range(3)]
    for got, want in zip(batches, wanted):
        touched = np.isin(want["label"], bad)
        assert np.array_equal(got["label"][~touched], want["label"][~touched])
        assert not np.isin(got["label"], bad).any()
    assert stream.report() == {"replaced": 6, "names": {"picture 0": 3, "picture 7": 3}}
    assert clean.report() == {"replaced": 0, "names": {}}
    again = open_stream(settings(bad=bad, batch=10), seed=0, start=20)
    assert np.array_equal(
        np.concatenate([next(again)["label"], next(again)["label"]]), batches[1]["label"]
    )
    for s in (stream, clean, again):
        s.close()


def test_replacement_walks_over_all_elements():
    stream = open_stream(settings(n=30, bad=set(range(30)) - {17}), seed=0)
    assert set(next(stream)["label"]) == {17}
    stream.close()
    with pytest.raises(UserError, match=r"30 elements tried and all are corrupt.*cut off"):
        open_stream(settings(n=30, bad=range(30)), seed=0)


def test_fields_and_captions():
    stream = open_stream(settings(fields=("caption", "label")), seed=0)
    batch = take(stream, 1)
    assert batch.keys() == {"caption", "label"}
    assert batch["caption"].tolist() == [f"number {i}" for i in batch["label"]]
    assert stream.spec == {"caption": ((), "str"), "label": ((), "int32")}


class Odd(Numbered):
    def __getitem__(self, i):
        out = super().__getitem__(i)
        if i == 9:
            out["image"] = np.zeros((3, 4, 1), np.uint8)
        return out


class WrongLabel(Numbered):
    num_classes = 9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: open_stream(settings(n=0)), "data.main.source: holds no elements"),
        (lambda: open_stream(settings(), process_count=3), "data.main.batch: 4 does not divide"),
        (lambda: open_stream(settings(fields=("x",))), "data.main.fields: 'x' is not in picture 0"),
        (lambda: take(open_stream(settings(), source=Odd()), 5), "set image_size"),
        (lambda: open_stream(settings(crop="none", image_size=8)), "not of image_size"),
        (lambda: take(open_stream(settings(), source=WrongLabel()), 9), "out of range 0..8"),
    ],
)
def test_user_mistakes_are_one_line(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"batch": 0},
        {"crop": "left"},
        {"channels": 2},
        {"image_size": 0},
        {"pad": -1},
        {"prefetch": 0},
        {"workers": -1},
    ],
)
def test_settings_out_of_range_name_the_key(fields):
    with pytest.raises(UserError, match=r"data\.main"):
        construct(StreamSettings, expand(StreamSettings, fields, "data.main"), "data.main")


def test_transforms_are_applied():
    given = settings(image_size=(6, 8), pad=2, channels=3)
    stream = open_stream(given, seed=0)
    assert stream.spec["image"] == ((6, 8, 3), "uint8")
    image = take(stream, 1)["image"]
    assert not image[:, :2].any() and image[:, 2:4, 2:6].any()


@pytest.mark.parametrize("processes", [1, 2])
def test_once_gives_every_element_once_with_a_mask(processes):
    given = settings(n=10, batch=4, flip=True)
    parts = [
        list(open_once(given, process_index=p, process_count=processes)) for p in range(processes)
    ]
    batches = [
        {k: np.concatenate([b[k] for b in piece]) for k in piece[0]} for piece in zip(*parts)
    ]
    assert len(batches) == 3
    mask = np.concatenate([b["mask"] for b in batches])
    label = np.concatenate([b["label"] for b in batches])
    assert label[mask].tolist() == list(range(10)) and mask.sum() == 10 and len(mask) == 12
    assert np.array_equal(batches[0]["image"][1], Numbered()[1]["image"])


def test_nothing_to_flip_is_said():
    with pytest.raises(UserError, match=r"data\.main\.flip: there is nothing to mirror"):
        open_stream(settings(fields=("label",), flip=True))
