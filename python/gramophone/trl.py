"""TRL: a reward function for `GRPOTrainer` (and others that take `reward_funcs`).

    from gramophone.trl import PairwiseReward
    trainer = GRPOTrainer(model, reward_funcs=PairwiseReward("http://127.0.0.1:8000"), train_dataset=dataset, args=args)
"""

from __future__ import annotations

from typing import Any, Optional

from .scorer import Scorer, open_scorer
from .texts import response_of, runs


class PairwiseReward:
    """Completions of one prompt are ranked against each other, and a completion's reward is its mean probability of beating the others. With
    `reference`, the name of a dataset column, it is the probability of beating that row's reference instead.

    A completion without text, or a row without reference, gets None, which TRL leaves out; so does one that is alone in its group, which
    happens where a process holds only a part of it: keep `per_device_train_batch_size` a multiple of `num_generations`."""

    def __init__(
        self,
        judge: Any = None,
        *,
        method: str = "round_robin",
        reference: Optional[str] = None,
        timeout: Optional[float] = None,
        **options: Any,
    ):
        self._where, self._options = judge, options
        self._method, self._reference, self._timeout = method, reference, timeout
        # What the trainer calls it in its logs.
        self.__name__ = "gramophone"

    @property
    def scorer(self) -> Scorer:
        """Opened where it is first used, so that the function itself travels between processes."""
        return open_scorer(self._where, **self._options)

    def __call__(
        self,
        prompts: list,
        completions: list,
        log_extra: Any = None,
        log_metric: Any = None,
        **columns: Any,
    ) -> list[Optional[float]]:
        responses = [response_of(completion) for completion in completions]
        if self._reference is not None:
            if self._reference not in columns:
                raise KeyError(f"the dataset has no column {self._reference!r}, which should hold the reference responses")
            return self._against(prompts, responses, columns[self._reference], log_extra, log_metric)
        return self._within(prompts, responses, log_extra, log_metric)

    def _against(self, prompts: list, responses: list, references: list, log_extra: Any, log_metric: Any) -> list:
        references = [response_of(reference) for reference in references]
        places = [i for i, both in enumerate(zip(responses, references)) if None not in both]
        judged = self.scorer.judge([(prompts[i], responses[i], references[i]) for i in places], timeout=self._timeout)
        rewards: list[Optional[float]] = [None] * len(responses)
        for i, p in zip(places, judged.p_a):
            rewards[i] = float(p)
        if log_metric is not None and judged.consistent is not None and len(judged) > 0:
            log_metric("gramophone/consistent", sum(map(int, judged.consistent)) / len(judged))
        return rewards

    def _within(self, prompts: list, responses: list, log_extra: Any, log_metric: Any) -> list:
        groups = [[i for i in range(*run) if responses[i] is not None] for run in runs(prompts)]
        scalar = self.scorer.scalar
        groups = [group for group in groups if len(group) > 1 or (scalar and group)]
        asked = [(prompts[group[0]], [responses[i] for i in group]) for group in groups]
        rankings = self.scorer.rank(asked, method=self._method, timeout=self._timeout)
        rewards: list[Optional[float]] = [None] * len(responses)
        places: list[Optional[int]] = [None] * len(responses)
        for group, ranking in zip(groups, rankings):
            for i, score, place in zip(group, ranking.scores, ranking.places):
                rewards[i], places[i] = float(score), place + 1
        if log_extra is not None:
            log_extra("gramophone_place", places)
        if log_metric is not None:
            log_metric("gramophone/comparisons", float(sum(ranking.comparisons for ranking in rankings)))
        return rewards
