"""certify(): is this profile an equilibrium, is it the only one, and how far off can it be? (theory §1)"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import _checks, simplex
from jaxgame._pytree import pytree
from jaxgame.certificate import weights as rosen
from jaxgame.certificate.exploitability import Position, exploitability, position
from jaxgame.certificate.gap import semidefinite, size_of
from jaxgame.certificate.spectrum import Spectrum, dense_jacobian, spectrum
from jaxgame.games import dtype_of, is_quadratic, reach_of
from jaxgame.games.affine import AffineMap, Aggregate, Blocks
from jaxgame.games.rational import Rational
from jaxgame.solvers.scale import Scale, uniform

STEPS = tuple(2.0**k for k in range(-12, 7, 2))  # step sizes of the error bound, in units of 1/L


@pytree()
class Certificate:
    """What is known of a profile (theory §1); a pytree of arrays and bools.

    residual: natural residual, scale-free.
    exploitability (n,): gain of a best response; of the best one found where `exact` (n,) is False.
    gap (n,): certified bound on it, ∞ for an agent whose utility is not concave.
    monotonicity: smallest eigenvalue of the symmetric part of the game map's Jacobian on the tangent space, ∞ for one
    group; lipschitz: its spectral norm there.
    distance: bound on ‖profile − equilibrium‖, Euclidean over the whole profile; ∞ unless monotonicity > 0 is proved.
    weights (n,): Rosen's weights by which uniqueness is proved, ones if it is not.
    concave: all utilities are concave in the own mixture; `concave_agents` (n,): which are.
    unique: True: proved that the game has exactly one equilibrium; False: not proved.
    local: monotonicity and lipschitz are those at the profile and prove nothing (utilities that are not quadratic).
    numerical: they come from Lanczos' method, whose error bound fails with probability 1e-12.
    """

    residual: Array
    exploitability: Array
    gap: Array
    monotonicity: Array
    lipschitz: Array
    distance: Array
    weights: Array
    concave: bool
    unique: bool
    exact: Array
    concave_agents: Array
    local: bool
    numerical: bool

    @property
    def message(self) -> str:
        """What is proved, by what, and what is not, in sentences."""
        from jaxgame.certificate.message import summarise

        return summarise(self)


def certify(
    game: Any, profile: Any, *, monotonicity: float | None = None, lipschitz: float | None = None
) -> Certificate:
    """Judge a profile (n, D), or that of an `Equilibrium`, in a game; valid whatever found it.

    In quadratic games all constants are global; with a rationality ϱ the entropies add 2/ϱ to the monotonicity, and the
    Lipschitz constant is ∞. For other utilities they are those at the profile and prove neither
    uniqueness nor a distance, unless constants that hold on the whole simplex are given for the tangent part of the
    game map F: `monotonicity` c with ⟨F(W) − F(V), W − V⟩ ≥ c ‖W − V‖², `lipschitz` L with ‖F(W) − F(V)‖ ≤ L ‖W − V‖.

    Best responses hold the others' mixtures fixed, or the aggregate in a mean field with `atomic=False`. Works on
    concrete arrays, not under jit or vmap, and mostly on the host.

    Raises ValueError for a profile of the wrong shape or off the simplex, for traced values, and for constants that the
    Jacobian at the profile contradicts.
    """
    dtype = dtype_of(game)
    shape = (game.n_agents, game.n_groups)
    profile = getattr(profile, "profile", profile)
    profile = _checks.shares("profile", _checks.array("profile", profile, dtype, shape), profile)
    at = position(game, profile)
    if not _checks.concrete(at.marginals):
        raise ValueError("certify needs concrete arrays, got traced ones: call it outside jit, vmap and grad")
    affine, unbounded = _least_curved(game, at), isinstance(game, Rational) and bool((game.temperatures > 0).any())
    found = spectrum(affine, np.ones(shape[0]), dtype=dtype)
    local = not has_constants(game) and shape[1] > 1
    constants = _supplied(found, monotonicity, lipschitz)
    c = -np.inf if local and monotonicity is None else constants.lower
    L = np.inf if unbounded or local and lipschitz is None else constants.upper
    weights, unique = np.ones(shape[0]), c > 0
    if not unique and not local:
        weights, unique = _weighted(affine, dtype)
    unique = unique and _copies_play_alike(affine)
    gain, exact = exploitability(game, at)
    return Certificate(
        residual=_residual(profile, at.marginals, _scale(at, L)),
        exploitability=gain,
        gap=at.gap,
        monotonicity=jnp.asarray(constants.monotonicity, dtype),
        lipschitz=jnp.asarray(np.inf if unbounded else constants.lipschitz, dtype),
        distance=jnp.asarray(_distance(at, c, L), dtype),
        weights=jnp.asarray(weights, dtype),
        concave=bool(at.concave.all()),
        unique=bool(unique),
        exact=exact,
        concave_agents=at.concave,
        local=local and monotonicity is None,
        numerical=not found.proved,
    )


def prove_unique(game: Any) -> tuple[np.ndarray, bool]:
    """Weights by which a game with constants that hold everywhere is proved to have one equilibrium, and whether it
    is.
    """
    dtype = dtype_of(game)
    affine = game.flattest(uniform(game, dtype)) if isinstance(game, Rational) else game.affine()
    weights = np.ones(game.n_agents)
    if not spectrum(affine, weights, dtype=dtype).lower > 0:
        weights, proved = _weighted(affine, dtype)
        if not proved:
            return weights, False
    return weights, _copies_play_alike(affine)


def has_constants(game: Any) -> bool:
    """Whether the constants of the game map's Jacobian hold on the whole simplex: quadratic games, and logit responses
    in them, entropies being 2-strongly convex on differences of mixtures.
    """
    return is_quadratic(game.game if isinstance(game, Rational) else game)


def unique_under_bounds(game: Any, exposure: Any) -> bool:
    """Whether a quadratic game is proved to have one equilibrium under shared bounds (theory §5).

    Rosen's weights are then given: an agent whose marginals feel exposure_i of a price on S = Σ reach_i w_i has the
    weight reach_i / exposure_i, and diag of these times F must be strongly monotone.
    """
    dtype = dtype_of(game)
    reach, exposure = np.asarray(reach_of(game, dtype), np.float64), np.asarray(exposure, np.float64)
    if not is_quadratic(game) or not ((reach > 0) & (exposure > 0)).all():
        return False
    weights = reach / exposure
    affine = game.affine()
    return spectrum(affine, weights / weights.mean(), dtype=dtype).lower > 0 and _copies_play_alike(affine)


def _copies_play_alike(affine: AffineMap) -> bool:
    """Whether identical agents that share a row respond to S in one way only: by definite own blocks."""
    others = affine.others
    if not isinstance(others, Aggregate) or others.share is None:
        return True
    size, n_groups = size_of(affine), affine.linear.shape[1]
    margin = 100 * n_groups * jnp.finfo(size.dtype).eps * size
    own = Blocks(affine.own.diagonal - margin[:, None], affine.own.terms, affine.own.dense)
    return bool(semidefinite(own, size, n_groups).all())


def _least_curved(game: Any, at: Position) -> AffineMap:
    return game.flattest(at.profile) if isinstance(game, Rational) else at.affine


def _supplied(found: Spectrum, monotonicity: float | None, lipschitz: float | None) -> Spectrum:
    """The constants, with those that the user supplied in their place."""
    if found.monotonicity == np.inf:  # one group: nothing to supply
        return found
    known = vars(found).copy()
    slack = 1e-6 * found.lipschitz + max(found.monotonicity - found.lower, found.upper - found.lipschitz)
    if monotonicity is not None:
        c = float(monotonicity)
        if not np.isfinite(c) or c > found.monotonicity + slack:
            raise ValueError(
                f"monotonicity is {c:.6g}, but at the profile the smallest eigenvalue of the game map's Jacobian is "
                f"{found.monotonicity:.6g}, and a constant for the whole simplex is at most that"
            )
        known |= dict(monotonicity=c, lower=c)
    if lipschitz is not None:
        L = float(lipschitz)
        if not 0 < L < np.inf or L < found.lipschitz - slack:
            raise ValueError(
                f"lipschitz is {L:.6g}, but at the profile the norm of the game map's Jacobian is "
                f"{found.lipschitz:.6g}, and a constant for the whole simplex is positive, finite and at least that"
            )
        known |= dict(lipschitz=L, upper=L)
    return Spectrum(**known)


def _weighted(affine: AffineMap, dtype: Any) -> tuple[np.ndarray, bool]:
    """Weights under which the game map is strongly monotone, and whether there are any among those tried."""
    n, n_groups = affine.linear.shape
    for weights in rosen.candidates(affine):
        if spectrum(affine, weights, dtype=dtype).lower > 0:
            return weights, True
    if 1 < n and n * (n_groups - 1) <= rosen.ASCENT_LIMIT:
        weights = rosen.ascent(dense_jacobian(affine), n)
        if spectrum(affine, weights, dtype=dtype).lower > 0:
            return weights, True
    return np.ones(n), False


def _scale(at: Position, L: float) -> Scale:
    """As for solvers, but with the accurate Lipschitz constant where there is a global one."""
    if not np.isfinite(L):
        return at.scale
    sigma = jnp.maximum(jnp.asarray(L, at.spread.dtype), at.spread)
    return Scale(jnp.where(sigma > 0, sigma, 1), at.scale.curvature)


@jax.jit
def _residual(profile: Array, marginals: Array, scale: Scale) -> Array:
    return jnp.where(jnp.isfinite(marginals).all(), scale.residual(profile, marginals), jnp.inf)


def _distance(at: Position, c: float, L: float) -> float:
    """The least of the error bounds that c and L give, with what rounding may hide added.

    (1 + ηL)/(ηc) ‖W − Π(W − ηF)‖ for several η > 0 (Facchinei & Pang 2003), and √(Σ gap / c), because
    c ‖W − W*‖² ≤ ⟨F(W), W − W*⟩. The same without L, for solutions in the interior: where marginals are off their
    mean by s, the right-hand side is at most Σ s w over the groups with hardly any share plus ‖s‖ ‖W − W*‖ of the rest.
    """
    if c == np.inf:
        return 0.0
    if not c > 0 or not bool(jnp.isfinite(at.marginals).all()):
        return np.inf
    n, n_groups = at.profile.shape
    eps = 8 * float(jnp.finfo(at.profile.dtype).eps)
    # What the entries of F are sums of.
    noise, noisiest, left = (np.asarray(x) for x in _errors(at, jnp.asarray(STEPS, at.profile.dtype) / min(L, 1e300)))
    bounds = [(2 * n) ** 0.5]  # the diameter of the set of profiles
    total = float(at.gap.sum())
    if np.isfinite(total):
        bounds.append(((total + eps * float(noisiest)) / c) ** 0.5)
    if not np.isfinite(L):
        idle, off = (float(x) for x in _imbalance(at))
        off += eps * float(noise)
        bounds.append((off + (off**2 + 4 * c * idle) ** 0.5) / (2 * c))
    for step, miss in zip(STEPS, left, strict=True) if np.isfinite(L) else ():
        eta = step / L
        bounds.append((1 + step) / (eta * c) * (float(miss) + eps * ((n * n_groups) ** 0.5 + eta * float(noise))))
    return min(bounds) * (1 + eps)


@jax.jit
def _imbalance(at: Position) -> tuple[Array, Array]:
    """Σ s w over groups with a share below eps² and less than the mean marginal utility; ‖s‖ over the others."""
    slack = (at.profile * at.marginals).sum(1, keepdims=True) - at.marginals
    idle = (at.profile < jnp.finfo(at.profile.dtype).eps ** 2) & (slack > 0)
    return jnp.where(idle, slack * at.profile, 0).sum(), jnp.linalg.norm(jnp.where(idle, 0, slack))


@jax.jit
def _errors(at: Position, steps: Array) -> tuple[Array, Array, Array]:
    """Sizes of the parts of F: norm, and sum of the agents' largest; ‖W − Π(W − ηF)‖ for all steps η."""
    others = jnp.abs(at.affine.others.apply(at.profile))
    parts = jnp.abs(at.affine.linear) + jnp.abs(at.affine.own.apply(at.profile)) + others + jnp.abs(at.marginals)
    slope = at.marginals - at.marginals.max(1, keepdims=True)

    def miss(step: Array) -> Array:
        return jnp.linalg.norm(at.profile - simplex.project(at.profile + step * slope))

    return jnp.linalg.norm(parts), parts.max(1).sum(), lax.map(miss, steps)
