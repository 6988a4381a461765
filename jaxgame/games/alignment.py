"""The alignment game: attractiveness, consistency, diversity (theory §2).

This project's own instantiation of the model of arXiv 2602.06836.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import AffineMap, Blocks, Edges, averaged, column, per_agent
from jaxgame.games.coupling import Network
from jaxgame.games.members import Members, Rows
from jaxgame.linalg import dot

FORMS = ("pairwise", "centroid")
METRICS = ("response", "mixture")


@pytree(static=("diversity_form", "consistency_metric"))
class AlignmentGame:
    """Each agent weighs appeal, loyalty to its alignment target and difference from the other agents.

    U_i = α_i ⟨a_i, w_i⟩ − ½ γ_i (w_i − t_i)ᵀ Q (w_i − t_i) + δ_i · diversity(w_i, s̄_i), with s̄_i the mean of the other
    agents (or a network average), Q = K for consistency_metric "response" and Q = I for "mixture", and diversity
    ½ w_iᵀ Δ s̄_i ("pairwise", Δ_de = v_d + v_e − 2 K_de) or ½ (w_i − s̄_i)ᵀ K (w_i − s̄_i) ("centroid"). An agent
    that meets no one has diversity 0.

    targets t (n, D) rows on the simplex; kernel K (D, D) positive semidefinite; appeal a (n, D), or (D,) broadcast;
    attractiveness α ≥ 0, consistency γ ≥ 0, diversity δ of any sign: scalar or (n,); spread v (D,) ≥ diag(K), default
    diag(K); coupling None (mean of the others) or `Network` with averaging rows and no B; reach (n,) ≥ 0 summing to 1,
    the weights of the representation (they do not enter utilities), default uniform; multiplicity (n,) ≥ 1, default 1:
    row i stands for so many identical agents, who play alike and share reach_i (default: in proportion to their
    number); needs coupling None.

    Raises ValueError naming the argument, the first offending index and what was expected.
    """

    targets: Any
    kernel: Any
    appeal: Any
    attractiveness: Any = 1.0
    consistency: Any = 1.0
    diversity: Any = 0.0
    diversity_form: str = "pairwise"
    consistency_metric: str = "response"
    spread: Any = None
    coupling: Any = None
    reach: Any = None
    multiplicity: Any = None
    population: Any = None  # how many agents there are, with multiplicity
    replace: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        targets: Any,
        kernel: Any,
        appeal: Any,
        *,
        attractiveness: Any = 1.0,
        consistency: Any = 1.0,
        diversity: Any = 0.0,
        diversity_form: str = "pairwise",
        consistency_metric: str = "response",
        spread: Any = None,
        coupling: Network | None = None,
        reach: Any = None,
        multiplicity: Any = None,
    ):
        if diversity_form not in FORMS:
            raise ValueError(f"diversity_form is {diversity_form!r}, expected one of {FORMS}")
        if consistency_metric not in METRICS:
            raise ValueError(f"consistency_metric is {consistency_metric!r}, expected one of {METRICS}")
        if coupling is not None and not isinstance(coupling, Network):
            raise ValueError(
                f"coupling must be None (mean of the other agents) or a Network, got {type(coupling).__name__}"
            )
        dtype = _checks.float_dtype(
            targets,
            kernel,
            appeal,
            attractiveness,
            consistency,
            diversity,
            spread,
            reach,
            multiplicity,
            coupling and coupling.arrays,
        )
        targets = _checks.shares("targets", _checks.array("targets", targets, dtype, ("n", "D")), targets)
        n, n_groups = targets.shape
        if n == 0 or n_groups == 0:
            raise ValueError(f"targets has shape {targets.shape}, expected at least one agent and one group")
        kernel = _checks.array("kernel", kernel, dtype, (n_groups, n_groups))
        _checks.positive_semidefinite("kernel", kernel)
        appeal = jnp.broadcast_to(_checks.array("appeal", appeal, dtype, (n, n_groups), (n_groups,)), (n, n_groups))
        weights = {
            name: _checks.array(name, value, dtype, (), (n,))
            for name, value in dict(attractiveness=attractiveness, consistency=consistency, diversity=diversity).items()
        }
        _checks.nonnegative("attractiveness", weights["attractiveness"])
        _checks.nonnegative("consistency", weights["consistency"])
        defaulted = tuple(name for name, value in dict(spread=spread, reach=reach).items() if value is None)
        own = jnp.diagonal(kernel)
        if spread is not None:
            spread = _checks.array("spread", spread, dtype, (n_groups,))
            if _checks.concrete(spread) and _checks.concrete(kernel):
                given, least = np.asarray(spread), np.asarray(kernel).diagonal()  # numpy: within jit, too
                slack = 10 * n_groups * np.finfo(given.dtype).eps * np.abs(least).max()
                if (bad := given < least - slack).any():
                    d = int(bad.argmax())
                    raise ValueError(f"spread[{d}] is {given[d]}, expected at least the kernel's diagonal {least[d]}")
        if coupling is not None:
            coupling = coupling.sized(n, n_groups, dtype)
            if coupling.B is not None:
                raise ValueError(
                    "coupling.B is set, expected None: in an AlignmentGame the kernel says how agents meet"
                )
            _checks.averaging("coupling.weights", coupling.weights)
        if multiplicity is not None:
            if coupling is not None:
                raise ValueError("multiplicity is set, expected None for agents on a network")
            multiplicity = _checks.array("multiplicity", multiplicity, dtype, (n,))
            _checks.at_least_one("multiplicity", multiplicity)
        if reach is not None:
            reach = _checks.shares("reach", _checks.array("reach", reach, dtype, (n,)), reach)
        else:
            reach = jnp.full(n, 1 / n, dtype) if multiplicity is None else multiplicity / multiplicity.sum()
        assign(
            self,
            targets=targets,
            kernel=kernel,
            appeal=appeal,
            diversity_form=diversity_form,
            consistency_metric=consistency_metric,
            spread=own if spread is None else spread,
            coupling=coupling,
            reach=reach,
            multiplicity=multiplicity,
            population=None if multiplicity is None else multiplicity.sum(),
            _defaulted=defaulted,
            **weights,
        )

    @property
    def is_aggregative(self) -> bool:
        """Whether agents meet only through a mean."""
        return self.coupling is None

    @property
    def n_agents(self) -> int:
        return self.targets.shape[-2]

    @property
    def n_groups(self) -> int:
        return self.targets.shape[-1]

    def others(self, profile: Array) -> Array:
        """s̄: what each agent sees of the others, (n, D); zeros for an agent that meets no one."""
        if self.coupling is not None:
            return self.coupling.factor @ profile
        n = self.n_agents
        if self.multiplicity is not None:
            total = averaged(self.multiplicity, profile)
            alone = self.population <= 1
            return jnp.where(alone, 0, (total[None] - profile) / jnp.where(alone, 1, self.population - 1))
        if n == 1:
            return jnp.zeros_like(profile)
        total = averaged(jnp.ones(n, profile.dtype), profile)
        return (total[None] - profile) / (n - 1)

    def utilities(self, profile: Array) -> Array:
        """U_i, (n,)."""
        others = self.others(profile)
        away = profile - self.targets
        appeal = (self.appeal * profile).sum(-1)
        distance = (away * self._metric(away)).sum(-1) / 2
        if self.diversity_form == "pairwise":
            diversity = (profile * self._dissimilarity(others)).sum(-1) / 2
        else:
            apart = (profile - others) * self._meeting(others)
            diversity = (apart * dot(apart, self.kernel)).sum(-1) / 2
        return self.attractiveness * appeal - self.consistency * distance + self.diversity * diversity

    def marginals(self, profile: Array) -> Array:
        """g_i = ∂U_i/∂w_i, (n, D)."""
        others = self.others(profile)
        if self.diversity_form == "pairwise":
            diversity = self._dissimilarity(others) / 2
        else:
            diversity = dot((profile - others) * self._meeting(others), self.kernel)
        consistency = self._metric(profile - self.targets)
        return (
            column(self.attractiveness) * self.appeal
            - column(self.consistency) * consistency
            + column(self.diversity) * diversity
        )

    def affine(self) -> AffineMap:
        """The game map, up to multiples of 1 an agent (they change no equilibrium)."""
        if self.coupling is None:
            return self.members(lambda x: x).affine()
        diversity = per_agent(self.diversity, self.n_agents) * self._present()
        linear, curvature = self._alone(diversity, lambda x: x)
        coupling = Edges(diversity, self.coupling.weights, self.coupling.factor, self.kernel)
        return AffineMap(linear, curvature, coupling)

    def members(self, rows: Rows, population: int | None = None) -> Members:
        """Some agents of a population that meets as a whole: `rows` picks their rows of any (n, …).

        population: how many agents meet, where the game is itself a part of a larger one.
        """
        n = self.n_agents if population is None else population
        diversity = rows(per_agent(self.diversity, self.n_agents))
        weight = share = None
        if self.multiplicity is None:
            diversity, n_others = diversity * float(n > 1), max(n - 1, 1)
        else:
            n = self.population
            diversity, n_others = jnp.where(n > 1, diversity, 0), jnp.where(n > 1, n - 1, 1)
            share = jnp.full_like(diversity, 1) / n
            weight = rows(self.multiplicity) / n
        linear, curvature = self._alone(diversity, rows)
        # The mean of the others is n/(n−1) of the population's mean, less the agent's own share of it.
        sensitivity = diversity * (n / n_others)
        own, B = -sensitivity / n, self.kernel
        weight = jnp.full_like(sensitivity, 1 / n) if weight is None else weight
        return Members(linear, curvature, own, B, sensitivity, B, weight, rows(self.reach), False, share)

    def _alone(self, diversity: Array, rows: Rows) -> tuple[Array, Blocks]:
        """Linear utilities (b, D) and own curvature, as if the others' mean did not contain the agent."""
        K = self.kernel
        attractiveness, consistency = (
            rows(per_agent(x, self.n_agents)) for x in (self.attractiveness, self.consistency)
        )
        linear = attractiveness[:, None] * rows(self.appeal) + consistency[:, None] * self._metric(rows(self.targets))
        diagonal, terms = jnp.zeros((1, 1), K.dtype), []
        if self.consistency_metric == "mixture":
            diagonal = consistency[:, None] if self.consistency.ndim else self.consistency.reshape(1, 1)
        else:
            terms.append((consistency, K))
        if self.diversity_form == "pairwise":
            linear = linear + diversity[:, None] * self.spread[None] / 2
        elif self.consistency_metric == "response":
            terms = [(consistency - diversity, K)]
        else:
            terms.append((-diversity, K))
        return linear, Blocks(diagonal, tuple(terms))

    def _metric(self, x: Array) -> Array:
        return dot(x, self.kernel) if self.consistency_metric == "response" else x

    def _dissimilarity(self, others: Array) -> Array:
        """Δ s̄ with Δ_de = v_d + v_e − 2 K_de; zero where s̄ is."""
        mass = others.sum(-1, keepdims=True)
        return mass * self.spread[None] + dot(others, self.spread)[:, None] - 2 * dot(others, self.kernel)

    def _meeting(self, others: Array) -> Array:
        """1 for agents that meet someone, as a column."""
        return others.sum(-1, keepdims=True)

    def _present(self) -> Array:
        """1 for agents that meet someone, 0 for the rest, (n,)."""
        n = self.n_agents
        if self.coupling is None:
            return jnp.full(n, float(n > 1), self.kernel.dtype)
        return (self.coupling.factor @ jnp.ones((n, 1), self.kernel.dtype))[:, 0]
