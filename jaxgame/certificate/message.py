"""Verdicts as sentences that end with what to try next."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgame.solvers.loop import CONVERGED, MAX_STEPS, NONFINITE

CHEAP = 200  # n·(D − 1) up to which a message may ask whether the equilibrium is unique


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
    parts.append(_uniqueness(equilibrium.game))
    return " ".join(part for part in parts if part)


def _uniqueness(game: Any) -> str:
    """A sentence where uniqueness is not proved; nothing where it is, or where to find out takes long."""
    from jaxgame.certificate.certify import prove_unique
    from jaxgame.games import is_quadratic

    if game.n_groups == 1:
        return ""
    if not is_quadratic(game):
        return "Not proved to be the only equilibrium: its utilities are not quadratic; see certify(game, profile, monotonicity=…) and probe(game)."
    if game.n_agents * (game.n_groups - 1) > CHEAP or prove_unique(game)[1]:
        return ""
    return "Not proved to be the only equilibrium; certify(game, profile) has the numbers, probe(game) looks for others."


def summarise(certificate: Any) -> str:
    """The message of a certificate."""
    return " ".join([_stability(certificate), _only_one(certificate), _how_far(certificate)]).strip()


def _stability(certificate: Any) -> str:
    gain, gap = float(certificate.exploitability.max()), float(certificate.gap.max())
    exact, concave = np.asarray(certificate.exact), np.asarray(certificate.concave_agents)
    text = f"No agent gains more than {gain:.3g} by a unilateral change." if exact.all() else f"An agent can gain {gain:.3g} or more."
    if not concave.all():
        text += f" The utility of agent {int(np.argmin(concave))} is not concave{' at this profile' if certificate.local else ''}"
        text += f" ({int((~concave).sum())} agents), so that its gap bounds nothing"
        text += "." if exact.all() else ", and the exploitability that was found is a lower bound."
    elif not exact.all():
        text += f" That is a lower bound: the search for a best response of agent {int(np.argmin(exact))} did not end; the gap bounds it by {gap:.3g}."
    return text


def _only_one(certificate: Any) -> str:
    c = float(certificate.monotonicity)
    if certificate.unique:
        if c == np.inf:
            return "The equilibrium is unique: with one group there is one mixture."
        weights = np.asarray(certificate.weights)
        if weights.max() == weights.min():
            proof = f"the game map is strongly monotone, constant {c:.3g}"
        else:
            proof = (
                f"with Rosen's weights between {weights.min():.3g} and {weights.max():.3g} the game map is strongly monotone "
                f"(as it is, its smallest eigenvalue is {c:.3g})"
            )
        return f"The equilibrium is unique{_by(certificate)}: {proof}."
    if certificate.local:
        return (
            f"Uniqueness is not proved: the utilities are not quadratic, and the constants (smallest eigenvalue {c:.3g}) hold at this "
            "profile only; constants for the whole simplex can be given as monotonicity and lipschitz."
        )
    return (
        f"Uniqueness is not proved{_by(certificate)}: the smallest eigenvalue of the game map's Jacobian is {c:.3g}, and no weights that "
        "were tried make it positive; probe(game) looks for other equilibria."
    )


def _by(certificate: Any) -> str:
    return " numerically (Lanczos, wrong with probability 1e-12)" if certificate.numerical else ""


def _how_far(certificate: Any) -> str:
    distance = float(certificate.distance)
    return f"The profile is within {distance:.3g} of it." if np.isfinite(distance) and certificate.unique else ""


def count(probe: Any) -> str:
    """The message of a probe."""
    found, equilibria = len(probe.counts), int(np.asarray(probe.equilibria).sum())
    text = f"{equilibria} distinct {'equilibrium' if equilibria == 1 else 'equilibria'} from {probe.runs} runs"
    verdicts = np.asarray(probe.stability)[np.asarray(probe.equilibria)]
    words = {1: "stable", -1: "unstable", 0: "undetermined"}
    text += f" ({', '.join(f'{(verdicts == v).sum()} {word}' for v, word in words.items() if (verdicts == v).any())})." if equilibria else "."
    if found > equilibria:
        text += f" {found - equilibria} more stationary profiles are no equilibria: an agent has a better response."
    if probe.failed:
        text += f" {probe.failed} runs did not converge; try another solver."
    if equilibria > 1 and equilibria == probe.runs - probe.failed:
        text += " No two runs agree: the equilibria may form a continuum."
    return text + " Others may exist; only certify(game, profile).unique proves that there is one."
