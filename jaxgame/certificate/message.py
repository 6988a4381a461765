"""Verdicts as sentences that end with what to try next."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgame.solvers.loop import CONVERGED, MAX_STEPS, NONFINITE

CHEAP = 200  # n·(D − 1) up to which a message may ask whether the equilibrium is unique

_ADVICE = (
    "Raise max_steps, loosen tol, or try another solver (none named: the default); a game that is not monotone may "
    "need another init."
)
_ADVICE_UNDER_BOUNDS = (
    "Raise max_steps or loosen tol; bounds that no representation satisfies, or that leave no choice, have no prices, "
    "and in a game that is not monotone none may be found."
)


def describe(equilibrium: Any) -> str:
    """The message of one (unbatched) equilibrium."""
    from jaxgame.certificate.gap import concave_agents

    status, steps = int(equilibrium.status), int(equilibrium.steps)
    residual, tol = float(equilibrium.residual), float(equilibrium.tol)
    if status == NONFINITE:
        return (
            f"Failed after {steps} steps: the marginal utilities are not finite. Check the game's numbers, and that "
            "its utilities are defined on the whole simplex; a utility that is infinite at the boundary needs the "
            "solver Newton or MirrorProx."
        )
    if status != CONVERGED:
        reason = "ran out of steps" if status == MAX_STEPS else "stopped making progress"
        return (
            f"Not converged: {reason} after {steps} steps at natural residual {residual:.3g} (tol {tol:.3g}). "
            f"{_ADVICE if equilibrium.bounds is None else _ADVICE_UNDER_BOUNDS}"
        )
    parts = [f"Converged in {steps} steps: natural residual {residual:.3g}."]
    if residual > tol:
        dtype = jnp.dtype(equilibrium.profile.dtype).name
        parts.append(f"tol {tol:.3g} is below what {dtype} can resolve here; judged against rounding.")
    paid = ""
    if equilibrium.prices is not None:
        paid = " with the prices paid"
        parts.append(f"The bounds hold at prices up to {float(jnp.abs(equilibrium.prices).max()):.3g}.")
    if np.isfinite(gap := float(equilibrium.gap)):
        parts.append(f"No agent can gain more than {gap:.3g} by a unilateral change{paid}.")
    else:
        flat = np.asarray(concave_agents(equilibrium.game, equilibrium.profile))
        parts.append(
            f"The utility of agent {int(np.argmin(flat))} is not concave: this is a stationary point, not certified "
            "as an equilibrium; see certify(game, profile).exploitability."
        )
    doubt = _doubt(equilibrium.game) if equilibrium.bounds is None else _doubt_of_prices(equilibrium)
    return " ".join([*parts, *doubt])


def _doubt(game: Any) -> list[str]:
    """A sentence where uniqueness is not proved; none where it is, or where to find out takes long."""
    from jaxgame.certificate.certify import has_constants, prove_unique

    if game.n_groups == 1:
        return []
    if not has_constants(game):
        return [
            "Not proved to be the only equilibrium: the utilities are not quadratic; certify(game, profile, "
            "monotonicity=…) takes a constant of yours, probe(game) looks for others."
        ]
    if game.n_agents * (game.n_groups - 1) > CHEAP or prove_unique(game)[1]:
        return []
    return ["Not proved to be the only equilibrium: certify(game, profile) has the numbers, probe(game) finds others."]


def _doubt_of_prices(equilibrium: Any) -> list[str]:
    from jaxgame.certificate.certify import unique_under_bounds

    game = equilibrium.game
    if game.n_agents * (game.n_groups - 1) > CHEAP or unique_under_bounds(game, equilibrium.bounds.exposure):
        return []
    return ["Not proved to be the only equilibrium under these bounds."]


def summarise(certificate: Any) -> str:
    """The message of a certificate."""
    parts = [_gain(certificate), *_curved(certificate), _only_one(certificate)]
    if certificate.unique and np.isfinite(distance := float(certificate.distance)):
        parts.append(f"The profile is within {distance:.3g} of it.")
    return " ".join(parts)


def _gain(certificate: Any) -> str:
    gain, gap = float(certificate.exploitability.max()), float(certificate.gap.max())
    if bool(certificate.exact.all()):
        return f"No agent gains more than {gain:.3g} by a unilateral change."
    agent = int(np.argmin(np.asarray(certificate.exact)))
    bound = f"the gap bounds it by {gap:.3g}" if np.isfinite(gap) else "there is no bound"
    return f"An agent gains {gain:.3g} or more: the best response of agent {agent} is the best one found, and {bound}."


def _curved(certificate: Any) -> list[str]:
    concave = np.asarray(certificate.concave_agents)
    if concave.all():
        return []
    where = " at this profile" if certificate.local else ""
    return [
        f"The utilities of {int((~concave).sum())} agents are not concave{where}, the first of them agent "
        f"{int(np.argmin(concave))}: their gap is infinite."
    ]


def _only_one(certificate: Any) -> str:
    c = float(certificate.monotonicity)
    by = " numerically (Lanczos, wrong with probability 1e-12)" if certificate.numerical else ""
    if certificate.unique:
        if c == np.inf:
            return "The equilibrium is unique: with one group there is one mixture."
        weights = np.asarray(certificate.weights)
        if weights.max() == weights.min():
            return f"The equilibrium is unique{by}: the game map is strongly monotone with constant {c:.3g}."
        span = f"between {weights.min():.3g} and {weights.max():.3g}"
        return (
            f"The equilibrium is unique{by}: with Rosen's weights, {span}, the game map is strongly monotone, which it "
            f"is not without them (smallest eigenvalue {c:.3g})."
        )
    if certificate.local:
        return (
            f"Uniqueness is not proved: the utilities are not quadratic, and the smallest eigenvalue {c:.3g} of the "
            "game map's Jacobian holds at this profile only; constants for the whole simplex can be given as "
            "monotonicity and lipschitz."
        )
    return (
        f"Uniqueness is not proved{by}: the smallest eigenvalue of the game map's Jacobian is {c:.3g}, and no weights "
        "that were tried make it positive; probe(game) looks for other equilibria."
    )


def enumerate_found(probe: Any) -> str:
    """The message of a probe."""
    equilibria = np.asarray(probe.equilibria)
    count, others = int(equilibria.sum()), int((~equilibria).sum())
    verdicts = np.asarray(probe.stability)[equilibria]
    words = {1: "stable", -1: "unstable", 0: "undetermined"}
    kinds = ", ".join(f"{(verdicts == v).sum()} {word}" for v, word in words.items() if (verdicts == v).any())
    found = f"{count} distinct equilibri{'um' if count == 1 else 'a'} from {probe.runs} runs"
    parts = [f"{found} ({kinds})." if kinds else f"{found}."]
    if others:
        parts.append(f"{others} more stationary profiles are no equilibria: an agent has a better response.")
    if probe.failed:
        parts.append(f"{probe.failed} runs did not converge; try another solver.")
    if count > 1 and count == probe.runs - probe.failed:
        parts.append("No two runs agree: the equilibria may form a continuum.")
    parts.append("Others may exist; only certify(game, profile).unique proves that there is one.")
    return " ".join(parts)
