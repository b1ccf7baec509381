"""LMS of k-diffusion: variable-step Adams-Bashforth in lam = sigma/alpha."""

import dataclasses

from genjax.core.registry import option
from genjax.solvers.dpm_multistep import check_order
from genjax.solvers.exponential import first_order
from genjax.solvers.multistep import Multistep, interpolatory, stacked


@dataclasses.dataclass(frozen=True)
class LMS(Multistep):
    """x'/alpha' = x/alpha + int eps dlam, eps the polynomial in lam through the last values.

    The integrals of the Lagrange polynomials are exact; order 1 is DDIM. The last step to lam = 0
    keeps its order, as in k-diffusion. Starts at alpha = 0 too, with order 1. NFE n.
    """

    order: int = option(4, "values of eps used, 1 to 4")

    def __post_init__(self):
        check_order(self.order, 4)

    @property
    def kind(self) -> str:
        return "eps"

    @property
    def depth(self) -> int:
        return self.order

    def weights(self, times, t_next):
        process = self.process
        base = first_order(process, times[0], t_next, kind="eps", depth=self.depth)
        if len(times) == 1:
            return base
        lam = process.lam(times[0])
        h = process.lam(t_next) - lam
        nodes = [0.0, *((process.lam(t) - lam) / h for t in times[1:])]
        weights = interpolatory(nodes, [1 / (q + 1) for q in range(len(nodes))])
        scale = process.alpha(t_next) * h
        return {**base, "c": stacked([scale * w for w in weights], self.depth, h)}
