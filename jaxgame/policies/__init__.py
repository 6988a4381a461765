"""From mixtures to language models, and from language models to games (theory §8)."""

from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture
from jaxgame.policies.mixing import group_reward, log_partition, mixture_reward
from jaxgame.policies.mixture import MixturePolicy
from jaxgame.policies.model import LanguageModel, ModelGroup

__all__ = [
    "LanguageModel",
    "MixtureEstimate",
    "MixturePolicy",
    "ModelGroup",
    "estimate_mixture",
    "group_reward",
    "log_partition",
    "mixture_reward",
]
