"""jaxgame: when language models each choose which human groups to align with, what happens, and who is left out?"""

from jaxgame import simplex, surveys
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.certificate.multiplicity import Probe, probe
from jaxgame.equilibrium import Equilibrium, solve
from jaxgame.games import (
    AlignmentGame,
    ConcaveGame,
    Dense,
    Diagonal,
    Game,
    MeanField,
    Network,
    QuadraticGame,
    Scaled,
)
from jaxgame.solvers import (
    AcceleratedGradient,
    AggregativeNewton,
    Extragradient,
    GoldenRatio,
    MirrorProx,
    Newton,
    OptimisticGradient,
    ProjectedGradient,
    Solver,
)

__all__ = [
    "AcceleratedGradient",
    "AggregativeNewton",
    "AlignmentGame",
    "Certificate",
    "ConcaveGame",
    "Dense",
    "Diagonal",
    "Equilibrium",
    "Extragradient",
    "Game",
    "GoldenRatio",
    "MeanField",
    "MirrorProx",
    "Network",
    "Newton",
    "OptimisticGradient",
    "Probe",
    "ProjectedGradient",
    "QuadraticGame",
    "Scaled",
    "Solver",
    "certify",
    "probe",
    "simplex",
    "solve",
    "surveys",
]
