"""Games with known answers or known difficulties, each as a numpy specification and as a game of the library.

An `Entry` has the specification (`reference.Alignment`, `reference.Quadratic` or `Concave` below), the equilibrium
where it is known independently, and what is true of it. `to_game(spec, dtype)` builds the library's game.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref
from jax.experimental.sparse import BCOO

import jaxgame as jg


# --- utilities for ConcaveGame: module level, numbers in params -----------------------------------
def linear_quadratic(params, mixture, others):
    own = params["linear"] @ mixture - 0.5 * mixture @ params["curvature"] @ mixture
    return params["scale"] * (own - mixture @ params["B"] @ others)


def against_profile(params, mixture, others):
    own = params["linear"] @ mixture - 0.5 * mixture @ params["curvature"] @ mixture
    return params["scale"] * (own - mixture @ jnp.einsum("jde,je->d", params["B"], others))


def entropic(params, mixture, others):
    entropy = jnp.sum(jax.scipy.special.entr(mixture))
    return params["scale"] * ((params["linear"] - params["B"] @ others) @ mixture + params["temperature"] * entropy)


def logarithmic(params, mixture, others):
    own = jnp.sum(params["value"] * jnp.log(mixture + params["shift"]))
    return params["scale"] * (own - mixture @ params["B"] @ others)


def cubic(params, mixture, others):
    own = params["linear"] @ mixture - jnp.sum(params["curvature"] * mixture**3) / 3
    return params["scale"] * (own - mixture @ params["B"] @ others)


@dataclass(frozen=True)
class Concave:
    """A ConcaveGame: the JAX utility and, in numpy, its game map F_i = scale · marginal(params_i, w_i, others)."""

    utility: Callable
    marginal: Callable
    params: dict[str, np.ndarray]
    n_groups: int
    coupling: str | np.ndarray = "mean"

    @property
    def shape(self):
        return len(self.params["scale"]), self.n_groups

    def game_map(self, W):
        rows = []
        for i in range(len(W)):
            if isinstance(self.coupling, np.ndarray):
                others = sum(self.coupling[i, j] * W[j] for j in range(len(W)))
            elif self.coupling == "mean":
                others = sum((W[j] for j in range(len(W)) if j != i), np.zeros(self.n_groups)) / max(len(W) - 1, 1)
            else:
                others = np.where(np.arange(len(W))[:, None] == i, 0.0, W)
            params = {k: v[i] for k, v in self.params.items()}
            rows.append(params["scale"] * self.marginal(params, W[i], others))
        return np.array(rows)

    def representation(self, W):
        return W.mean(axis=0)

    def scaled(self, s):
        return Concave(
            self.utility, self.marginal, self.params | {"scale": s * self.params["scale"]}, self.n_groups, self.coupling
        )


def spelled_out(spec: Any) -> Any:
    """The same game with every default and every scalar written as an array: fewer shapes, so fewer compilations."""
    n, D = spec.shape
    if isinstance(spec, ref.Alignment):
        weights = ("attractiveness", "consistency", "diversity")
        return spec.replace(
            appeal=np.broadcast_to(spec.appeal, (n, D)),
            spread=np.diag(spec.kernel) if spec.spread is None else spec.spread,
            reach=np.full(n, 1 / n) if spec.reach is None else spec.reach,
            **{name: np.broadcast_to(getattr(spec, name), (n,)) for name in weights},
        )
    if isinstance(spec, Concave):
        return spec
    c = spec.coupling
    if isinstance(c, ref.MeanField):
        reach = np.full(n, 1 / n) if c.reach is None else c.reach
        c = ref.MeanField(c.B, np.broadcast_to(c.sensitivity, (n,)), reach, c.atomic, c.include_self)
    elif isinstance(c, ref.Network):
        c = ref.Network(c.weights, np.eye(D) if c.B is None else c.B)
    return ref.Quadratic(spec.linear, spec.curvature, c)


def to_game(spec: Any, dtype: Any = np.float64, sparse: bool = False, as_given: bool = False) -> Any:
    """The library's game, its arrays of that dtype; networks as BCOO if `sparse`, defaults left out if `as_given`."""
    spec = spec if as_given else spelled_out(spec)

    def cast(x) -> Any:
        return None if x is None else jnp.asarray(np.asarray(x), dtype)

    def network(weights) -> Any:
        return BCOO.fromdense(cast(weights)) if sparse else cast(weights)

    if isinstance(spec, Concave):
        coupling: Any = spec.coupling if isinstance(spec.coupling, str) else jg.Network(network(spec.coupling))
        return jg.ConcaveGame(
            spec.utility, {k: cast(v) for k, v in spec.params.items()}, spec.n_groups, coupling=coupling
        )
    if isinstance(spec, ref.Alignment):
        return jg.AlignmentGame(
            cast(spec.targets),
            cast(spec.kernel),
            cast(spec.appeal),
            attractiveness=cast(spec.attractiveness),
            consistency=cast(spec.consistency),
            diversity=cast(spec.diversity),
            diversity_form=spec.diversity_form,
            consistency_metric=spec.consistency_metric,
            spread=cast(spec.spread),
            reach=cast(spec.reach),
            coupling=None if spec.weights is None else jg.Network(network(spec.weights)),
        )
    c, C = spec.coupling, spec.curvature
    if isinstance(c, ref.MeanField):
        coupling = jg.MeanField(
            cast(c.B),
            sensitivity=cast(c.sensitivity),
            reach=cast(c.reach),
            atomic=c.atomic,
            include_self=c.include_self,
        )
    else:
        coupling = jg.Dense(cast(c.B)) if isinstance(c, ref.Dense) else jg.Network(network(c.weights), cast(c.B))
    if isinstance(C, ref.Diagonal):
        curvature = jg.Diagonal(cast(C.h))
    else:
        curvature = jg.Scaled(cast(C.q), cast(C.Q)) if isinstance(C, ref.Scaled) else cast(C)
    return jg.QuadraticGame(cast(spec.linear), curvature, coupling=coupling)


def sigma(spec):
    """σ of theory §1; for other than quadratic utilities L by differences of the map at the uniform profile."""
    n, D = spec.shape
    if isinstance(spec, Concave):
        base, h = np.full((n, D), 1 / D), 1e-6
        columns = []
        for k in range(n * D):
            step = np.zeros(n * D)
            step[k] = h
            step = step.reshape(n, D)
            columns.append((spec.game_map(base + step) - spec.game_map(base - step)).ravel() / (2 * h))
        M = np.array(columns).T
    else:
        M = spec.affine[0]
    return ref.scale(spec.game_map, spec.shape, ref.constants(M, spec.shape)[1])


@dataclass(frozen=True)
class Entry:
    """A game and what is true of it; `solution` is None where only the KKT conditions judge."""

    spec: Any
    solution: Any = None
    monotone: bool = True
    unique: bool = True
    potential: bool = False
    mean_field: bool = True
    mild: bool = False  # condition number small enough for every first-order method

    def game(self, dtype: Any = np.float64, sparse: bool = False) -> Any:
        return to_game(self.spec, dtype, sparse)


GAMES: dict[str, Callable[[], Entry]] = {}


def entry(make: Callable[[], Entry]) -> Callable[[], Entry]:
    cached = lru_cache(maxsize=None)(make)
    GAMES[make.__name__] = cached
    return cached


def _rng(seed):
    return np.random.default_rng(seed)


def _interior(form, symmetric, seed):
    rng = _rng(seed)
    n, D = 4, 3
    targets = 0.6 / D + 0.4 * rng.dirichlet(np.ones(D), n)
    appeal = rng.normal(size=(n, D))
    if symmetric:
        targets, appeal = np.tile(targets[:1], (n, 1)), np.tile(appeal[:1], (n, 1))
    K = ref.random_kernel(rng, D, 0.5)
    spread = np.diag(K) + rng.uniform(0, 0.2, D)
    return ref.Alignment(targets, K, appeal, 0.05, 1.0, 0.3, form, spread=None if form == "centroid" else spread)


# --- closed forms (theory §3) ---------------------------------------------------------------------
@entry
def symmetric_centroid():
    spec = _interior("centroid", True, 1)
    return Entry(spec, ref.heterogeneous(spec), potential=True, mild=True)


@entry
def symmetric_pairwise():
    spec = _interior("pairwise", True, 2)
    return Entry(spec, ref.heterogeneous(spec), potential=True, mild=True)


@entry
def heterogeneous_centroid():
    spec = _interior("centroid", False, 3)
    return Entry(spec, ref.heterogeneous(spec), potential=True, mild=True)


@entry
def heterogeneous_pairwise():
    spec = _interior("pairwise", False, 4)
    return Entry(spec, ref.heterogeneous(spec), potential=True, mild=True)


def _two_groups(alpha):
    gamma, delta, rho, target, appeal = 1.2, 0.5, 0.3, np.array([0.55, 0.45]), np.array([0.9, -0.1])
    K = np.array([[1, rho], [rho, 1]])
    spec = ref.Alignment(np.tile(target, (3, 1)), K, appeal, alpha, gamma, delta, consistency_metric="mixture")
    share = ref.two_groups(gamma, delta, rho, alpha, target, appeal)
    return Entry(spec, np.tile([share, 1 - share], (3, 1)), potential=True, mild=True)


@entry
def two_groups_interior():
    return _two_groups(0.4)


@entry
def two_groups_boundary():
    return _two_groups(2.5)


@entry
def water_filling():
    rng = _rng(5)
    b, h = rng.normal(size=(4, 3)), rng.uniform(0.5, 2.0, (4, 3))
    spec = ref.Quadratic(b, ref.Diagonal(h), ref.MeanField(np.zeros((3, 3))))
    rows = [ref.water_fill(b[i], lambda x, i=i: np.maximum(x, 0) / h[i]) for i in range(4)]
    return Entry(spec, np.array(rows), potential=True, mild=True)


@entry
def plain_projection():
    b = 1.5 * _rng(6).normal(size=(4, 3))
    spec = ref.Quadratic(b, 1.0, ref.MeanField(np.zeros((3, 3))))
    return Entry(spec, np.array([ref.project(x) for x in b]), potential=True, mild=True)


# --- alignment games with zeros, against Lemke ----------------------------------------------------
def _alignment(seed, n=4, D=3, potential=False, mean_field=True, monotone=True, **options):
    spec = ref.random_alignment(_rng(seed), n, D, **options)
    return Entry(spec, ref.solution(spec), potential=potential, mean_field=mean_field, monotone=monotone, mild=True)


@entry
def boundary_pairwise():
    return _alignment(10, attractiveness=0.9, potential=True)  # weighted by 1/δ_i


@entry
def boundary_pairwise_mixture():
    return _alignment(11, consistency_metric="mixture", attractiveness=0.8)


@entry
def boundary_centroid():
    return _alignment(12, diversity_form="centroid", consistency=2.0)


@entry
def boundary_centroid_mixture():
    return _alignment(
        13, diversity_form="centroid", consistency_metric="mixture", consistency=3.0, diversity=0.3, potential=True
    )


@entry
def common_weights():
    return _alignment(14, attractiveness=0.7, consistency=1.0, diversity=0.3, potential=True)


@entry
def unequal_reach():
    return _alignment(
        14, attractiveness=0.7, consistency=1.0, diversity=0.3, potential=True, reach=np.array([0.7, 0.2, 0.1, 0.0])
    )


@entry
def conformists_among_contrarians():
    return _alignment(15, diversity=np.array([0.6, -0.5, 0.5, -0.4]), attractiveness=0.8)


@entry
def directed_network():
    return _alignment(16, weights=ref.random_network(_rng(16), 4), mean_field=False)


@entry
def isolated_agent():
    return _alignment(17, weights=ref.random_network(_rng(17), 4, isolated=(2,)), mean_field=False)


@entry
def nobody_meets():
    return _alignment(18, weights=np.zeros((4, 4)), mean_field=False, potential=True)


@entry
def one_agent():
    return _alignment(19, n=1, potential=True)


@entry
def one_group():
    return _alignment(21, n=4, D=1)


@entry
def one_agent_one_group():
    return _alignment(22, n=1, D=1, potential=True)


@entry
def two_by_two():
    return _alignment(23, n=2, D=2)


@entry
def hundred_unknowns():
    return _alignment(24, n=20, D=6)


# --- degenerate games -----------------------------------------------------------------------------
@entry
def kink():
    """Weak complementarity: the third group has zero weight and zero multiplier, exactly representable."""
    W = np.tile([[0.75, 0.25, 0.0]], (4, 1))
    return Entry(ref.Quadratic(W, 1.0, ref.MeanField(np.zeros((3, 3)))), W, potential=True, mild=True)


@entry
def tied_appeals():
    """Groups 0 and 1 tie everywhere: equal shares; group 2 is excluded."""
    targets, appeal = np.full((4, 3), 1 / 3), np.array([1.0, 1.0, -2.0])
    spec = ref.Alignment(targets, np.eye(3), appeal, 0.5, 1.0, 0.3)
    return Entry(spec, np.tile([[0.5, 0.5, 0.0]], (4, 1)), potential=True, mild=True)


@entry
def identical_groups():
    """Groups 0 and 1 answer alike: with Q = K only the sum of their shares is determined."""
    K = np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]])
    spec = ref.Alignment(_rng(30).dirichlet(np.ones(3), 4), K, np.array([0.3, 0.3, -0.1]), 0.5, 1.0, 0.3)
    return Entry(spec, None, unique=False, potential=True)


@entry
def identical_groups_mixture():
    """The same groups with Q = I: unique, and the two shares are equal where the targets are."""
    K = np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]])
    spec = ref.Alignment(
        np.tile([[0.4, 0.4, 0.2]], (4, 1)), K, np.array([0.3, 0.3, -0.1]), 0.5, 1.0, 0.3, consistency_metric="mixture"
    )
    W = ref.solution(spec)
    assert np.abs(W[:, 0] - W[:, 1]).max() < 1e-13
    return Entry(spec, W, potential=True, mild=True)


@entry
def zero_kernel():
    """No metric at all: linear utilities, everybody at the most appealing group."""
    appeal = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [0.1, 0.2, 0.3], [-1.0, -2.0, -3.0]])
    spec = ref.Alignment(np.full((4, 3), 1 / 3), np.zeros((3, 3)), appeal, 1.0, 1.0, 0.3)
    return Entry(spec, np.eye(3)[[0, 1, 2, 0]], potential=True)


@entry
def nothing_at_all():
    """Zero kernel and equal appeals: every profile is an equilibrium."""
    spec = ref.Alignment(np.full((4, 3), 1 / 3), np.zeros((3, 3)), np.full(3, 0.7), 1.0, 1.0, 0.3)
    return Entry(spec, None, unique=False, potential=True)


@entry
def equal_appeals():
    """A common appeal moves nobody: without diversity everybody stays at the target, one group of which is zero."""
    targets = np.tile([[0.5, 0.5, 0.0]], (4, 1)) * 1.0
    targets[1] = [0.0, 0.25, 0.75]
    spec = ref.Alignment(targets, ref.random_kernel(_rng(31), 3), np.full(3, 5.0), 1.0, 1.0, 0.0)
    return Entry(spec, targets, potential=True, mild=True)


@entry
def untargeted_group():
    targets = np.tile([[0.6, 0.4, 0.0]], (4, 1))
    spec = ref.Alignment(targets, np.eye(3), _rng(32).normal(size=(4, 3)), 0.6, 1.0, 0.4)
    return Entry(spec, ref.solution(spec), potential=True, mild=True)


@entry
def zero_attractiveness_and_diversity():
    spec = ref.random_alignment(_rng(33), 4, 3, attractiveness=0.0, diversity=0.0)
    return Entry(spec, spec.targets, potential=True, mild=True)


@entry
def large_common_appeal():
    """A large constant in the appeal changes nothing but the rounding."""
    spec = ref.random_alignment(_rng(34), 4, 3, attractiveness=0.5, consistency=1.0, diversity=0.2)
    W = ref.solution(spec)
    return Entry(spec.replace(appeal=spec.appeal + 1024.0), W, potential=True, mild=True)


# --- quadratic games: every curvature and every coupling ------------------------------------------
def spd(rng, D, low=0.6):
    X = rng.normal(size=(D, D))
    return X @ X.T / D + low * np.eye(D)


def curvatures(rng, n, D):
    """One of each form in the contract."""
    return {
        "scalar": 1.3,
        "agent": rng.uniform(0.8, 2.0, n),
        "shared": spd(rng, D),
        "agents": np.array([spd(rng, D) for _ in range(n)]),
        "diagonal": ref.Diagonal(rng.uniform(0.8, 2.0, D)),
        "diagonals": ref.Diagonal(rng.uniform(0.8, 2.0, (n, D))),
        "scaled": ref.Scaled(rng.uniform(0.8, 2.0, n), spd(rng, D)),
    }


def couplings(rng, n, D):
    """One of each way to meet, none symmetric."""
    B = 0.4 * rng.normal(size=(D, D))
    reach, sensitivity = rng.dirichlet(np.ones(n)), rng.uniform(0.3, 1.2, n)
    signed = 0.4 * rng.normal(size=(n, n)) / np.sqrt(n) * (1 - np.eye(n))
    return {
        "nash": ref.MeanField(B, sensitivity, reach),
        "wardrop": ref.MeanField(B, sensitivity, reach, atomic=False),
        "others": ref.MeanField(B, sensitivity, reach, include_self=False),
        "plain": ref.MeanField(B),
        "network": ref.Network(signed, B),
        "network_identity": ref.Network(signed),
        "dense": ref.Dense(0.3 * rng.normal(size=(n, n, D, D)) / np.sqrt(n)),
    }


def _quadratic(curvature, coupling, seed):
    rng = _rng(seed)
    C, c = curvatures(rng, 4, 3)[curvature], couplings(rng, 4, 3)[coupling]
    spec = ref.Quadratic(1.5 * rng.normal(size=(4, 3)), C, c)
    return Entry(spec, ref.solution(spec), mean_field=isinstance(c, ref.MeanField), mild=True)


def _quadratic_entry(curvature, coupling, seed):
    GAMES[f"quadratic_{curvature}_{coupling}"] = lru_cache(maxsize=None)(lambda: _quadratic(curvature, coupling, seed))


# every form with one coupling, every coupling with two forms; the pairs are enough to tell an error in either
for _k, _name in enumerate(("scalar", "agent", "shared", "agents", "diagonal", "diagonals", "scaled")):
    _quadratic_entry(_name, "nash", 40 + _k)
for _k, _name in enumerate(("wardrop", "others", "plain", "network", "network_identity", "dense")):
    _quadratic_entry("scalar", _name, 50 + _k)
    _quadratic_entry("agents", _name, 60 + _k)


@entry
def unreached_agents():
    rng = _rng(70)
    coupling = ref.MeanField(0.8 * spd(rng, 3), 1.0, np.array([0.5, 0.0, 0.5, 0.0]))
    spec = ref.Quadratic(rng.normal(size=(4, 3)), spd(rng, 3), coupling)
    return Entry(spec, ref.solution(spec), mild=True)


@entry
def insensitive_agents():
    rng = _rng(71)
    coupling = ref.MeanField(0.8 * spd(rng, 3), np.array([0.0, 1.0, 0.0, 0.5]), atomic=False)
    b = rng.normal(size=(4, 3))
    spec = ref.Quadratic(b, 1.0, coupling)
    W = ref.solution(spec)
    assert max(np.abs(W[i] - ref.project(b[i])).max() for i in (0, 2)) < 1e-12
    return Entry(spec, W, mild=True)


def _bilinear(A):
    """Zero sum: agent 0 pays w_0ᵀ A w_1 to agent 1. Merely monotone, curvature zero."""
    D = len(A)
    B = np.zeros((2, 2, D, D))
    B[0, 1], B[1, 0] = A, -A.T
    spec = ref.Quadratic(np.zeros((2, D)), 0.0, ref.Dense(B))
    found = ref.all_equilibria(*spec.affine, spec.shape)
    assert len(found) == 1
    return Entry(spec, found[0], mean_field=False)


@entry
def matching_pennies():
    return _bilinear(np.array([[1.0, -1.0], [-1.0, 1.0]]))


@entry
def uneven_pennies():
    return _bilinear(np.array([[3.0, -1.0], [-2.0, 1.0]]))


@entry
def rock_paper_scissors():
    return _bilinear(np.array([[0.0, -1.0, 2.0], [2.0, 0.0, -1.0], [-1.0, 2.0, 0.0]]))


def _ill_conditioned(condition, symmetric, seed, n=10, D=8):
    spec, W = ref.planted(_rng(seed), ref.random_mean_field(_rng(seed), n, D, condition, symmetric))
    return Entry(spec, W, potential=symmetric)


@entry
def condition_10():
    spec, W = ref.planted(_rng(80), ref.random_mean_field(_rng(80), 10, 8, 10.0))
    return Entry(spec, W, potential=True, mild=True)


@entry
def condition_10_nonsymmetric():
    spec, W = ref.planted(_rng(81), ref.random_mean_field(_rng(81), 10, 8, 10.0, False))
    return Entry(spec, W, mild=True)


@entry
def condition_1e4():
    return _ill_conditioned(1e4, True, 82)


@entry
def condition_1e4_nonsymmetric():
    return _ill_conditioned(1e4, False, 83)


@entry
def condition_1e6():
    return _ill_conditioned(1e6, True, 84)


@entry
def condition_1e6_nonsymmetric():
    return _ill_conditioned(1e6, False, 85)


@entry
def condition_1e6_random():
    spec = ref.random_mean_field(_rng(86), 10, 8, 1e6, False)
    return Entry(spec, ref.solution(spec))


# --- concave games --------------------------------------------------------------------------------
def _quadratic_parts(seed, n=4, D=3):
    rng = _rng(seed)
    linear, curvature, B = (
        rng.normal(size=(n, D)),
        np.array([spd(rng, D) for _ in range(n)]),
        0.4 * rng.normal(size=(D, D)),
    )
    return rng, linear, curvature, B, dict(linear=linear, curvature=curvature, scale=np.ones(n))


@entry
def concave_mean():
    """The quadratic game with the mean of the others, given as a function."""
    _, linear, C, B, params = _quadratic_parts(90)
    W = ref.solution(ref.Quadratic(linear, C, ref.MeanField(4 / 3 * B, include_self=False)))
    params["B"] = np.tile(B, (4, 1, 1))
    return Entry(
        Concave(linear_quadratic, lambda p, w, s: p["curvature"] @ w - p["linear"] + p["B"] @ s, params, 3),
        W,
        mild=True,
    )


@entry
def concave_network():
    rng, linear, C, B, params = _quadratic_parts(91)
    weights = ref.random_network(rng, 4, isolated=(1,))
    W = ref.solution(ref.Quadratic(linear, C, ref.Network(weights, B)))
    params["B"] = np.tile(B, (4, 1, 1))
    spec = Concave(linear_quadratic, lambda p, w, s: p["curvature"] @ w - p["linear"] + p["B"] @ s, params, 3, weights)
    return Entry(spec, W, mean_field=False, mild=True)


@entry
def concave_profile():
    rng, linear, C, _, params = _quadratic_parts(92)
    params["B"] = 0.3 * rng.normal(size=(4, 4, 3, 3)) / 2
    W = ref.solution(ref.Quadratic(linear, C, ref.Dense(params["B"])))

    def marginal(p, w, s):
        return p["curvature"] @ w - p["linear"] + sum(b @ v for b, v in zip(p["B"], s, strict=True))

    return Entry(Concave(against_profile, marginal, params, 3, "profile"), W, mean_field=False, mild=True)


def _entropic_marginal(p, w, s):
    return -p["linear"] + p["B"] @ s + p["temperature"] * (1 + np.log(w))


@entry
def logit():
    """Uncoupled utility plus entropy: softmax, with a smallest weight of about 2 %."""
    linear = _rng(93).normal(size=(4, 3))
    params = dict(linear=linear, B=np.zeros((4, 3, 3)), temperature=np.full(4, 0.7), scale=np.ones(4))
    return Entry(Concave(entropic, _entropic_marginal, params, 3), ref.softmax(linear / 0.7), potential=True)


@entry
def quantal_response():
    """Logit responses to the mean of the others; the fixed point is a contraction, iterated to rest."""
    rng = _rng(94)
    linear, B, tau = rng.normal(size=(4, 3)), 0.3 * rng.normal(size=(3, 3)), 0.8
    W = np.full((4, 3), 1 / 3)
    for _ in range(500):
        W = ref.softmax((linear - (W.sum(axis=0) - W) / 3 @ B.T) / tau)
    params = dict(linear=linear, B=np.tile(B, (4, 1, 1)), temperature=np.full(4, tau), scale=np.ones(4))
    return Entry(Concave(entropic, _entropic_marginal, params, 3), W)


@entry
def shifted_logarithm():
    """Σ c_d log(w_d + ε), uncoupled: water-filling w_d = (c_d/μ - ε)₊, with zeros."""
    value = np.array([[3.0, 1.0, 0.1], [0.1, 4.0, 0.5], [1.0, 1.0, 1.0], [0.3, 0.2, 5.0]])
    params = dict(value=value, shift=np.full(4, 0.2), B=np.zeros((4, 3, 3)), scale=np.ones(4))
    W = np.array([_logarithmic_fill(c, 0.2) for c in value])
    assert (W == 0).any()
    spec = Concave(logarithmic, lambda p, w, s: -p["value"] / (w + p["shift"]) + p["B"] @ s, params, 3)
    return Entry(spec, W, potential=True)


def _logarithmic_fill(value, shift):
    low, high = 1e-9, 1e9
    for _ in range(300):
        mu = np.sqrt(low * high)
        low, high = (mu, high) if np.maximum(value / mu - shift, 0).sum() > 1 else (low, mu)
    return np.maximum(value / np.sqrt(low * high) - shift, 0)


@entry
def coupled_logarithm():
    """The same utilities in a crowd; unique because B is positive definite, solution by the KKT conditions only."""
    value = np.array([[3.0, 1.0, 0.1], [0.1, 4.0, 0.5], [1.0, 1.0, 1.0], [0.3, 0.2, 5.0]])
    params = dict(value=value, shift=np.full(4, 0.2), B=np.tile(0.3 * spd(_rng(95), 3), (4, 1, 1)), scale=np.ones(4))
    return Entry(Concave(logarithmic, lambda p, w, s: -p["value"] / (w + p["shift"]) + p["B"] @ s, params, 3))


@entry
def cubic_cost():
    """⟨b, w⟩ - Σ c_d w_d³/3, uncoupled: c_d w_d² = (b_d - μ)₊; the curvature vanishes at zero weight."""
    rng = _rng(96)
    linear, c = rng.normal(size=(4, 3)), rng.uniform(0.5, 3.0, (4, 3))
    W = np.array([ref.water_fill(linear[i], lambda x, i=i: np.sqrt(np.maximum(x, 0) / c[i])) for i in range(4)])
    params = dict(linear=linear, curvature=c, B=np.zeros((4, 3, 3)), scale=np.ones(4))
    spec = Concave(cubic, lambda p, w, s: p["curvature"] * w**2 - p["linear"] + p["B"] @ s, params, 3)
    return Entry(spec, W, potential=True)


# --- games without a guarantee --------------------------------------------------------------------
@entry
def many_equilibria():
    """Diversity beyond the uniqueness boundary, pairwise: several equilibria, each passing the KKT conditions."""
    spec = ref.Alignment(np.full((4, 3), 1 / 3), np.eye(3), np.zeros(3), 1.0, 0.2, 1.5)
    assert len(ref.all_equilibria(*spec.affine, spec.shape)) > 1
    return Entry(spec, None, monotone=False, unique=False, potential=True)


@entry
def convex_utilities():
    """Centroid diversity above consistency: utilities are convex, the KKT conditions are necessary only."""
    spec = ref.random_alignment(_rng(97), 4, 3, diversity_form="centroid", consistency=0.5, diversity=1.5)
    return Entry(spec, None, monotone=False, unique=False)


@entry
def shapley():
    """Shapley's bimatrix game: one equilibrium, uniform, that learning dynamics cycle around."""
    A = np.eye(3) * 1.0
    B = np.zeros((2, 2, 3, 3))
    B[0, 1], B[1, 0] = -A, -np.roll(A, 1, axis=1).T
    spec = ref.Quadratic(np.zeros((2, 3)), 0.0, ref.Dense(B))
    return Entry(spec, None, monotone=False, unique=False, mean_field=False)


@entry
def coordination():
    B = np.zeros((2, 2, 3, 3))
    B[0, 1] = B[1, 0] = -np.diag([3.0, 2.0, 1.0])
    spec = ref.Quadratic(np.zeros((2, 3)), 0.0, ref.Dense(B))
    return Entry(spec, None, monotone=False, unique=False, potential=True, mean_field=False)


@entry
def strong_conformism():
    return Entry(
        ref.random_alignment(_rng(98), 4, 3, diversity=-4.0), None, monotone=False, unique=False, potential=True
    )


def names(condition: Callable[[Entry], bool] = lambda e: True) -> list[str]:
    return [name for name, make in GAMES.items() if condition(make())]
