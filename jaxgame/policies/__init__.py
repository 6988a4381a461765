"""From mixtures to language models, and from language models to games (theory §8)."""

from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture
from jaxgame.policies.logs import Log, interview
from jaxgame.policies.measure import Measurement, measure
from jaxgame.policies.mixing import group_reward, log_partition, mixture_reward
from jaxgame.policies.mixture import MixturePolicy
from jaxgame.policies.model import LanguageModel, ModelGroup

__all__ = [
    "LanguageModel",
    "Log",
    "Measurement",
    "MixtureEstimate",
    "MixturePolicy",
    "ModelGroup",
    "estimate_mixture",
    "group_reward",
    "interview",
    "log_partition",
    "measure",
    "mixture_reward",
]
