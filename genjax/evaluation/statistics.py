"""Mean and covariance of features, streamed: float32 on the device, float64 on the host.

Per batch the device computes s = sum (x - c) and Q = sum (x - c)(x - c)^T with a fixed shift c, at
full matrix precision; the host adds the batches in float64. Then mu = c + s/n and
Sigma = (Q - s s^T / n) / (n - 1). Without the shift, float32 loses (mu/sigma)^2 digits to
cancellation. A batch that is sharded over devices is summed over them by the same product.

With no more features than dimensions the covariance is singular, and rounding of Q would fill its
null space; then the features themselves (fewer numbers than Sigma) are kept and used in float64.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.errors import UserError
from genjax.evaluation.files import read_npz, write_npz
from genjax.parallel import to_host

ROWS = 1024  # rows added in float32 before the host takes over: the bound m 2^-24 of the sum


@dataclasses.dataclass(frozen=True)
class Statistics:
    """`mu` [d] and `sigma` [d, d] (divided by n - 1) in float64, of `n` features.

    `protocol` says how they were made (extractor, its hash, data); {} where a file does not say.
    `n` is None where a file does not say. `features` [n, d] are kept where n <= d.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None
    protocol: dict = dataclasses.field(default_factory=dict)
    features: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return self.mu.shape[0]


@jax.jit
def _moments(x: Array, mask: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Returns (count, sum, outer products) of the rows of x - shift whose mask is set."""
    x = jnp.where(mask[:, None], x.astype(jnp.float32) - shift, 0.0)
    outer = jnp.einsum("bi,bj->ij", x, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(mask), jnp.sum(x, axis=0), outer


class Accumulator:
    """Adds batches of features up to a `Statistics`.

    `shift` [d] is the fixed c (None: the mean of the first batch). Any c gives the same result up
    to rounding; one near the mean gives the most digits. `sums`: those of an earlier accumulator,
    which this one continues bit for bit.
    """

    def __init__(self, shift: np.ndarray | None = None, sums: dict[str, np.ndarray] | None = None):
        sums = sums or {}
        self._shift = sums.get("shift", None if shift is None else np.asarray(shift, np.float32))
        self._n = int(sums.get("n", 0))
        self._sum: np.ndarray | float = sums.get("sum", 0.0)
        self._outer: np.ndarray | float = sums.get("outer", 0.0)
        # The features themselves, as long as there are no more than d.
        self._rows: list[np.ndarray] = [sums["rows"]] if "rows" in sums else []

    def sums(self) -> dict[str, np.ndarray]:
        """Returns all that has been added up, for another accumulator to go on from."""
        if self._shift is None:
            return {}
        found = {"n": self._n, "shift": self._shift, "sum": self._sum, "outer": self._outer}
        kept = {"rows": np.concatenate(self._rows)} if self._rows else {}
        return {k: np.asarray(v) for k, v in (found | kept).items()}

    def add(self, features: Array | np.ndarray, mask: Array | np.ndarray | None = None) -> None:
        """Adds features [b, d] where `mask` [b] is set (None: all). Padding is masked, not cut.

        Features that are sharded over devices, of several processes too, are summed where they
        are. Raises `UserError` where one is not finite.
        """
        if mask is None:
            mask = np.ones(features.shape[0], bool)
        if self._shift is None:
            first = np.asarray(to_host(features), np.float64)[np.asarray(mask)]
            self._shift = np.float32(first.mean(axis=0)) if len(first) else None
            if self._shift is None:
                return
        parts = features.sharding.num_devices if isinstance(features, jax.Array) else 1
        for start in range(0, features.shape[0], ROWS * parts):
            rows = slice(start, start + ROWS * parts)
            n, total, outer = to_host(_moments(features[rows], mask[rows], self._shift))
            if not (np.isfinite(total).all() and np.isfinite(outer).all()):
                raise UserError(
                    f"the features of samples {self._n} to {self._n + int(n) - 1} are not finite; "
                    "check the extractor's weights and the images"
                )
            self._n += int(n)
            if self._n > features.shape[1]:
                self._rows.clear()
            else:
                self._rows.append(to_host(features[rows])[np.asarray(mask[rows])])
            self._sum = self._sum + np.float64(total)
            self._outer = self._outer + np.float64(outer)

    def result(self, protocol: dict | None = None) -> Statistics:
        """Returns the statistics of all that was added; `UserError` with fewer than two rows."""
        n = self._n
        if n < 2 or self._shift is None:
            raise UserError(f"a covariance needs at least two images, not {n}; give more images")
        if self._rows:
            x = np.concatenate(self._rows)
            mu = np.asarray(np.mean(x, axis=0, dtype=np.float64))
            sigma = np.atleast_2d(np.cov(x.astype(np.float64).T))
            return Statistics(mu, sigma, n, dict(protocol or {}), x)
        s = np.asarray(self._sum)
        mu = np.float64(self._shift) + s / n
        sigma = (self._outer - np.outer(s, s) / n) / (n - 1)
        return Statistics(mu, (sigma + sigma.T) / 2, n, dict(protocol or {}))


def of_features(features: np.ndarray, protocol: dict | None = None) -> Statistics:
    """Returns the statistics of features [n, d] held in memory."""
    accumulator = Accumulator()
    accumulator.add(features)
    return accumulator.result(protocol)


def save(
    path: str | Path,
    statistics: Statistics,
    spatial: Statistics | None = None,
    images: np.ndarray | None = None,
) -> None:
    """Writes `.npz` with `mu` and `sigma` (the layout of the field's FID tools), `n`, `protocol`.

    `protocol` is a JSON string. `spatial` adds `mu_s` and `sigma_s`, `images` (uint8 [k, h, w, c],
    for precision and recall) `arr_0`: the layout of ADM's reference files. The file appears whole
    or not at all.
    """
    arrays: dict[str, np.ndarray] = {}
    if statistics.features is not None:
        arrays["features"] = statistics.features
    if spatial is not None:
        arrays |= {"mu_s": spatial.mu, "sigma_s": spatial.sigma}
    if images is not None:
        arrays["arr_0"] = images
    write_npz(
        path,
        mu=statistics.mu,
        sigma=statistics.sigma,
        n=np.int64(-1 if statistics.n is None else statistics.n),
        protocol=np.str_(json.dumps(statistics.protocol, sort_keys=True)),
        **arrays,
    )


def load(path: str | Path, suffix: str = "") -> Statistics:
    """Returns the statistics of a `.npz`, genjax's own or any with `mu` and `sigma`.

    `suffix` "_s" takes `mu_s` and `sigma_s`, the spatial ones of ADM's reference files. Raises
    `UserError` for a missing key, wrong shapes or values that are not finite.
    """
    data = read_npz(path)
    names = [k + suffix for k in ("mu", "sigma")]
    if not set(names) <= data.keys():
        raise UserError(
            f"{path}: statistics have the keys {' and '.join(names)}, this file has {sorted(data)}"
        )
    mu, sigma = (np.asarray(data[k], np.float64) for k in names)
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
        raise UserError(
            f"{path}: mu {list(mu.shape)} and sigma {list(sigma.shape)} do not fit together; "
            "expected [d] and [d, d]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: mu or sigma holds values that are not finite; make it again")
    n = int(data["n"]) if "n" in data else -1
    protocol = json.loads(str(data["protocol"])) if "protocol" in data else {}
    kept = None if suffix else data.get("features")
    return Statistics(mu, sigma, None if n < 0 else n, protocol, kept)


def cache_file(folder: str | Path, *parts: str) -> Path:
    """Returns where what depends on exactly `parts` (data, protocol, extractor hash) is kept."""
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    return Path(folder) / f"{name}.npz"
