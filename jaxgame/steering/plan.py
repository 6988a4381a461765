"""What every way of steering returns: a change, what it does, and the proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgame.certificate.certify import Certificate
from jaxgame.equilibrium import Equilibrium

NOTICED = 1e-6  # size of a change, relative to the largest of its kind, from which it is counted as one


@dataclasses.dataclass(frozen=True)
class Plan:
    """A change of a population and what becomes of it.

    theta: the levers as the plan sets them (`steer`), or the change itself (`steer_to_floor`: (D,) for the levers
    "price" and "common", (n, D) for "appeal" and "targets"). equilibrium: of the changed game, by a fresh solve.
    before: of the game as it was. history: dict of (steps,) arrays. certificate: of `equilibrium` in the changed game.
    success: the plan does what it was asked for, verified by the fresh solve. message: sentences; where success is
    False, why, and what comes nearest. cost: of the change. lever: what was changed. baseline: the levers before;
    rebuild: from levers like `theta` to the game. details: numbers that only some plans have, by name.
    """

    theta: Any
    equilibrium: Equilibrium
    before: Equilibrium
    history: dict[str, np.ndarray]
    certificate: Certificate
    success: bool
    message: str
    cost: float
    lever: str
    baseline: Any = None
    rebuild: Callable[[Any], Any] | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def guidance(self, groups: Sequence[str] | None = None, *, rows: int = 5) -> str:
        """What to change, for whom, by how much, what it costs and does; `groups`: their names (`guidance`)."""
        from jaxgame.steering.guidance import guidance

        return guidance(self, groups, rows)

    def _repr_html_(self) -> str:
        from jaxgame.report.notebook import plan_html

        return plan_html(self)
