"""From mixtures to language models, and from language models to games (theory §8)."""

from jaxgame.policies.mixing import group_reward, log_partition, mixture_reward

__all__ = ["group_reward", "log_partition", "mixture_reward"]
