"""OpenRLHF: a reward function in a file.

    # reward.py, given as --reward.remote_url reward.py
    from gramophone.openrlhf import reward_func

and `GRAMOPHONE_URL` (or `GRAMOPHONE_MODEL`) in the environment; `--data.label_key` names the column with reference responses. With the
server's address itself as the URL no Python is needed: `gramophone serve` speaks OpenRLHF's wire."""

from __future__ import annotations

from typing import Any, Optional

from .errors import InvalidInput
from .scorer import open_scorer
from .texts import split

NEUTRAL = 0.5


def reward_func(queries: list, prompts: list, labels: list, judge: Any = None, **_: Any) -> dict:
    """Rewards, scores between 0 and 1, and logs, as tensors. A sample that cannot be judged gets a neutral reward and is counted in `invalid`,
    because its trainer breaks the batch on an error."""
    scorer = open_scorer(judge)
    samples = [split(query, prompt) for query, prompt in zip(queries, prompts)]
    if scorer.scalar:
        return _scalar(scorer, samples)
    rewards, logs = [], {name: [] for name in ("margin_ab", "margin_ba", "label_mass", "consistent", "invalid")}
    for (prompt, response), label in zip(samples, labels):
        row = _judged(scorer, prompt, response, label)
        rewards.append(NEUTRAL if row is None else row.p_a)
        for name, values in logs.items():
            values.append(float(row is None) if name == "invalid" else 0.0 if row is None else float(getattr(row, name)))
    return {"rewards": _tensor(rewards), "scores": _tensor(rewards), "extra_logs": {k: _tensor(v) for k, v in logs.items()}}


def _judged(scorer: Any, prompt: Any, response: str, label: Any) -> Optional[Any]:
    try:
        return scorer.judge([(prompt, response, label)])[0]
    except InvalidInput:
        return None


def _scalar(scorer: Any, samples: list) -> dict:
    rewards, invalid = [], []
    for prompt, response in samples:
        try:
            rewards.append(float(scorer.reward([prompt], [response])[0]))
            invalid.append(0.0)
        except InvalidInput:
            rewards.append(0.0)
            invalid.append(1.0)
    import math

    scores = [1.0 / (1.0 + math.exp(-reward)) for reward in rewards]
    return {"rewards": _tensor(rewards), "scores": _tensor(scores), "extra_logs": {"invalid": _tensor(invalid)}}


def _tensor(values: list) -> Any:
    """A tensor where there is torch, as there is in the trainer."""
    try:
        import torch
    except ImportError:
        return values
    return torch.tensor(values, dtype=torch.float32)
