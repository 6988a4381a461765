"""An equilibrium with its proof, as `solve` returns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame._pytree import pytree
from jaxgame.bounds import Bounds


@pytree()
class Equilibrium:
    """A profile with its proof; a pytree, so that `vmap` over `solve` gives a batch of them.

    profile (n, D); representation (D,); residual: natural residual, scale-free (theory §1); gap: certified bound on
    what any agent can gain by a unilateral change, in units of utility, ∞ if an agent's utility is not concave;
    converged; status: 0 converged, 1 out of steps, 2 not finite, 3 stalled; steps; history: the residual after each
    step, where asked for; bounds, prices (p,): where shared bounds were asked for, these and their prices, ≥ 0 at a
    floor and ≤ 0 at a cap. Residual, gap, multipliers and `signed` are then those of the game with the prices paid.

    On demand: `signed` (n, D), `multipliers` (n,), `message`, `stats`.
    """

    game: Any
    profile: Array
    representation: Array
    residual: Array
    gap: Array
    converged: Array
    status: Array
    steps: Array
    evaluations: Array
    tol: Array
    history: Array | None = None
    bounds: Any = None
    prices: Any = None
    replace: ClassVar[Callable[..., Any]]

    @property
    def multipliers(self) -> Array:
        """μ_i: the marginal utility of what agent i represents, (n,)."""
        return self._unbatched(lambda *at: paid_marginals(*at).max(-1))

    @property
    def signed(self) -> Array:
        """Signed representation w − ν, ν_id = μ_i − g_id where w_id = 0 (theory §4), (n, D)."""
        return self._unbatched(signed)

    @property
    def stats(self) -> dict[str, Any]:
        """steps, evaluations (of the marginals), margin: min over (i, d) of max(w, ν); 0 at a kink of the equilibrium
        map.
        """
        margin = self._unbatched(lambda *at: jnp.abs(signed(*at)).min())
        return dict(steps=self.steps, evaluations=self.evaluations, margin=margin)

    @property
    def message(self) -> Any:
        """What happened, in a sentence or two, with what to try next; an array of messages for a batch."""
        from jaxgame.certificate.message import describe

        batch = np.shape(self.status)
        if not batch:
            return describe(self)
        out = np.empty(batch, object)
        for index in np.ndindex(batch):
            out[index] = describe(jax.tree.map(lambda leaf, at=index: leaf[at], self))
        return out

    def _repr_html_(self) -> str | None:
        from jaxgame.report.notebook import equilibrium_html

        return equilibrium_html(self)

    def _unbatched(self, function: Any) -> Array:
        """Of the game, the profile, and what is paid."""
        for _ in range(self.profile.ndim - 2):
            function = jax.vmap(function)
        return function(self.game, self.profile, self.bounds, self.prices)


def paid_marginals(game: Any, profile: Array, bounds: Bounds | None = None, prices: Array | None = None) -> Array:
    """The marginal utilities with the prices of bounds paid, (n, D)."""
    marginals = game.marginals(profile)
    return marginals if bounds is None or prices is None else marginals + bounds.priced(prices)


def signed(game: Any, profile: Array, bounds: Bounds | None = None, prices: Array | None = None) -> Array:
    """w where represented, −ν where not: how far a group is from entry, in units of utility per unit of mixture."""
    marginals = paid_marginals(game, profile, bounds, prices)
    slack = marginals.max(-1, keepdims=True) - marginals
    # A solver that never reaches zero leaves a trace of an excluded group: that is no representation.
    trace = (profile < jnp.sqrt(jnp.finfo(profile.dtype).eps)) & (slack > profile)
    return jnp.where((profile > 0) & ~trace, profile, -slack)
