"""jaxgame: when language models each choose which human groups to align with, what happens, and who is left out?"""

from jaxgame import simplex, surveys
from jaxgame.bounds import Bounds
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.certificate.multiplicity import Probe, probe
from jaxgame.closed_form import closed_form
from jaxgame.equilibrium import Equilibrium, solve
from jaxgame.exclusion import critical_ratios, excluded, inclusion_price, under_represented
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
    "Bounds",
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
    "closed_form",
    "critical_ratios",
    "excluded",
    "inclusion_price",
    "simplex",
    "solve",
    "surveys",
    "under_represented",
]
