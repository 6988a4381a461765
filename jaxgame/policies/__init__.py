"""From mixtures to language models, and from language models to games (theory §8)."""

from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture
from jaxgame.policies.mixing import group_reward, log_partition, mixture_reward

__all__ = ["MixtureEstimate", "estimate_mixture", "group_reward", "log_partition", "mixture_reward"]
