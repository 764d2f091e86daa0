"""slime: custom reward models.

    --custom-rm-path gramophone.slime.group_rm --group-rm      # a group's samples are ranked against each other
    --custom-rm-path gramophone.slime.single_rm                # each sample against the reference in its label

The judge is `--rm-url`, or what `GRAMOPHONE_URL` or `GRAMOPHONE_MODEL` name. `--rm-type remote_rm` with the server's address needs no Python."""

from __future__ import annotations

from typing import Any

from .errors import InvalidInput
from .scorer import open_scorer
from .texts import prompt_of, response_of


def _scorer(args: Any) -> Any:
    return open_scorer(getattr(args, "rm_url", None) or None)


async def group_rm(args: Any, samples: list, **_: Any) -> list[float]:
    """For each sample of one prompt its mean probability of beating the others, or a scalar model's reward."""
    if not samples:
        return []
    for i, sample in enumerate(samples):
        if sample.prompt != samples[0].prompt:
            raise InvalidInput(f"samples[{i}].prompt differs from the first; a group has one prompt")
    group = (prompt_of(samples[0].prompt), [response_of(sample.response) or "" for sample in samples])
    ranking = (await _scorer(args).rank_async([group]))[0]
    return [float(score) for score in ranking.scores]


async def single_rm(args: Any, sample: Any, **_: Any) -> float:
    """The probability that a sample beats the reference response in its label. A scalar model needs none."""
    references = None if sample.label is None else [sample.label]
    rewards = await _scorer(args).reward_async([prompt_of(sample.prompt)], [response_of(sample.response) or ""], references)
    return float(rewards[0])
