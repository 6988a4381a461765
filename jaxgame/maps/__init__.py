"""Maps of the incentive space: phase diagrams, exact boundaries of exclusion."""

from jaxgame.maps.boundaries import Boundaries, Threshold, boundaries, thresholds
from jaxgame.maps.path import Event, Path, path
from jaxgame.maps.regions import Region, Regions, regions
from jaxgame.maps.result import Sweep
from jaxgame.maps.sweep import sweep

__all__ = [
    "Boundaries",
    "Event",
    "Path",
    "Region",
    "Regions",
    "Sweep",
    "Threshold",
    "boundaries",
    "path",
    "regions",
    "sweep",
    "thresholds",
]
