"""From observed mixtures back to the game: what do these agents seem to want, and are they at equilibrium at all?"""

from jaxgame.inverse.fitting import Fit, fit

__all__ = ["Fit", "fit"]
