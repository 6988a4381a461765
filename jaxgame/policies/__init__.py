"""From mixtures to language models and back."""

from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture

__all__ = ["MixtureEstimate", "estimate_mixture"]
