"""probe(): how many equilibria a game shows from many starts, and at which of them agents would stay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array, lax

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.certificate.exploitability import Position, exploitability, position
from jaxgame.games import dtype_of, representation
from jaxgame.solvers import Newton
from jaxgame.solvers.scale import Scale, measure
from jaxgame.solving import default_solver, solve

STABLE, UNDETERMINED, UNSTABLE = 1, 0, -1
SETTLING = 4_000_000_000  # numbers that gradient steps from all starts go through, at most
SIDE_BY_SIDE = 4_000_000  # numbers in the profiles that are solved for in one go
LINEAR_LIMIT = 2000  # n·D up to which stability is judged: eigenvalues of a nonsymmetric matrix of that size


@pytree()
class Probe:
    """The distinct stationary profiles that were found, those found most often first; a pytree of arrays.

    profiles (k, n, D); representations (k, D); counts (k,): runs that led there; residuals (k,).
    gaps, exploitability (k,): the largest over the agents, in units of utility.
    equilibria (k,) bool: no agent has a better response; always so where utilities are concave.
    stability (k,): under the projected dynamics ẇ = Π_T(−F(w)): 1 stable, −1 unstable, 0 undetermined.
    growth (k,): largest real part of the eigenvalues of these dynamics on the face of the profile; −∞ where that is a
    vertex, NaN where it was not computed.
    runs: how many solves were made; failed: how many of them did not converge.
    """

    profiles: Array
    representations: Array
    counts: Array
    residuals: Array
    gaps: Array
    exploitability: Array
    equilibria: Array
    growth: Array
    stability: Array
    runs: int
    failed: int

    @property
    def message(self) -> str:
        """What was found, in sentences."""
        from jaxgame.certificate.message import enumerate_found

        return enumerate_found(self)


def probe(game: Any, *, starts: int = 32, seed: int = 0, solver: Any = None, tolerance: float | None = None) -> Probe:
    """Solve a game from several starts and tell the equilibria apart.

    starts: the uniform profile, everyone near one group, then by turns random profiles near vertices and Dirichlet
    draws (`seed`).
    solver: as in `solve`. Without one every start is solved from twice: as it is, where Newton's method finds unstable
    equilibria, too, and after agents have followed their marginal utilities for a while, which leads to stable ones.
    tolerance: profiles that differ nowhere by more are one; default eps^0.4, 5e-7 in float64 and 2e-3 in float32.

    What was not found may exist: only `certify(…).unique` proves that there is one equilibrium. Not under jit or vmap.
    Raises ValueError for a number of starts or a tolerance that makes no sense.
    """
    if isinstance(starts, bool) or not isinstance(starts, (int, np.integer)) or starts < 1:
        raise ValueError(f"starts is {starts!r}, expected an integer ≥ 1")
    dtype = dtype_of(game)
    apart = float(jnp.finfo(dtype).eps) ** 0.4 if tolerance is None else float(tolerance)
    if not 0 < apart < 1:
        raise ValueError(f"tolerance is {tolerance}, expected a number between 0 and 1")
    first = jnp.asarray(initial_profiles(game.n_agents, game.n_groups, int(starts), seed), dtype)
    scale = measure(game, dtype)
    found = _solve_all(game, solver, first)
    if solver is None:
        steps = int(np.clip(SETTLING // first.size, 100, 2000))
        calm = jax.vmap(lambda start: settled(game, start, scale, steps))(first)
        # Newton's method on the profile stays at an equilibrium; the one on the aggregate may leave an unstable one.
        more = _solve_all(game, Newton() if isinstance(default_solver(game), Newton) else None, calm)
        found = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), found, more)
    converged = np.flatnonzero(np.asarray(found.converged))
    kept, counts = _distinct(np.asarray(found.profile), np.asarray(found.residual), converged, apart)
    judged = [_judge(game, found.profile[k], scale, apart) for k in kept]

    def column(position: int, kind: Any = dtype) -> Array:
        return jnp.asarray([row[position] for row in judged], kind)

    profiles = found.profile[jnp.asarray(kept, int)]
    return Probe(
        profiles=profiles,
        representations=jax.vmap(lambda profile: representation(game, profile))(profiles),
        counts=jnp.asarray(counts, int),
        residuals=found.residual[jnp.asarray(kept, int)],
        gaps=column(0),
        exploitability=column(1),
        equilibria=column(2, bool),
        growth=column(3),
        stability=column(4, int),
        runs=len(found.converged),
        failed=len(found.converged) - len(converged),
    )


def initial_profiles(n: int, n_groups: int, starts: int, seed: int) -> np.ndarray:
    """Starts (starts, n, D). Vertices are pulled a little inside: utilities may be infinite at the boundary."""
    rng = np.random.default_rng(seed)
    vertices = 0.9 * np.eye(n_groups) + 0.1 / n_groups
    rows = [np.full((n, n_groups), 1 / n_groups)]
    rows += [np.broadcast_to(vertices[d], (n, n_groups)) for d in range(n_groups)]
    while len(rows) < starts:
        rows.append(vertices[rng.integers(n_groups, size=n)])
        rows.append(rng.dirichlet(np.ones(n_groups), n))
    return np.array(rows[:starts])


def settled(game: Any, start: Array, scale: Scale, steps: int) -> Array:
    """Where projected gradient steps lead, until they are short."""
    close = float(jnp.finfo(start.dtype).eps) ** 0.5

    def unfinished(state) -> Array:
        _, change, count = state
        return (change > close) & (count < steps)

    def body(state):
        profile, _, count = state
        ahead = simplex.project(profile + game.marginals(profile) / (2 * scale.sigma))
        ahead = jnp.where(jnp.isfinite(ahead).all(), ahead, profile)
        return ahead, jnp.abs(ahead - profile).max(), count + 1

    return lax.while_loop(unfinished, body, (start, jnp.ones((), start.dtype), jnp.zeros((), int)))[0]


def _solve_all(game: Any, solver: Any, starts: Array) -> Any:
    def one(start: Array) -> dict[str, Array]:
        found = solve(game, solver, init=start)
        return dict(profile=found.profile, residual=found.residual, converged=found.converged)

    if starts.size <= SIDE_BY_SIDE:
        return _Found(**jax.vmap(one)(starts))
    return _Found(**jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one(start) for start in starts]))


@pytree()
class _Found:
    profile: Array
    residual: Array
    converged: Array


def _distinct(
    profiles: np.ndarray, residuals: np.ndarray, among: np.ndarray, tolerance: float
) -> tuple[list[int], list[int]]:
    """Indices of profiles more than `tolerance` apart, the most accurate of each cluster, and the clusters' sizes."""
    kept: list[int] = []
    counts: list[int] = []
    for k in sorted(among, key=lambda k: residuals[k]):
        near = [c for c, other in enumerate(kept) if np.abs(profiles[k] - profiles[other]).max() <= tolerance]
        if near:
            counts[near[0]] += 1
        else:
            kept.append(int(k))
            counts.append(1)
    order = sorted(range(len(kept)), key=lambda c: -counts[c])
    return [kept[c] for c in order], [counts[c] for c in order]


def _judge(game: Any, profile: Array, scale: Scale, tolerance: float) -> tuple[float, float, bool, float, int]:
    """gap, exploitability, whether that is an equilibrium, growth and stability of one profile."""
    at = position(game, profile)
    gain = float(exploitability(game, at)[0].max())
    return float(at.gap.max()), gain, gain <= tolerance * float(scale.sigma), *stability(at, scale, tolerance)


def stability(at: Position, scale: Scale, tolerance: float) -> tuple[float, int]:
    """Largest real part of the eigenvalues of −J on the tangent of the profile's face, and the verdict.

    At a kink (a group off the support whose multiplier vanishes) the dynamics are not linear: stable where J is
    positive definite on the larger face, else undetermined.
    """
    if at.profile.size > LINEAR_LIMIT:
        return np.nan, UNDETERMINED
    w, g = np.asarray(at.profile, np.float64), np.asarray(at.marginals, np.float64)
    support = w > tolerance
    reachable = support | (g.max(1, keepdims=True) - g <= tolerance * float(scale.sigma))
    jacobian = np.asarray(at.affine.dense(), np.float64)
    inner, outer = _on_face(jacobian, support), _on_face(jacobian, reachable)
    growth = -float(np.linalg.eigvals(inner).real.min()) if inner.size else -np.inf
    if (reachable != support).any():
        lowest = np.linalg.eigvalsh((outer + outer.T) / 2)[0]
        return growth, STABLE if lowest > tolerance * np.linalg.norm(outer) else UNDETERMINED
    margin = tolerance * np.linalg.norm(inner) if inner.size else 0.0
    return growth, STABLE if growth < -margin else UNSTABLE if growth > margin else UNDETERMINED


def _on_face(jacobian: np.ndarray, face: np.ndarray) -> np.ndarray:
    """J on {v : v = 0 off the face, Σ_d v_id = 0}."""
    bases = []
    for row in face:
        basis = np.zeros((row.size, max(int(row.sum()) - 1, 0)))
        if basis.shape[1]:
            basis[row] = scipy.linalg.helmert(int(row.sum())).T
        bases.append(basis)
    basis = scipy.linalg.block_diag(*bases)
    return basis.T @ jacobian @ basis
