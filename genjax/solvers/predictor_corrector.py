"""Predictor-corrector sampling (Song et al., arXiv 2011.13456, appendix G), one rule for all SDEs.

Each step of the grid corrects at its time t and then predicts the next time, in the order of the
published code (the paper's Algorithm 1 prints the predictor first): the first corrector sees the
prior, and none follows the last predictor.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, Tree, bcast
from genjax.core.registry import choice, option
from genjax.core.types import pytree
from genjax.solvers.base import Predict, Row, Solver, standard_normal
from genjax.solvers.correctors import CORRECTORS, NoCorrector
from genjax.solvers.predictors import DISCRETISATIONS, PREDICTORS, NoPredictor


@pytree
class PCState:
    """The sample `x`, its `mean` before the last update's noise, guidance's `memory`."""

    x: Array
    mean: Array
    memory: Tree = ()


@dataclasses.dataclass(frozen=True)
class PC(Solver):
    """`corrector_steps` corrector updates at t, then the predictor from t to t_next.

    NFE n (corrector_steps + 1); a predictor or corrector "none" evaluates nothing. What is
    returned is the mean of the last update (with `denoise`): for the predictor "none" that is the
    corrector's. Which rows gave Score SDE's numbers: VE reverse_diffusion with langevin (r =
    0.16); continuous VP and sub-VP euler_maruyama, discrete VP ancestral, both without corrector;
    all on the grid `score_sde` with N = 1000.

    `discretisation="legacy"` reproduces the published code (`predictors.legacy`): steps of 1/N on a
    grid spaced otherwise, the reason why it degrades at small N. "consistent" takes the exact
    steps of any grid and works for every process; on all entries of a `table`, the published
    discrete VP sampler, the two agree.
    """

    imposes = True

    predictor: Any = choice(PREDICTORS, {"name": "reverse_diffusion"}, "what goes to the next time")
    corrector: Any = choice(CORRECTORS, {"name": "langevin"}, "what repairs the law at one time")
    corrector_steps: int = option(1, "corrector updates before each prediction")
    denoise: bool = option(True, "return the last mean instead of the last sample")
    discretisation: str = option(
        "consistent", '"consistent": exact steps of the grid; "legacy": the published code\'s'
    )

    def __post_init__(self):
        if self.corrector_steps < 1:
            raise ValueError(
                f'corrector_steps must be at least 1 (corrector "none" turns it off), got'
                f" {self.corrector_steps}"
            )
        if self.discretisation not in DISCRETISATIONS:
            raise ValueError(
                f"discretisation must be one of {list(DISCRETISATIONS)}, got"
                f" {self.discretisation!r}"
            )
        if not self._corrections + self._predictions:
            raise ValueError('predictor and corrector cannot both be "none"')

    @property
    def _corrections(self) -> int:
        return 0 if isinstance(self.corrector, NoCorrector) else self.corrector_steps

    @property
    def _predictions(self) -> int:
        return 0 if isinstance(self.predictor, NoPredictor) else 1

    def coefficients(self, t, t_next):
        """mean = a x + c D, x' = mean + s z for the predictor; the corrector's numbers at t."""
        alpha, std = self.process.alpha(t), self.process.sigma(t)
        step = DISCRETISATIONS[self.discretisation](self.process, t, t_next)
        m, u, s = self.predictor.update(self.process, step)
        gain = u / std**2  # score = (alpha D - x)/sigma^2
        return {
            "a": m - gain,
            "c": gain * alpha,
            "s": s,
            "alpha": alpha,
            "std": std,
            "size": self.corrector.coefficient(step.kept),
        }

    def init(self, x: Array, memory: Tree) -> PCState:
        return PCState(x, x, memory)

    def step(self, predict: Predict, state: PCState, row: Row, keys: Array) -> PCState:
        """Returns the state after the row's updates; `impose`, if bound, follows each."""
        updates = self._corrections + self._predictions

        def update(state, j):
            own = keys_lib.fold_each(keys, j)
            return self._update(predict, state, row, own, j < self._corrections), None

        # One loop over both kinds: the network stands once in the compiled program.
        if updates == 1:
            return update(state, 0)[0]
        return jax.lax.scan(update, state, jnp.arange(updates, dtype=jnp.uint32))[0]

    def _update(self, predict: Predict, state: PCState, row: Row, keys: Array, correct) -> PCState:
        """Returns the state after a corrector update (where `correct`) or the predictor's."""
        x = state.x
        out, memory = predict(x, row, state.memory)
        z = standard_normal(keys, x)
        score = (bcast(row["alpha"], x) * out.x0 - x) / bcast(row["std"] ** 2, x)
        e = self.corrector.step_size(row, z, score)
        gain = e / row["std"] ** 2
        a = jnp.where(correct, 1 - gain, row["a"])
        c = jnp.where(correct, gain * row["alpha"], row["c"])
        s = jnp.where(correct, jnp.sqrt(2 * e), row["s"])
        mean = bcast(a, x) * x + bcast(c, x) * out.x0
        x = mean + bcast(s, x) * z
        if self.impose is not None:
            now = jnp.where(correct, row["t"], row["t_next"])
            own = jax.vmap(lambda k: keys_lib.fold(k, "impose"))(keys)
            x, mean = self.impose(x, mean, now, own)
        return PCState(x, mean, memory)

    def output(self, state: PCState) -> Array:
        return state.mean if self.denoise else state.x

    def nfe(self, n: int) -> int:
        return n * (self._corrections + self._predictions)
