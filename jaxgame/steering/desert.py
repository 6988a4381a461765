"""Ways out of the gradient desert: plateaus on which no gradient of representation shows where to go (theory §4).

Where a group is left out, the derivative of its representation is 0, and descent on the objective stops although
inclusion may be near. Two ways on, both with a merit that agrees with the objective where groups are represented:

* signed representation: add to the merit what ν_id, the distance from entry, would be worth to the objective. ν is
  continuous, has a derivative just where representation has none, and vanishes at entry. (Handing the objective w − ν
  itself would do the same, but objectives need not make sense of negative shares.)
* barrier continuation: descend at equilibria smoothed by τ Σ log w, with τ falling in stages.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxgame.steering.descent import descend, minimise, never
from jaxgame.steering.problem import EXACT, Merit, Point
from jaxgame.steering.search import Proof, Search

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # of the signed term, against a cost that holds the levers back
TEMPERATURES = (0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)  # of the barrier, in units of the game's scale of utility
ROUNDS = 10  # of letting groups in that others have pushed out
STAGE = 20  # steps at one temperature
GLANCE = 30  # steps of an excursion where nothing says that there is something to find


def cross(search: Search, point: Point, proof: Proof) -> tuple[Point, Proof]:
    """From a stationary point of the objective to better ones, as long as there are any that a way leads to.

    Without a goal the signed objective is followed only for a few steps, and only towards groups that no agent
    represents; with one that is not met, in all earnest, and the barrier is the last resort.
    """
    search.prove(point, proof)
    while search.goal is None or not search.reaches(point):
        landed = _signed(search, point)
        if landed is None and search.goal is not None:
            landed = _barrier(search, point)
        if landed is None:
            break
        point, proof = landed
        search.prove(point, proof)
    return point, proof


def _signed(search: Search, stuck: Point) -> tuple[Point, Proof] | None:
    """Along signed representation, by a merit that weighs it more and more; None if nothing better is found.

    To let one group in may push another out, which is then weighed as well.
    """
    earnest = search.goal is not None
    here, appetite = stuck, search.problem.appetite(stuck)
    if not earnest:
        appetite = jnp.where((stuck.equilibrium.signed < 0).all(-2, keepdims=True), appetite, 0)
    for strength in STRENGTHS if earnest else STRENGTHS[:1]:
        for _ in range(ROUNDS if earnest else 1):
            if not bool((appetite > 0).any()):
                return None
            merit = Merit("signed", weights=strength * appetite)
            start = search.again(here, merit)
            reached = descend(
                search, start, merit, lambda point: search.better(point, stuck), None if earnest else GLANCE
            )
            here = search.again(reached, EXACT)
            if search.better(here, stuck):
                break
            wider = jnp.maximum(appetite, search.problem.appetite(here))
            if bool((wider <= 2 * appetite).all()):
                break
            appetite = wider
        landed = minimise(search, here)
        if search.better(landed[0], stuck):
            return landed
    return None


def _barrier(search: Search, stuck: Point) -> tuple[Point, Proof] | None:
    """Through smoothed equilibria; None if nothing better is found."""
    point = stuck
    for temperature in TEMPERATURES:
        merit = Merit("barrier", temperature=temperature)
        point = descend(search, search.again(point, merit), merit, never, STAGE)
    landed = minimise(search, search.again(point, EXACT))
    return landed if search.better(landed[0], stuck) else None
