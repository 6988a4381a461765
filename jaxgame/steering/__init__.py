"""How to change what a population shows: sensitivity, inducement, floors, design (theory §5)."""

from jaxgame.steering import objectives
from jaxgame.steering.floor import steer_to_floor
from jaxgame.steering.induce import Inducement, induce, inducement
from jaxgame.steering.plan import Plan
from jaxgame.steering.scenarios import CVaR
from jaxgame.steering.sensitivity import Sensitivity, sensitivity
from jaxgame.steering.steer import steer

__all__ = [
    "CVaR",
    "Inducement",
    "Plan",
    "Sensitivity",
    "induce",
    "inducement",
    "objectives",
    "sensitivity",
    "steer",
    "steer_to_floor",
]
