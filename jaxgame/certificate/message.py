"""Verdicts as sentences that end with what to try next."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgame.solvers.loop import CONVERGED, MAX_STEPS, NONFINITE


def describe(equilibrium: Any) -> str:
    """The message of one (unbatched) equilibrium."""
    from jaxgame.certificate.gap import concave_agents

    status, steps = int(equilibrium.status), int(equilibrium.steps)
    residual, tol = float(equilibrium.residual), float(equilibrium.tol)
    if status == NONFINITE:
        return (
            f"Failed after {steps} steps: the marginal utilities are not finite. Check the game's numbers, and that its utilities "
            "are defined on the whole simplex; a utility that is infinite at the boundary needs the solver Newton or MirrorProx."
        )
    if status != CONVERGED:
        reason = "ran out of steps" if status == MAX_STEPS else "stopped making progress"
        return (
            f"Not converged: {reason} after {steps} steps at natural residual {residual:.3g} (tol {tol:.3g}). Raise max_steps, loosen "
            "tol, or try another solver (none named: the default); a game that is not monotone may need another init."
        )
    parts = [f"Converged in {steps} steps: natural residual {residual:.3g}."]
    if residual > tol:
        parts.append(f"tol {tol:.3g} is below what {jnp.dtype(equilibrium.profile.dtype).name} can resolve here; judged against rounding.")
    if np.isfinite(gap := float(equilibrium.gap)):
        parts.append(f"No agent can gain more than {gap:.3g} by a unilateral change.")
    else:
        flat = np.asarray(concave_agents(equilibrium.game, equilibrium.profile))
        parts.append(
            f"The utility of agent {int(np.argmin(flat))} is not concave: this is a stationary point, not certified as an equilibrium; "
            "see certify(game, profile).exploitability."
        )
    return " ".join(parts)
