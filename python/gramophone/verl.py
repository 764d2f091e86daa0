"""verl: a custom reward function.

    reward.custom_reward_function.path=<site-packages>/gramophone/verl.py reward.custom_reward_function.name=compute_score

and `GRAMOPHONE_URL` (or `GRAMOPHONE_MODEL`) in the workers' environment. The row's `ground_truth` is the reference response; its `extra_info`
holds the prompt, as `prompt`, `raw_prompt` or `question`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# verl loads this file by its path, outside the package.
from gramophone.errors import InvalidInput
from gramophone.scorer import open_scorer
from gramophone.texts import prompt_of, response_of

PROMPTS = ("prompt", "raw_prompt", "question")


async def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    judge: Any = None,
    **_: Any,
) -> dict:
    """`score`, the probability that the solution beats the reference, and numbers for the log. A scalar model needs no reference. `judge` comes
    from `custom_reward_function.reward_kwargs`, or from the environment."""
    info = extra_info if isinstance(extra_info, Mapping) else {}
    prompt = next((info[name] for name in PROMPTS if info.get(name) is not None), None)
    if prompt is None:
        raise InvalidInput(f"extra_info: there is no prompt in it; put it there as one of {', '.join(PROMPTS)}")
    prompt = prompt_of(list(prompt) if not isinstance(prompt, str) else prompt)
    scorer, response = open_scorer(judge), response_of(solution_str) or ""
    if ground_truth is None:
        return {"score": float((await scorer.reward_async([prompt], [response]))[0])}
    judged = (await scorer.judge_async([(prompt, response, str(ground_truth))]))[0]
    score = {"score": judged.p_a}
    if judged.consistent is not None:
        score.update(margin=judged.margin, consistent=float(judged.consistent), label_mass=judged.label_mass)
    return score
