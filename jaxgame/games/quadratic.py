"""Games with quadratic utilities (design §3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games import curvature as curvatures
from jaxgame.games.affine import AffineMap
from jaxgame.games.coupling import Dense, MeanField, Network
from jaxgame.games.members import Members, Rows


@pytree()
class QuadraticGame:
    """U_i = linear_i·w_i − ½ w_iᵀ C_i w_i − w_iᵀ(what i meets).

    linear: (n, D). curvature C: scalar | (n,) | (D, D) shared | (n, D, D), symmetric | `Diagonal(h)` | `Scaled(q,
    Q)`; a plain 2-D array is always the shared (D, D) matrix. coupling: `MeanField`, `Network` or `Dense`.

    Raises ValueError naming the argument for wrong shapes, asymmetric curvature, NaN or infinity. An indefinite
    curvature is not an error: the certificate reports that the utilities are not concave.
    """

    linear: Any
    curvature: Any
    coupling: Any
    replace: ClassVar[Callable[..., Any]]

    def __init__(self, linear, curvature, *, coupling):
        if not isinstance(coupling, (MeanField, Network, Dense)):
            raise ValueError(f"coupling must be MeanField, Network or Dense, got {type(coupling).__name__}")
        dtype = _checks.float_dtype(linear, curvature, coupling.arrays)
        linear = _checks.array("linear", linear, dtype, ("n", "D"))
        n, n_groups = linear.shape
        if n == 0 or n_groups == 0:
            raise ValueError(f"linear has shape {linear.shape}, expected at least one agent and one group")
        assign(
            self,
            linear=linear,
            curvature=curvatures.checked(curvature, n, n_groups, dtype),
            coupling=coupling.sized(n, n_groups, dtype),
        )

    @property
    def is_aggregative(self) -> bool:
        """Whether agents meet only through a mean."""
        return isinstance(self.coupling, MeanField)

    @property
    def n_agents(self) -> int:
        return self.linear.shape[-2]

    @property
    def n_groups(self) -> int:
        return self.linear.shape[-1]

    @property
    def reach(self) -> Array | None:
        """Weights of the representation, (n,); None: uniform."""
        return self.coupling.reach if isinstance(self.coupling, MeanField) else None

    @property
    def multiplicity(self) -> Array | None:
        """How many identical agents each row stands for, (n,); None: one."""
        return self.coupling.multiplicity if isinstance(self.coupling, MeanField) else None

    def utilities(self, profile: Array) -> Array:
        """U_i, (n,)."""
        own = curvatures.blocks(self.curvature, self.n_agents).apply(profile)
        return ((self.linear - own / 2 - self.coupling.meets(profile)) * profile).sum(-1)

    def marginals(self, profile: Array) -> Array:
        """g_i = ∂U_i/∂w_i, (n, D); with a Wardrop mean field the aggregate is held fixed."""
        own = curvatures.blocks(self.curvature, self.n_agents).apply(profile)
        return self.linear - own - self.coupling.slope(profile)

    def affine(self) -> AffineMap:
        """The game map F = −g."""
        if isinstance(self.coupling, MeanField):
            return self.members(lambda x: x).affine()
        own, others = self.coupling.affine(curvatures.blocks(self.curvature, self.n_agents))
        return AffineMap(self.linear, own, others)

    def members(self, rows: Rows, population: int | None = None, *, reach: Array | None = None) -> Members:
        """Some agents of a mean-field game, without a copy of the others: `rows` picks their rows of any (n, …).

        population: how many agents meet, where the game is itself a part of a larger one; reach (b,): theirs there, if
        the coupling does not know it.
        """
        curvature = curvatures.blocks(self.curvature, self.n_agents).rows(rows)
        return self.coupling.members(rows(self.linear), curvature, rows, reach)
