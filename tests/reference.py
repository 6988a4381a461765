"""Reference results in plain numpy and scipy, written from the formulas with explicit loops, without the library.

`Alignment` and `Quadratic` mirror the public constructors and evaluate utilities and the game map F = -dU_i/dw_i.
`affine` turns either into the matrix form F(x) = M x + q, which `vi_solution` (Lemke, then one refined linear solve on
the support), `all_equilibria` (enumeration) and `potential_minimum` (SLSQP) solve. `kkt_error` judges any profile.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize


# --- games ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Alignment:
    """The alignment game of theory §2; `weights` is the dense network, None the mean of the other agents."""

    targets: np.ndarray
    kernel: np.ndarray
    appeal: np.ndarray
    attractiveness: Any = 1.0
    consistency: Any = 1.0
    diversity: Any = 0.0
    diversity_form: str = "pairwise"
    consistency_metric: str = "response"
    spread: Any = None
    weights: Any = None
    reach: Any = None

    @property
    def shape(self):
        return self.targets.shape

    def _agent(self, i, W):
        """α, γ, δ, a, Q and what agent i sees of the others, with a flag for seeing anybody at all."""
        n, D = self.shape
        seen, meets = np.zeros(D), False
        for j in range(n):
            weight = self.weights[i, j] if self.weights is not None else (i != j) / max(n - 1, 1)
            seen = seen + weight * W[j]
            meets = meets or weight != 0
        a, g, d = (np.broadcast_to(x, (n,))[i] for x in (self.attractiveness, self.consistency, self.diversity))
        metric = self.kernel if self.consistency_metric == "response" else np.eye(D)
        return a, g, d * meets, np.broadcast_to(self.appeal, (n, D))[i], metric, seen

    def _variance(self):
        return np.diag(self.kernel) if self.spread is None else self.spread

    def utilities(self, W):
        K, v, out = self.kernel, self._variance(), []
        for i, w in enumerate(W):
            a, g, d, appeal, Q, seen = self._agent(i, W)
            gap = w - self.targets[i]
            if self.diversity_form == "centroid":
                diversity = 0.5 * (w - seen) @ K @ (w - seen)
            else:
                diversity = 0.0
                for k, e in itertools.product(range(len(w)), repeat=2):
                    diversity += 0.5 * w[k] * seen[e] * (v[k] + v[e] - 2 * K[k, e])
            out.append(a * appeal @ w - 0.5 * g * gap @ Q @ gap + d * diversity)
        return np.array(out)

    def game_map(self, W):
        K, v, out = self.kernel, self._variance(), []
        for i, w in enumerate(W):
            a, g, d, appeal, Q, seen = self._agent(i, W)
            F = g * Q @ (w - self.targets[i]) - a * appeal + d * K @ seen
            F = F - d * K @ w if self.diversity_form == "centroid" else F - 0.5 * d * (v * seen.sum() + v @ seen)
            out.append(F)
        return np.array(out)

    def representation(self, W):
        return sum(m * w for m, w in zip(_reach(self.reach, len(W)), W, strict=True))

    def scaled(self, s):
        return self.replace(
            attractiveness=s * self.attractiveness, consistency=s * self.consistency, diversity=s * self.diversity
        )

    def replace(self, **changes):
        return type(self)(**{f: changes.get(f, getattr(self, f)) for f in self.__dataclass_fields__})

    @cached_property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        return affine(self)


@dataclass(frozen=True)
class MeanField:
    B: np.ndarray
    sensitivity: Any = 1.0
    reach: Any = None
    atomic: bool = True
    include_self: bool = True


@dataclass(frozen=True)
class Network:
    weights: np.ndarray
    B: Any = None


@dataclass(frozen=True)
class Dense:
    B: np.ndarray


@dataclass(frozen=True)
class Diagonal:
    h: np.ndarray


@dataclass(frozen=True)
class Scaled:
    q: np.ndarray
    Q: np.ndarray


@dataclass(frozen=True)
class Quadratic:
    """U_i = linear_i·w_i - ½ w_iᵀ C_i w_i - w_iᵀ (what i meets), every form of C and of the meeting in the contract."""

    linear: np.ndarray
    curvature: Any
    coupling: Any

    @property
    def shape(self):
        return self.linear.shape

    def _curvature(self, i):
        n, D = self.shape
        C = self.curvature
        if isinstance(C, Diagonal):
            return np.diag(C.h[i] if np.ndim(C.h) == 2 else C.h)
        if isinstance(C, Scaled):
            return C.q[i] * C.Q
        return {0: lambda: C * np.eye(D), 1: lambda: C[i] * np.eye(D), 2: lambda: C, 3: lambda: C[i]}[np.ndim(C)]()

    def _meets(self, i, W):
        n, D = self.shape
        c, total = self.coupling, np.zeros(D)
        for j in range(n):
            if isinstance(c, MeanField):
                if j != i or c.include_self:
                    weight = np.broadcast_to(c.sensitivity, (n,))[i] * _reach(c.reach, n)[j]
                    total = total + weight * c.B @ W[j]
            elif j != i:
                B = c.B[i, j] if isinstance(c, Dense) else c.weights[i, j] * (np.eye(D) if c.B is None else c.B)
                total = total + B @ W[j]
        return total

    def utilities(self, W):
        pairs = enumerate(W)
        return np.array(
            [self.linear[i] @ w - 0.5 * w @ self._curvature(i) @ w - w @ self._meets(i, W) for i, w in pairs]
        )

    def game_map(self, W):
        out, c, n = [], self.coupling, len(W)
        for i, w in enumerate(W):
            F = self._curvature(i) @ w - self.linear[i] + self._meets(i, W)
            if isinstance(c, MeanField) and c.include_self and c.atomic:  # the own share of S responds to w_i
                F = F + np.broadcast_to(c.sensitivity, (n,))[i] * _reach(c.reach, n)[i] * c.B.T @ w
            out.append(F)
        return np.array(out)

    def representation(self, W):
        reach = self.coupling.reach if isinstance(self.coupling, MeanField) else None
        return sum(m * w for m, w in zip(_reach(reach, len(W)), W, strict=True))

    def scaled(self, s):
        C, c = self.curvature, self.coupling
        C = Diagonal(s * C.h) if isinstance(C, Diagonal) else Scaled(s * C.q, C.Q) if isinstance(C, Scaled) else s * C
        if isinstance(c, MeanField):
            c = MeanField(s * c.B, c.sensitivity, c.reach, c.atomic, c.include_self)
        elif isinstance(c, Dense):
            c = Dense(s * c.B)
        else:
            c = Network(c.weights, s * (np.eye(self.shape[1]) if c.B is None else c.B))
        return Quadratic(s * self.linear, C, c)

    @cached_property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        return affine(self)


def _reach(reach, n):
    return np.full(n, 1 / n) if reach is None else reach


# --- judging a profile ----------------------------------------------------------------------------
def project(y):
    """Euclidean projection of one vector on the simplex, by trying every support size."""
    for k in range(len(y), 0, -1):
        top = np.sort(y)[::-1][:k]
        threshold = (top.sum() - 1) / k
        if top[-1] > threshold or k == 1:
            return np.maximum(y - threshold, 0)
    raise AssertionError("unreachable")


def tangent_basis(D):
    """Orthonormal basis (D, D-1) of {v : Σ v = 0}."""
    return scipy.linalg.null_space(np.ones((1, D))) if D > 1 else np.zeros((1, 0))


def affine(game) -> tuple[np.ndarray, np.ndarray]:
    """(M, q) with F(x) = M x + q for the flattened profile, by probing the game map."""
    n, D = game.shape
    M = np.zeros((n * D, n * D))
    # the map is affine in a profile whose rows have a sum: probe around the uniform one, where everybody is met
    base = np.full((n, D), 1 / D)
    centre = game.game_map(base).ravel()
    for k in range(n * D):
        bumped = base.copy()
        bumped[k // D, k % D] += 1.0
        M[:, k] = game.game_map(bumped).ravel() - centre
    return M, centre - M @ base.ravel()


def constants(M, shape) -> tuple[float, float]:
    """(c, L): strong monotonicity and Lipschitz constant of x -> M x on the tangent space of the profile."""
    n, D = shape
    Z = np.kron(np.eye(n), tangent_basis(D))
    J = Z.T @ M @ Z
    return (float(np.linalg.eigvalsh((J + J.T) / 2)[0]), float(np.linalg.norm(J, 2))) if J.size else (np.inf, 0.0)


def scale(game_map, shape, lipschitz):
    """σ of theory §1: what makes a residual independent of the unit of utility."""
    F = game_map(np.full(shape, 1 / shape[1]))
    return max(lipschitz, np.abs(F - F.mean(axis=1, keepdims=True)).max())


def feasibility_error(W):
    return max(np.abs(W.sum(axis=1) - 1).max(), -W.min())


def residual(F, W, sigma):
    """Scale-free natural residual of theory §1; F the value of the game map at W."""
    if sigma == 0:
        return 0.0
    return max(np.abs(w - project(w - f / sigma)).max() for w, f in zip(W, F, strict=True))


def kkt_error(F, W, sigma=1.0):
    """Largest violation of the multiplier form: feasibility, and min(w_id, ν_id/σ) with ν_id = max_e g_ie - g_id."""
    worst = feasibility_error(W)
    for w, f in zip(W, F, strict=True):
        slack = f - f.min()
        for weight, nu in zip(w, slack, strict=True):
            worst = max(worst, min(weight, nu / sigma if sigma else 0.0))
    return worst if np.isfinite(W).all() and np.isfinite(F).all() else np.inf


def gap(F, W):
    """max_d g_id - ⟨g_i, w_i⟩ for each agent."""
    return np.array([w @ f - f.min() for w, f in zip(W, F, strict=True)])


# --- exact solutions of affine variational inequalities on products of simplices ------------------
def lemke(M, q):
    """z ≥ 0, M z + q ≥ 0, zᵀ(M z + q) = 0 by Lemke's algorithm, lexicographic ratio test; (z, basic mask of z)."""
    N = len(q)
    if q.min() >= 0:
        return np.zeros(N), np.zeros(N, bool)
    table = np.hstack([np.eye(N), -M, -np.ones((N, 1)), q[:, None]])
    basis, cover = list(range(N)), 2 * N
    tie = 1e-11

    def pivot(row, column):
        table[row] /= table[row, column]
        others = np.arange(N) != row
        table[others] -= np.outer(table[others, column], table[row])
        left, basis[row] = basis[row], column
        return left

    row = max(k for k in range(N) if q[k] <= q.min())  # among equal q the last unit row is lexicographically smallest
    left = pivot(row, cover)
    for _ in range(50 * N + 100):
        entering = left + N if left < N else left - N
        column = table[:, entering]
        rows = np.flatnonzero(column > tie * max(1.0, np.abs(column).max()))
        if not rows.size:
            raise RuntimeError("Lemke ended on a ray")
        for key in [table[:, -1], *table[:, :N].T]:
            ratios = key[rows] / column[rows]
            rows = rows[ratios <= ratios.min() + tie * max(1.0, np.abs(ratios).max())]
            leaving_cover = [r for r in rows if basis[r] == cover]
            rows = np.array(leaving_cover) if leaving_cover else rows
            if rows.size == 1:
                break
        left = pivot(rows[0], entering)
        if left == cover:
            z, basic = np.zeros(N), np.zeros(N, bool)
            for r, variable in enumerate(basis):
                if variable >= N:
                    z[variable - N], basic[variable - N] = table[r, -1], True
            return z, basic
    raise RuntimeError("Lemke did not end")


def on_support(M, q, support):
    """(W, μ, condition) of the KKT system with w_id = 0 off the support, refined in extended precision."""
    n, D = support.shape
    S = np.flatnonzero(support)
    sigma = max(np.abs(M).max(), np.abs(q).max(), np.finfo(float).tiny)
    M, q = M / sigma, q / sigma
    E = (np.arange(n)[:, None] == S[None, :] // D).astype(float)
    A = np.block([[M[np.ix_(S, S)], -E.T], [E, np.zeros((n, n))]])
    b = np.concatenate([-q[S], np.ones(n)])
    x = np.linalg.lstsq(A, b, rcond=1e-14)[0]
    wide_A, wide_b, x = A.astype(np.longdouble), b.astype(np.longdouble), x.astype(np.longdouble)
    condition = np.linalg.cond(A)
    for _ in range(4 if condition < 1e13 else 0):
        x = x + np.linalg.solve(A, (wide_b - wide_A @ x).astype(float))
    W = np.zeros(n * D)
    W[S] = x[: len(S)]
    return W.reshape(n, D), sigma * x[len(S) :].astype(float), condition


def vi_solution(M, q, shape, tolerance=1e-14):
    """One equilibrium of F(x) = M x + q on a product of simplices: exact pivoting, then a refined linear solve.

    Adding a constant to a block of M or to q_i changes F_i by a multiple of 1 only, hence no equilibrium; with all of
    them positive Σ_d w_id = 1 may be relaxed to ≥ 1, the matrix is copositive, and Lemke cannot end on a ray.
    """
    n, D = shape
    sigma = max(np.abs(M).max(), np.abs(q).max(), np.finfo(float).tiny)
    blocks = (M / sigma).reshape(n, D, n, D)
    positive = (blocks - blocks.min(axis=(1, 3), keepdims=True) + 0.1).reshape(n * D, n * D)
    constant = (q / sigma).reshape(shape)
    constant = (constant - constant.min(axis=1, keepdims=True) + 0.1).ravel()
    E = np.kron(np.eye(n), np.ones((1, D)))
    matrix = np.block([[positive, -E.T], [E, np.zeros((n, n))]])
    _, basic = lemke(matrix, np.concatenate([constant, -np.ones(n)]))
    W, _, _ = on_support(M, q, basic[: n * D].reshape(shape))
    W = np.where(np.abs(W) < 1e-13, 0.0, W)
    F = ((M @ W.ravel() + q) / sigma).reshape(shape)
    error = kkt_error(F, W)
    if error > tolerance:
        raise RuntimeError(f"reference solution has KKT error {error:.1e}")
    return W


def solution(game):
    """One equilibrium of an `Alignment` or `Quadratic` game."""
    M, q = game.affine
    return vi_solution(M, q, game.shape)


def all_equilibria(M, q, shape, tolerance=1e-10):
    """Every isolated equilibrium, by enumerating joint supports (tiny games only)."""
    n, D = shape
    rows = [np.array(s, bool) for s in itertools.product([False, True], repeat=D) if any(s)]
    sigma, found = max(np.abs(M).max(), np.abs(q).max()), []
    for support in itertools.product(rows, repeat=n):
        W, _, condition = on_support(M, q, np.array(support))
        F = ((M @ W.ravel() + q) / sigma).reshape(shape)
        if condition < 1e12 and kkt_error(F, W) < tolerance and all(np.abs(W - V).max() > 1e-8 for V in found):
            found.append(W)
    return found


def potential_minimum(M, q, shape, weights=None):
    """Minimiser of the weighted potential ½ xᵀ R M x + (R q)ᵀ x by SLSQP, with the potential; R M must be symmetric."""
    n, D = shape
    r = np.repeat(np.ones(n) if weights is None else weights, D)
    H, b = r[:, None] * M, r * q
    Z = np.kron(np.eye(n), tangent_basis(D))
    assert np.abs(Z.T @ (H - H.T) @ Z).max() < 1e-10 * np.abs(H).max()
    H = (H + H.T) / 2  # the antisymmetric part acts on multiples of 1 alone; absorb its constant effect below
    b = b + (r[:, None] * M - H) @ np.full(n * D, 1 / D)
    E = np.kron(np.eye(n), np.ones((1, D)))

    def potential(x):
        return 0.5 * x @ H @ x + b @ x

    best = scipy.optimize.minimize(
        potential,
        np.full(n * D, 1 / D),
        jac=lambda x: H @ x + b,
        method="SLSQP",
        bounds=[(0, 1)] * (n * D),
        constraints=[{"type": "eq", "fun": lambda x: E @ x - 1, "jac": lambda x: E}],
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return best.x.reshape(shape), potential


# --- closed forms of theory §3 --------------------------------------------------------------------
def on_tangent(K, x):
    """c_K(x): y with Σ y = 0 and K y = x up to a multiple of 1."""
    Z = tangent_basis(len(x))
    return Z @ np.linalg.solve(Z.T @ K @ Z, Z.T @ x)


def heterogeneous(spec):
    """Interior equilibrium for common α, γ, δ and uniform coupling, n ≥ 2 (theory §3.1 and §3.2)."""
    n, D = spec.shape
    K, T, A = spec.kernel, spec.targets, np.broadcast_to(spec.appeal, spec.shape)
    alpha, gamma, delta = float(spec.attractiveness), float(spec.consistency), float(spec.diversity)
    t, a = T.mean(axis=0), A.mean(axis=0)
    if spec.diversity_form == "centroid":
        mean, spread_factor = t + alpha / gamma * on_tangent(K, a), gamma - delta * n / (n - 1)
    else:
        uniform = np.full(D, 1 / D)
        v = np.diag(K) if spec.spread is None else spec.spread
        right = gamma * K @ t + alpha * a + 0.5 * delta * v
        mean = uniform + on_tangent(K, right / (gamma + delta) - K @ uniform)
        spread_factor = gamma - delta / (n - 1)
    rows = [mean + (gamma * (T[i] - t) + alpha * on_tangent(K, A[i] - a)) / spread_factor for i in range(n)]
    W = np.array(rows)
    assert W.min() > 0, "the formula holds in the interior only"
    return W


def two_groups(gamma, delta, rho, alpha, target, appeal):
    """Share of group 1, D = 2, symmetric, Q = I, pairwise, equal spreads (theory §3.3)."""
    tilt = (gamma * (target[0] - target[1]) + alpha * (appeal[0] - appeal[1])) / (2 * (gamma + delta * (1 - rho)))
    return np.clip(0.5 + tilt, 0, 1)


def water_fill(b, share, low=-1e6, high=1e6):
    """w_d = share(b_d - μ) with μ found by bisection so that Σ w = 1; share(x) = 0 for x ≤ 0, increasing."""
    for _ in range(300):
        mu = 0.5 * (low + high)
        low, high = (mu, high) if share(np.asarray(b) - mu).sum() > 1 else (low, mu)
    return share(np.asarray(b) - 0.5 * (low + high))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# --- random games ---------------------------------------------------------------------------------
def random_kernel(rng, D, ridge=0.2):
    X = rng.normal(size=(D, D))
    return X @ X.T / D + ridge * np.eye(D)


def random_alignment(rng, n, D, **options):
    """Heterogeneous α, γ and δ inside the uniqueness region, appeals large enough for zeros."""
    defaults = dict(
        attractiveness=rng.uniform(0.2, 0.8, n),
        consistency=rng.uniform(1.0, 2.0, n),
        diversity=rng.uniform(0.0, 0.4, n),
    )
    return Alignment(
        rng.dirichlet(np.ones(D), n), random_kernel(rng, D), rng.normal(size=(n, D)), **(defaults | options)
    )


def random_mean_field(rng, n, D, condition=10.0, symmetric=True):
    """Q_i = q_i V diag(1 … condition) Vᵀ, interaction (2/n) C Σ_{j≠i} w_j, C PSD of norm 1 (plus a skew part)."""
    V = np.linalg.qr(rng.normal(size=(D, D)))[0]
    Q = V @ np.diag(np.geomspace(1.0, condition, D)) @ V.T
    X = rng.normal(size=(D, D))
    C = X @ X.T
    C /= np.linalg.norm(C, 2)
    if not symmetric:
        skew = rng.normal(size=(D, D))
        skew -= skew.T
        C = C + 0.5 * skew / max(np.linalg.norm(skew, 2), 1e-300)
    q, linear = rng.uniform(0.5, 1.5, n), rng.normal(size=(n, D)) * np.sqrt(condition)
    return Quadratic(linear, Scaled(q, (Q + Q.T) / 2), MeanField(2.0 * C, include_self=False))


def planted(rng, game, zeros=0.65, margin=0.1):
    """`game` with its linear term such that a random profile with that share of zeros is its equilibrium; and that."""
    n, D = game.shape
    W, F = np.zeros((n, D)), np.zeros((n, D))
    for i in range(n):
        support = rng.permutation(D)[: max(1, round((1 - zeros) * D + rng.uniform(-0.5, 0.5)))]
        W[i, support] = rng.dirichlet(np.full(len(support), 3.0))
    slack = np.where(W > 0, 0.0, rng.uniform(margin, 1 + margin, (n, D)))
    F = game.game_map(W)
    game = Quadratic(game.linear + F - slack - rng.normal(size=(n, 1)), game.curvature, game.coupling)
    exact, _, _ = on_support(*game.affine, W > 0)
    assert exact[W > 0].min() > 0 and kkt_error(game.game_map(exact), exact, np.abs(game.affine[0]).max()) < 1e-12
    return game, exact


def random_network(rng, n, density=0.5, isolated=()):
    """Directed weights with zero diagonal and rows summing to one, or to zero for `isolated` agents."""
    weights = rng.uniform(0.2, 1.0, (n, n)) * (rng.uniform(size=(n, n)) < density)
    for i in range(n):
        weights[i, (i + 1) % n] += 0.5
        weights[i, i] = 0.0
        weights[i] = 0.0 if i in isolated or not weights[i].any() else weights[i] / weights[i].sum()
    return weights
