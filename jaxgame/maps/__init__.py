"""Maps of the incentive space: phase diagrams, exact boundaries of exclusion."""

from jaxgame.maps.path import Event, Path, path
from jaxgame.maps.result import Sweep
from jaxgame.maps.sweep import sweep

__all__ = ["Event", "Path", "Sweep", "path", "sweep"]
