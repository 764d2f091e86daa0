"""SkyRL: an environment whose single step is judged.

    skyrl_gym.register(id="gramophone", entry_point="gramophone.skyrl:JudgedEnv")

The row's `reward_model.ground_truth` (or `reward_spec.ground_truth`) is the reference response. `env_config.base_url` is the server, or the
environment says it (`GRAMOPHONE_URL`, `GRAMOPHONE_MODEL`)."""

from __future__ import annotations

from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from .errors import InvalidInput
from .scorer import open_scorer
from .texts import prompt_of, response_of


class JudgedEnv(BaseTextEnv):
    """One turn; its reward is the probability that it beats the reference. A scalar model needs none."""

    def __init__(self, env_config: Any = None, extras: Any = None):
        super().__init__()
        extras = extras or {}
        spec = extras.get("reward_model") or extras.get("reward_spec") or {}
        self._reference = spec.get("ground_truth")
        self._prompt = extras.get("prompt")
        url = env_config.get("base_url") if hasattr(env_config, "get") else getattr(env_config, "base_url", None)
        self._where = url or None

    def init(self, prompt: Any) -> tuple[Any, dict]:
        self._prompt = prompt
        return prompt, {}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        if self._prompt is None:
            raise InvalidInput("prompt: this environment was not initialised with one")
        references = None if self._reference is None else [self._reference]
        rewards = open_scorer(self._where).reward([prompt_of(self._prompt)], [response_of(action) or ""], references)
        return BaseTextEnvStepOutput(observations=[], reward=float(rewards[0]), done=True, metadata={})
