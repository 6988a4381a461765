"""Political exclusion: who is left out, at what point, and what it takes to be let in (theory §4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import _checks, homotopy, simplex
from jaxgame._pytree import pytree
from jaxgame.closed_form import one_agent
from jaxgame.games import AlignmentGame
from jaxgame.games.affine import per_agent
from jaxgame.homotopy import Corner, Line
from jaxgame.linalg import dot

PIVOTS_PER_GROUP = 100


def excluded(equilibrium_or_profile: Any, *, tolerance: float | Array = 1e-3) -> Array:
    """Which groups no agent represents: max_i w_id ≤ tolerance, (D,) bool.

    An equilibrium or profile with leading axes gives a batch of answers. Raises ValueError for an array that is no
    profile, or a negative tolerance.
    """
    profile = _profile(equilibrium_or_profile)
    tolerance = _checks.array("tolerance", tolerance, profile.dtype, ())
    _checks.nonnegative("tolerance", tolerance)
    return profile.max(-2) <= tolerance


def under_represented(equilibrium_or_profile: Any, shares: Any, *, threshold: float | Array = 0.5) -> Array:
    """Which groups' representation falls short of their population share: S_d < threshold·share_d, (D,) bool.

    shares: (D,), or one row an entry of a batch. The representation is an equilibrium's own, weighted by reach; of a
    profile it is the mean over agents. Raises ValueError for shares that are none or do not fit, or a negative
    threshold.
    """
    profile = _profile(equilibrium_or_profile)
    shown = getattr(equilibrium_or_profile, "representation", None)
    shown = profile.mean(-2) if shown is None else shown
    rows = _checks.array("shares", shares, shown.dtype, shown.shape[-1:], shown.shape)
    rows = jnp.broadcast_to(_checks.shares("shares", rows, shares), shown.shape)
    threshold = _checks.array("threshold", threshold, shown.dtype, ())
    _checks.nonnegative("threshold", threshold)
    return shown < threshold * rows


def inclusion_price(game: Any, equilibrium: Any) -> Array:
    """What a group's inclusion costs: min_i ν_id, in utility per unit of mixture, (D,); 0 where represented.

    ν_id is by how much agent i's marginal utility of group d falls short of that of what it represents. A common
    addition to the marginal utility of an excluded group changes nothing until it exceeds the price.

    With a batch of equilibria from `vmap` the game may be one for all, or the batch of games that they belong to
    (`equilibrium.game`). A profile will do for the equilibrium, with one game. Raises ValueError for a profile that
    does not fit the game.
    """
    profile = _profile(equilibrium)
    own = getattr(equilibrium, "game", None)
    batched = profile.ndim > 2 and own is not None and _shapes(game) == _shapes(own)
    if not batched and profile.shape[-2:] != (game.n_agents, game.n_groups):
        expected = f"(…, {game.n_agents}, {game.n_groups})"
        raise ValueError(f"the equilibrium's profile has shape {profile.shape}, expected {expected}")

    def price(game: Any, profile: Array) -> Array:
        marginals = game.marginals(profile)
        slack = marginals.max(-1, keepdims=True) - marginals
        return jnp.where(simplex.face(profile), 0, slack).min(0)

    def of_one_game(profile: Array) -> Array:
        return price(game, profile)

    function, arguments = (price, (game, profile)) if batched else (of_one_game, (profile,))
    for _ in range(profile.ndim - 2):
        function = jax.vmap(function)
    return function(*arguments)


def critical_ratios(game: AlignmentGame, *, interior: bool = False) -> Array:
    """The first α/γ at which each group's share reaches 0 as attractiveness α grows, all else fixed, (D,).

    Exact, by following the symmetric equilibrium (theory §4): 0 for a group without a share already at α = 0, ∞ for one
    that never leaves. The game's own attractiveness does not matter. interior=True: the formula ρ_d of the interior
    instead, of which only the smallest is an event of the game. Diversity beyond the uniqueness boundary is allowed;
    the symmetric equilibrium is then one of several.

    Composes with jit and vmap (over kernels, say); there, where a condition below fails, everything is NaN. NaN is also
    the entry of a group still represented after 100·(D + 1) pivots; a few D are usual.

    Raises ValueError for a game that is no AlignmentGame; agents that are not all alike (naming argument and agent);
    consistency 0; utilities that are not concave (centroid diversity above consistency); or a common problem that is
    not strictly concave, γQ + δK (pairwise) or γQ (centroid) not being positive definite on the tangent space, as with
    strong conformism or groups that the kernel cannot tell apart.
    """
    if not isinstance(game, AlignmentGame):
        raise ValueError(f"critical_ratios needs an AlignmentGame, got {type(game).__name__}")
    found = _critical(game, interior)
    if _checks.concrete(found.ratios):
        _raise(game, found)
    return found.ratios


@pytree()
class _Critical:
    """Ratios, and the conditions on which they rest."""

    ratios: Array
    differ: dict[str, Array]  # argument -> bool, which agents (and groups) differ from agent 0
    consistent: Array
    concave: Array
    curvature: Array  # smallest eigenvalue on the tangent space of the common problem, γ = 1
    definite: Array


@jax.jit(static_argnames="interior")
def _critical(game: AlignmentGame, interior: bool) -> _Critical:
    n, n_groups = game.n_agents, game.n_groups
    dtype = game.kernel.dtype
    eps = jnp.finfo(dtype).eps
    uniform = jnp.full((n, n_groups), 1 / n_groups, dtype)
    meeting = game.others(uniform).sum(1)
    differ = _differences(game, meeting)
    consistency = per_agent(game.consistency, n)[0]
    consistent = consistency > 0
    gamma = jnp.where(consistent, consistency, 1)
    diversity = per_agent(game.diversity, n)[0] * meeting[0] / gamma
    # About the target t and divided by γ the common mixture solves H (w − t) = offset + (α/γ) a − μ1 (theory §3.1).
    # H is Q + coefficient·K, and an agent's own curvature Q + own·K, so one eigenvalue problem tells about both.
    target, kernel = game.targets[0], game.kernel
    response, pairwise = game.consistency_metric == "response", game.diversity_form == "pairwise"
    coefficient, own = (diversity, jnp.zeros_like(diversity)) if pairwise else (jnp.zeros_like(diversity), -diversity)
    matrix = (kernel if response else jnp.eye(n_groups, dtype=dtype)) + coefficient * kernel
    offset = coefficient * (game.spread / 2 - dot(kernel, target))
    ends = _tangent_ends(kernel)
    metric = ends if response else jnp.ones_like(ends)
    common, alone = metric + coefficient * ends, metric + own * ends
    lowest, highest = common.min(), jnp.abs(common).max()
    small = 10 * n_groups * eps
    definite = lowest > small * highest
    concave = alone.min() >= -small * (metric + jnp.abs(own) * ends).max()
    sound = consistent & definite & concave & ~jnp.stack([bad.any() for bad in differ.values()]).any()
    # In units in which the matrix and the appeal are about 1. An appeal that is constant up to rounding moves no one.
    appeal = simplex.project_tangent(game.appeal[0])
    moved = jnp.abs(appeal).max()
    moves = moved > 4 * eps * jnp.abs(game.appeal[0]).max()
    appeal = jnp.where(moves, appeal / jnp.where(moves, moved, 1), 0)
    size = jnp.where(definite, highest, 1)
    matrix = jnp.where(definite, matrix / size, jnp.eye(n_groups, dtype=dtype))
    follow = _interior if interior else _follow
    # Rounding moves shares by up to eps times the condition number; so little counts as nothing.
    tolerance = jnp.minimum(4 * eps * jnp.where(definite, highest / lowest, 1), jnp.sqrt(eps))
    at = follow(matrix, offset / size, appeal, target, tolerance)
    ratios = jnp.where(sound, at * size / jnp.where(moves, moved, 1), jnp.nan)
    return _Critical(ratios, differ, consistent, concave, lowest, definite)


def _interior(matrix: Array, offset: Array, appeal: Array, target: Array, tolerance: Array) -> Array:
    """ρ_d: where the formula of the interior, affine in s, has its zero."""
    everyone = jnp.ones((1, target.shape[0]), bool)
    line = Line(one_agent(matrix, offset), appeal[None], target[None])
    here = homotopy.piece(line, everyone, jnp.zeros((), target.dtype))
    begin, velocity = here.w[0], here.dw[0]
    falling = velocity < -tolerance
    return jnp.where(falling, jnp.maximum(begin, 0) / jnp.where(falling, -velocity, 1), jnp.inf)


def _follow(matrix: Array, offset: Array, appeal: Array, target: Array, tolerance: Array) -> Array:
    """The first s at which each share of min ½ (w − t)ᵀH(w − t) − (offset + s·appeal)ᵀw on the simplex is zero."""
    n_groups = target.shape[0]
    everyone = jnp.ones((1, n_groups), bool)
    limit = PIVOTS_PER_GROUP * (n_groups + 1)

    def walk(line: Line, corner: Corner, first: Array, end: float) -> tuple[Corner, Array]:
        def body(carry):
            corner, first, pivots = carry
            corner = homotopy.advance(line, corner, jnp.asarray(end, target.dtype), tolerance)
            first = jnp.where(corner.emptied[0] & jnp.isinf(first), corner.at, first)
            return corner, first, pivots + 1

        def unfinished(carry):
            return ~carry[0].over & (carry[2] < limit)

        corner, first, _ = lax.while_loop(unfinished, body, (corner, first, 0))
        return corner, first

    # To the equilibrium at α = 0, from the linear term for which everyone has the same share.
    zero, never = jnp.zeros((), target.dtype), jnp.full_like(target, jnp.inf)
    uniform = jnp.full_like(target, 1 / n_groups)
    begin = dot(matrix, uniform - target)
    approach = Line(one_agent(matrix, begin), (offset - begin)[None], target[None])
    origin, _ = walk(approach, homotopy.start(zero, everyone), never, 1.0)
    out = (~origin.face | origin.tied)[0]
    line = Line(one_agent(matrix, offset), appeal[None], target[None])
    corner = Corner(zero, origin.face, origin.tied, jnp.zeros_like(everyone), jnp.zeros((), bool))
    end, first = walk(line, corner, jnp.where(out, 0, never), jnp.inf)
    first = jnp.where(jnp.isinf(first) & ~end.over, jnp.nan, first)
    return jnp.where(origin.over, first, jnp.nan)


def _differences(game: AlignmentGame, meeting: Array) -> dict[str, Array]:
    """Which entries of each argument differ from agent 0's by more than rounding."""
    n = game.n_agents
    rows = dict(targets=game.targets, appeal=game.appeal)
    numbers = dict(attractiveness=game.attractiveness, consistency=game.consistency, diversity=game.diversity)
    rows |= {name: per_agent(value, n) for name, value in numbers.items()}
    if game.coupling is not None:
        rows["coupling"] = per_agent(game.diversity, n) * meeting
    slack = 32 * jnp.finfo(game.kernel.dtype).eps
    return {name: jnp.abs(x - x[:1]) > slack * jnp.abs(x).max() for name, x in rows.items()}


def _tangent_ends(kernel: Array) -> Array:
    """The smallest and the largest eigenvalue of a symmetric matrix on the tangent space, (2,); 1, 1 if D = 1."""
    n_groups = kernel.shape[0]
    if n_groups == 1:
        return jnp.ones(2, kernel.dtype)
    centred = kernel - kernel.mean(0, keepdims=True)
    centred = centred - centred.mean(1, keepdims=True)
    # The direction 1 is given the mean of the other eigenvalues, so that it is at neither end.
    values = jnp.linalg.eigvalsh(centred + jnp.trace(centred) / ((n_groups - 1) * n_groups))
    return jnp.stack([values[0], values[-1]])


def _raise(game: AlignmentGame, found: _Critical) -> None:
    for name, bad in found.differ.items():
        if (bad := np.asarray(bad)).any():
            index = [int(k) for k in np.argwhere(bad)[0]]
            if name == "coupling":
                what = f"agent {index[0]} does not meet the others as agent 0 does"
            else:
                value = np.asarray(getattr(game, name))
                what = f"{name}{index} is {value[tuple(index)]}, for agent 0 it is {value[(0, *index[1:])]}"
            raise ValueError(f"critical_ratios needs a symmetric population: {what}")
    if not found.consistent:
        raise ValueError("consistency is 0, expected a positive number: the ratio α/γ does not exist")
    if not found.concave:
        raise ValueError(
            "critical_ratios: utilities are not concave, so a stationary point is no equilibrium; with "
            "diversity_form='centroid' concavity needs consistency ≥ diversity (theory §2)"
        )
    if not found.definite:
        raise ValueError(
            f"critical_ratios: the population's common problem has a curvature of {float(found.curvature):.3g} "
            "consistency on the tangent space, expected a positive one; diversity is too negative, or the kernel "
            "cannot tell some groups apart"
        )


def _profile(equilibrium_or_profile: Any) -> Array:
    """(…, n, D); entries are not checked, for one failed entry of a batch must not take the others with it."""
    profile = getattr(equilibrium_or_profile, "profile", equilibrium_or_profile)
    profile = jnp.asarray(profile, _checks.float_dtype(profile))
    if profile.ndim < 2:
        raise ValueError(f"profile has shape {profile.shape}, expected (…, n, D)")
    return profile


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
