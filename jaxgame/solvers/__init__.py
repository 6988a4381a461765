"""Solvers: one algorithm a file, one shared loop."""

from jaxgame.solvers.accelerated_gradient import AcceleratedGradient
from jaxgame.solvers.aggregative_newton import AggregativeNewton
from jaxgame.solvers.extragradient import Extragradient
from jaxgame.solvers.golden_ratio import GoldenRatio
from jaxgame.solvers.loop import Solver
from jaxgame.solvers.mirror_prox import MirrorProx
from jaxgame.solvers.newton import Newton
from jaxgame.solvers.optimistic_gradient import OptimisticGradient
from jaxgame.solvers.projected_gradient import ProjectedGradient

__all__ = [
    "AcceleratedGradient",
    "AggregativeNewton",
    "Extragradient",
    "GoldenRatio",
    "MirrorProx",
    "Newton",
    "OptimisticGradient",
    "ProjectedGradient",
    "Solver",
]
