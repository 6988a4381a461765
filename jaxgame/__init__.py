"""jaxgame: when language models each choose which human groups to align with, what happens, and who is left out?"""

from jaxgame import policies, simplex, steering, surveys
from jaxgame.batch import solve_many
from jaxgame.bounds import Bounds
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.certificate.multiplicity import Probe, probe
from jaxgame.closed_form import closed_form
from jaxgame.dynamics import Simulation, simulate
from jaxgame.equilibrium import Equilibrium
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
from jaxgame.games.rational import with_rationality
from jaxgame.inverse import Fit, fit
from jaxgame.maps import (
    Boundaries,
    Event,
    Path,
    Region,
    Regions,
    Sweep,
    Threshold,
    boundaries,
    path,
    regions,
    sweep,
    thresholds,
)
from jaxgame.sharding import connect, shard
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
from jaxgame.solving import solve
from jaxgame.steering import (
    Inducement,
    Plan,
    Sensitivity,
    induce,
    inducement,
    objectives,
    sensitivity,
    steer,
    steer_to_floor,
)
from jaxgame.streaming import Stream, Streamed, open_stream, solve_stream

__all__ = [
    "AcceleratedGradient",
    "AggregativeNewton",
    "AlignmentGame",
    "Boundaries",
    "Bounds",
    "Certificate",
    "ConcaveGame",
    "Dense",
    "Diagonal",
    "Equilibrium",
    "Event",
    "Extragradient",
    "Fit",
    "Game",
    "GoldenRatio",
    "Inducement",
    "MeanField",
    "MirrorProx",
    "Network",
    "Newton",
    "OptimisticGradient",
    "Path",
    "Plan",
    "Probe",
    "ProjectedGradient",
    "QuadraticGame",
    "Region",
    "Regions",
    "Scaled",
    "Sensitivity",
    "Simulation",
    "Solver",
    "Stream",
    "Streamed",
    "Sweep",
    "Threshold",
    "boundaries",
    "certify",
    "closed_form",
    "connect",
    "critical_ratios",
    "excluded",
    "fit",
    "inclusion_price",
    "induce",
    "inducement",
    "objectives",
    "open_stream",
    "path",
    "policies",
    "probe",
    "regions",
    "sensitivity",
    "shard",
    "simplex",
    "simulate",
    "solve",
    "solve_many",
    "solve_stream",
    "steer",
    "steer_to_floor",
    "steering",
    "surveys",
    "sweep",
    "thresholds",
    "under_represented",
    "with_rationality",
]
