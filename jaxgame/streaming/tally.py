"""Sums and maxima over the blocks of a pass, on the host and in double precision whatever the agents' is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxgame._pytree import pytree
from jaxgame.solvers.population import Answer
from jaxgame.streaming.passes import Facts


@pytree()
class Tally:
    """Blocks 0 … next − 1 of a pass; an update is a new one, so that an interruption never leaves half of one.

    mass, shown_mass: sums of the weights of S and of the representation. squares: (2,) sums of the squares of
    sensitivities and weights. Every field is an array, as checkpoints want it.
    """

    next: np.ndarray
    total: np.ndarray  # (D,)
    shown: np.ndarray  # (D,)
    mass: np.ndarray
    shown_mass: np.ndarray
    error: np.ndarray
    slip: np.ndarray
    gap: np.ndarray
    spread: np.ndarray
    own: np.ndarray
    pull: np.ndarray
    squares: np.ndarray  # (2,)
    concave: np.ndarray

    def plus(self, found: Answer, facts: Facts | None, mass: float, shown_mass: float) -> Tally:
        """With one more block."""

        def double(x: Any) -> np.ndarray:
            return np.asarray(x, np.float64)

        new = replace(
            self,
            next=self.next + 1,
            total=self.total + double(found.total),
            shown=self.shown + double(found.shown),
            mass=self.mass + mass,
            shown_mass=self.shown_mass + shown_mass,
            error=np.maximum(self.error, double(found.error)),
            slip=np.maximum(self.slip, double(found.slip)),
            gap=np.maximum(self.gap, double(found.gap)),
            spread=np.maximum(self.spread, double(found.spread)),
        )
        if facts is None:
            return new
        return replace(
            new,
            own=np.maximum(self.own, double(facts.own)),
            pull=np.maximum(self.pull, double(facts.pull)),
            squares=self.squares + np.stack([double(facts.sensitivity), double(facts.weight)]),
            concave=self.concave & np.asarray(facts.concave),
        )

    def anew(self) -> Tally:
        """For the next pass: with what is known of the agents whatever they answer."""
        fresh = empty(self.total.shape[0])
        return replace(fresh, own=self.own, pull=self.pull, squares=self.squares, concave=self.concave)


def empty(n_groups: int) -> Tally:
    zero, none = np.zeros(()), np.zeros(n_groups)
    return Tally(
        next=np.zeros((), np.int64),
        total=none,
        shown=none,
        mass=zero,
        shown_mass=zero,
        error=zero,
        slip=zero,
        gap=zero,
        spread=zero,
        own=zero,
        pull=zero,
        squares=np.zeros(2),
        concave=np.ones((), bool),
    )
