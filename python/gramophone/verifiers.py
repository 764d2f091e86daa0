"""verifiers (and prime-rl): reward functions for a `Rubric`.

    rubric = vf.Rubric(funcs=[gramophone.verifiers.group_reward("http://127.0.0.1:8000")])
"""

from __future__ import annotations

from typing import Any

from .scorer import open_scorer
from .texts import prompt_of, response_of, runs


def group_reward(judge: Any = None, *, method: str = "round_robin", **options: Any) -> Any:
    """A group reward: the rollouts of one prompt are ranked against each other."""

    async def gramophone_rank(prompts: list, completions: list, **_: Any) -> list[float]:
        responses = [response_of(completion) or "" for completion in completions]
        groups = [(prompt_of(prompts[a]), responses[a:b]) for a, b in runs(prompts)]
        rankings = await open_scorer(judge, **options).rank_async(groups, method=method)
        return [float(score) for ranking in rankings for score in ranking.scores]

    return gramophone_rank


def reward(judge: Any = None, **options: Any) -> Any:
    """A reward of one rollout: the probability that it beats the reference in `answer`."""

    async def gramophone_reference(prompt: Any, completion: Any, answer: str, **_: Any) -> float:
        scorer = open_scorer(judge, **options)
        rewards = await scorer.reward_async([prompt_of(prompt)], [response_of(completion) or ""], [answer])
        return float(rewards[0])

    return gramophone_reference
