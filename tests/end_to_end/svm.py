"""A judge of digit samples that shares nothing with genjax's own evaluation: an SVM and numpy.

    python tests/end_to_end/svm.py SAMPLES.npz

prints the SVM's accuracy on real held-out digits, the share of samples to which it gives the label
that was asked for, the samples' spread per pixel and their distance to the training digits.
"""

import sys

import numpy as np


def real(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images [n, 64] in 0..1, labels [n]) of the digits' `split`."""
    from genjax.data import open_source

    source = open_source(f"digits:{split}")
    records = [source[i] for i in range(len(source))]
    pixels = np.stack([r["image"].reshape(64) for r in records]) / 16.0
    return pixels, np.array([int(r["label"]) for r in records])


def fit():
    """Returns (SVM trained on the training digits, its accuracy on the test digits)."""
    from sklearn.svm import SVC

    svm = SVC(C=10.0, gamma=0.1)  # the best of a grid by cross-validation on the train split
    svm.fit(*real("train"))
    return svm, float(svm.score(*real("test")))


def spread(x: np.ndarray) -> float:
    """Returns the mean over pixels of the standard deviation over images."""
    return float(x.std(axis=0).mean())


def nearest(a: np.ndarray, b: np.ndarray, same: bool) -> np.ndarray:
    """Returns the distance of every row of `a` to the nearest of `b`, itself left out if `same`."""
    out = np.empty(len(a))
    for i, row in enumerate(a):
        distance = np.linalg.norm(b - row, axis=1)
        if same:
            distance[i] = np.inf
        out[i] = distance.min()
    return out


def judge(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns what is known of uint8 samples [n, 8, 8, 1] in 0..255 with their labels [n].

    `svm`: held-out accuracy on real digits; `agreement`: share of the samples with the label asked
    for; `spread`: ratio to the real spread; `nearest`: median distance to the nearest training
    digit, over that between training digits.
    """
    svm, accuracy = fit()
    x = images.reshape(len(images), 64) / 255.0
    train, _ = real("train")
    return {
        "svm": accuracy,
        "agreement": float(np.mean(svm.predict(x) == labels)),
        "spread": spread(x) / spread(train),
        "spread_samples": spread(x),
        "spread_real": spread(train),
        "nearest": float(
            np.median(nearest(x, train, False)) / np.median(nearest(train, train, True))
        ),
    }


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as data:
        for key, value in judge(data["arr_0"], data["labels"]).items():
            print(f"{key:15s} {value:.4f}")
