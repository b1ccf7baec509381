"""DPM-Solver and DPM-Solver++, multistep, and their SDE forms (Lu et al., 2206.00927, 2211.01095).

Both integrate the polynomial through the last `order` values exactly but for two choices of their
authors: the second order takes half of phi_1 for the slope ("midpoint"; "heun" is exact), and the
released third order leaves out a factor 2 at the second difference, so that it is of order 2.
"""

import dataclasses
from typing import Any

import numpy as np

from genjax.core.registry import option
from genjax.solvers.exponential import exact, integrate
from genjax.solvers.multistep import Multistep, falling

_FEW = 15  # steps below which the published code lowers the last orders


@dataclasses.dataclass(frozen=True)
class DPMMultistep(Multistep):
    """What the multistep solvers of the family share. NFE n."""

    flavour: str = option("midpoint", 'slope of the second order: "midpoint" or "heun" (exact)')
    lower_order_final: bool = option(
        True, "order 3, 2, 1 over the last steps of grids of fewer than 15, as published"
    )
    euler_at_final: bool = option(False, "take the last step with order 1, whatever the grid")

    def __post_init__(self):
        if self.flavour not in ("midpoint", "heun"):
            raise ValueError(f'flavour must be "midpoint" or "heun", got {self.flavour!r}')

    @property
    def released(self) -> bool:
        """Whether the third order is the published code's."""
        return False

    @property
    def strength(self) -> float:
        """eta, the strength of the SDE's noise."""
        return 0.0

    def moments(self, z, count: int) -> list[Any]:
        """Returns what the method's integral makes of 1, r and r^2."""
        out = exact(z, count)
        if count == 2 and self.flavour == "midpoint":
            out[1] = out[0] / 2
        if count == 3 and self.released:
            out[2] = out[2] / 2
        return out

    def weights(self, times, t_next):
        return integrate(
            self.process,
            times,
            t_next,
            kind=self.kind,
            depth=self.depth,
            moments=self.moments,
            eta=self.strength,
        )

    def orders(self, grid: np.ndarray) -> np.ndarray:
        order = super().orders(grid)
        order[self.process.sigma(grid[1:]) == 0] = 1
        if self.lower_order_final and order.size < _FEW:
            order = falling(order)
        if self.euler_at_final:
            order[-1] = 1
        return order


def check_order(order: int, most: int) -> None:
    """Raises ValueError unless 1 <= order <= most."""
    if not 1 <= order <= most:
        raise ValueError(f"order must lie in 1 .. {most}, got {order}")


def check_compat(compat: str | None) -> None:
    """Raises ValueError unless `compat` names an implementation that is reproduced."""
    if compat not in (None, "released"):
        raise ValueError(f'compat must be "released" or left out, got {compat!r}')


@dataclasses.dataclass(frozen=True)
class DPMSolverMultistep(DPMMultistep):
    """DPM-Solver, multistep, in the noise estimate eps; order 1 is DDIM. NFE n."""

    order: int = option(2, "1, 2 or 3")
    compat: str | None = option(
        None, '"released": the published third order, which has order 2 (None: order 3)'
    )

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, 3)
        check_compat(self.compat)

    @property
    def kind(self) -> str:
        return "eps"

    @property
    def depth(self) -> int:
        return self.order

    @property
    def released(self) -> bool:
        return self.compat == "released"


@dataclasses.dataclass(frozen=True)
class DPMpp2M(DPMMultistep):
    """DPM-Solver++ 2M, multistep of order 2 in the data estimate D; eta > 0: its SDE form. NFE n.

    With eta the exact first-order step is (sigma'/sigma) e^{-eta h} x
    + alpha' (1 - e^{-(1+eta) h}) D + sigma' sqrt(1 - e^{-2 eta h}) z.
    """

    eta: float = option(0.0, "strength of the SDE's noise (0: the ODE; 1: 2M SDE as published)")

    def __post_init__(self):
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"eta must be >= 0, got {self.eta}")

    @property
    def depth(self) -> int:
        return 2

    @property
    def strength(self) -> float:
        return self.eta


@dataclasses.dataclass(frozen=True)
class DPMpp1(DPMpp2M):
    """DPM-Solver++ 1: DDIM for eta = 0, DDPM with the small variance for eta = 1. NFE n."""

    @property
    def depth(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class DPMpp3M(DPMpp2M):
    """DPM-Solver++ 3M; eta > 0: its SDE form. NFE n.

    By default it is of order 3, the same as UniP-3. `compat="released"` is what every public
    implementation does, and what published numbers were made with: order 2.
    """

    compat: str | None = option(
        None, '"released": the published 3M, which has order 2 (None: order 3)'
    )

    def __post_init__(self):
        super().__post_init__()
        check_compat(self.compat)

    @property
    def depth(self) -> int:
        return 3

    @property
    def released(self) -> bool:
        return self.compat == "released"


@dataclasses.dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M):
    """SDE-DPM-Solver++ 2M: `DPMpp2M` with eta = 1 unless told otherwise. NFE n."""

    eta: float = option(1.0, "strength of the SDE's noise (0: the ODE)")


@dataclasses.dataclass(frozen=True)
class DPMpp3MSDE(DPMpp3M):
    """SDE-DPM-Solver++ 3M: `DPMpp3M` with eta = 1 unless told otherwise. NFE n."""

    eta: float = option(1.0, "strength of the SDE's noise (0: the ODE)")
