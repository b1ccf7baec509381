"""The Frechet distance of Gaussians, in float64 on the host.

    d^2 = |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

With factors S_i = A_i A_i^T the last trace is the nuclear norm |A_1^T A_2|_*: symmetric, real and
without an epsilon. Eigenvectors whose eigenvalue is rounding noise are left out, so null
directions of singular covariances contribute exactly nothing (the square root of noise of 1e-16
would be 1e-8 each).
"""

import numpy as np

from genjax.evaluation.statistics import Statistics, of_features


def frechet(a: Statistics, b: Statistics) -> float:
    """Returns the squared Frechet distance d^2 ("FID") of the Gaussians with these moments."""
    cross = trace_sqrt(factor(a), factor(b))
    delta = a.mu - b.mu
    trace = float(np.trace(a.sigma)) + float(np.trace(b.sigma))
    # Rounding may leave equal moments a hair below zero; a squared distance is not.
    return max(float(delta @ delta) + trace - 2.0 * cross, 0.0)


def factor(statistics: Statistics) -> np.ndarray:
    """Returns A [d, r] with A A^T = sigma.

    From the kept features where n <= d, else the eigendecomposition, r being the numerical rank.
    """
    if statistics.features is not None:
        centred = statistics.features.astype(np.float64) - statistics.mu
        return centred.T / np.sqrt(len(centred) - 1)
    w, v = np.linalg.eigh(statistics.sigma)
    keep = w > max(w[-1], 0.0) * len(w) * np.finfo(np.float64).eps
    return v[:, keep] * np.sqrt(w[keep])


def trace_sqrt(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Tr (S_1 S_2)^(1/2) = |a^T b|_* of covariances given by their factors [d, r]."""
    product = a.T @ b
    if not product.size:
        return 0.0
    return float(np.linalg.svd(product, compute_uv=False).sum())


def expected_bias(sigma: np.ndarray, n: int, m: int | None = None) -> float:
    """Returns by how much n samples (and m reference samples) lift d^2 between equal Gaussians.

    To first order in 1/n, with eigenvalues l_i of the covariance,
    E d^2 = (1/n + 1/m) (sum_i l_i + 1/2 sum_ij l_i l_j / (l_i + l_j) (1 + [i = j]));
    for the identity (d + d (d + 1) / 4) / n.
    """
    l = np.maximum(np.linalg.eigvalsh(sigma), 0.0)
    total = l[:, None] + l[None, :]
    pairs = np.divide(np.outer(l, l), total, out=np.zeros_like(total), where=total > 0)
    law = l.sum() + 0.5 * (pairs.sum() + np.trace(pairs))
    return float(law * (1.0 / n + (1.0 / m if m else 0.0)))


def frechet_infinity(
    features: np.ndarray, reference: Statistics, *, points: int = 15, seed: int = 0
) -> tuple[float, float]:
    """Returns (d^2 extrapolated to infinitely many samples, R^2 of the fit).

    Least squares of d^2 against 1/N at `points` sample sizes, evenly from min(5000, max(N/10, 2))
    to N, each a subset drawn without replacement (Chong and Forsyth 2020).
    """
    rng = np.random.default_rng(seed)
    n = len(features)
    sizes = np.linspace(min(5000, max(n // 10, 2)), n, points).astype(int)
    values = []
    for size in sizes:
        subset = features[np.sort(rng.choice(n, size, replace=False))]
        values.append(frechet(of_features(subset), reference))
    inverse, y = 1.0 / sizes, np.asarray(values)
    slope, intercept = np.polyfit(inverse, y, 1)
    residual = np.sum((y - intercept - slope * inverse) ** 2)
    spread = np.sum((y - y.mean()) ** 2)
    return float(intercept), float(1.0 - residual / spread) if spread > 0 else 1.0
