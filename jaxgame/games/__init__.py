"""Games: what is played, and how agents meet."""

from jaxgame.games.affine import AffineMap
from jaxgame.games.alignment import AlignmentGame
from jaxgame.games.concave import ConcaveGame
from jaxgame.games.coupling import Dense, MeanField, Network
from jaxgame.games.curvature import Diagonal, Scaled
from jaxgame.games.protocol import (
    Game,
    dtype_of,
    is_aggregative,
    is_quadratic,
    linearise,
    reach_of,
    representation,
    share_of,
)
from jaxgame.games.quadratic import QuadraticGame
from jaxgame.games.subsidy import Subsidised, subsidised

__all__ = [
    "AffineMap",
    "AlignmentGame",
    "ConcaveGame",
    "Dense",
    "Diagonal",
    "Game",
    "MeanField",
    "Network",
    "QuadraticGame",
    "Scaled",
    "Subsidised",
    "dtype_of",
    "is_aggregative",
    "is_quadratic",
    "linearise",
    "reach_of",
    "share_of",
    "representation",
    "subsidised",
]
