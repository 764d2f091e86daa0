"""Judges of responses: in this process (`Judge`), on a server (`Client`), or many on Ray (`gramophone.ray.Replicas`). All have the same
methods and give the same results, to the bit."""

from . import errors
from ._gramophone import __version__
from .client import Client
from .judge import Judge
from .results import Judgment, Judgments, Ranking
from .scorer import Scorer, open_scorer

__all__ = ["Client", "Judge", "Judgment", "Judgments", "Ranking", "Scorer", "__version__", "errors", "open_scorer"]
