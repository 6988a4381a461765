"""Human groups from survey data: tables of answers, kernels of similarity, and the games that follow from them."""

from jaxgame.surveys.survey import Survey, load
from jaxgame.surveys.tables import names

__all__ = ["Survey", "load", "names"]
