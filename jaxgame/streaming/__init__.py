"""Populations larger than memory: read in blocks of agents, solved in a few passes, and resumed where they stopped."""

from jaxgame.streaming.folder import open_stream
from jaxgame.streaming.solve import Streamed, solve_stream
from jaxgame.streaming.stream import Stream

__all__ = ["Stream", "Streamed", "open_stream", "solve_stream"]
