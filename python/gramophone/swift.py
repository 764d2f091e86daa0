"""ms-swift: a reward function for GRPO, in a plugin file given as --external_plugins.

    from swift.plugin import orms
    from gramophone.swift import GroupReward
    orms["gramophone"] = GroupReward                     # --reward_funcs gramophone
"""

from __future__ import annotations

from typing import Any

from .errors import InvalidInput
from .trl import PairwiseReward


class GroupReward:
    """Completions of one prompt are ranked against each other. `messages` comes with each row; its last assistant turn is the completion."""

    def __init__(self, *_: Any, judge: Any = None, **options: Any):
        self._reward = PairwiseReward(judge, **{k: v for k, v in options.items() if k in ("method", "timeout")})

    def __call__(self, completions: list, messages: Any = None, **_: Any) -> list:
        if messages is None:
            raise InvalidInput("messages: the rows hold none, so the prompts are not known")
        prompts = [row[:-1] if row and row[-1].get("role") == "assistant" else row for row in messages]
        return self._reward(prompts, completions)
