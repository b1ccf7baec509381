"""The Inception Score: exp of the mean KL divergence of p(y | x) from its mean over a split."""

import numpy as np

from genjax.core.errors import UserError


def inception_score(
    logits: np.ndarray, *, splits: int = 10, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """Returns (mean, standard deviation) over splits of exp(mean_x KL(p(y|x) || p(y))), float64.

    `logits`: [n, K], by convention without the last layer's bias. The shuffle is torch-fidelity's.
    Without it and with chunks of 5000 (n / 5000 splits) it is ADM's. Raises `UserError` for fewer
    images than splits.
    """
    n = len(logits)
    if splits < 1 or n < splits:
        raise UserError(f"is: {splits} splits need at least as many images, not {n}")
    x = np.asarray(logits, np.float64)
    if shuffle:
        x = x[np.random.RandomState(seed).permutation(n)]
    x = x - x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = np.exp(part)
        mean = p.mean(axis=0)
        log_mean = np.log(np.where(mean > 0, mean, 1.0))  # a class of no mass adds nothing
        scores.append(np.exp(np.mean(np.sum(p * (part - log_mean), axis=1))))
    return float(np.mean(scores)), float(np.std(scores))
