"""A judge in this process."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Any, Optional, Union

from ._gramophone import Engine
from .errors import InvalidInput
from .results import Judgments, Ranking, column, numpy
from .scorer import Group, Pair, Prompt, Scorer, encoded


class Judge(Scorer):
    """Opens a Hugging Face model directory and judges with it.

    One thread computes, and all calls from all threads share its queue; they release the interpreter, and Ctrl-C ends them. `threads`: CPU
    threads, one per core if 0. `adapter`: a PEFT directory. `template`: a file with the judge prompt. `queue_tokens`: how much may wait;
    calls wait for room."""

    def __init__(
        self,
        model: Union[str, os.PathLike],
        *,
        device: str = "cpu",
        threads: int = 0,
        adapter: Union[str, os.PathLike, None] = None,
        template: Union[str, os.PathLike, None] = None,
        template_date: Optional[str] = None,
        dtype: str = "auto",
        context: Optional[int] = None,
        queue_tokens: Optional[int] = None,
        weight_version: str = "1",
    ):
        self._engine = Engine(
            model,
            device=device,
            threads=threads,
            adapter=adapter,
            template=template,
            template_date=template_date,
            dtype=dtype,
            context=context,
            queue_tokens=queue_tokens,
            weight_version=weight_version,
        )

    def _judge(self, pairs: list[Pair], timeout: Optional[float], priority: int) -> Judgments:
        return Judgments(self._engine.judge([(encoded(p), a, b) for p, a, b in pairs], timeout, priority))

    def _rank(
        self,
        groups: list[Group],
        method: str,
        anchors: Optional[int],
        confidence: Optional[float],
        timeout: Optional[float],
        priority: int,
    ) -> list[Ranking]:
        rows = [(encoded(prompt), responses) for prompt, responses in groups]
        ranked = self._engine.rank(rows, method, anchors, confidence, timeout, priority)
        return [Ranking(order, column("d", scores), n, _matrix(len(order), wins)) for order, scores, n, wins in ranked]

    def judge_ids(
        self,
        prompts: Any,
        labels: Optional[Sequence[int]] = None,
        *,
        offsets: Any = None,
        timeout: Optional[float] = None,
        priority: int = 0,
    ) -> tuple[Any, Any]:
        """Logits of labels at the ends of prompts of token ids, float32 `(prompts, labels)`, and their log-sum-exps over the whole vocabulary.

        `prompts`: a list of lists or arrays of ids; or with `offsets` one flat array, where prompt i is `prompts[offsets[i]:offsets[i + 1]]`.
        `labels`: token ids; the judge's own A and B if not given. Without numpy the logits are flat."""
        if labels is None:
            labels = self.labels
            if labels is None:
                raise InvalidInput("labels: this model has a scalar head; reward_ids gives its rewards")
        ids, lengths = _ids(prompts, offsets)
        logits, lse = self._engine.label_logits(ids, lengths, [int(i) for i in labels], timeout, priority)
        logits = column("f", logits)
        return (logits if numpy is None else logits.reshape(len(lengths), len(labels))), column("f", lse)

    def reward_ids(
        self, prompts: Any, *, offsets: Any = None, timeout: Optional[float] = None, priority: int = 0
    ) -> Any:
        """Rewards, float32, that a scalar model gives conversations of token ids, laid out as for `judge_ids`."""
        ids, lengths = _ids(prompts, offsets)
        return column("f", self._engine.rewards(ids, lengths, timeout, priority))

    def encode(self, prompt: Prompt, a: str, b: str) -> tuple[list[int], list[int]]:
        """The judge prompts of a pair as token ids: with a shown first, and with b shown first."""
        return self._engine.encode(encoded(prompt), a, b)

    @property
    def labels(self) -> Optional[tuple[int, int]]:
        """The token ids that mean "A is better" and "B is better"; None for a scalar model."""
        return self._engine.labels

    @property
    def scalar(self) -> bool:
        return self._engine.scalar

    @property
    def context(self) -> int:
        """Longest judge prompt in tokens."""
        return self._engine.context

    @property
    def weight_version(self) -> str:
        return self._engine.weight_version

    @property
    def load(self) -> tuple[int, int]:
        """Requests that wait or run, and their tokens."""
        return self._engine.load

    def reload(self, model: Union[str, os.PathLike], weight_version: str) -> None:
        """Goes on with other weights for the same tokenizer. If they cannot be opened, the old ones stay."""
        self._engine.reload(model, weight_version)

    def close(self) -> None:
        self._engine.close()


def _matrix(n: int, wins: Optional[list]) -> Optional[list]:
    if not wins:
        return None
    matrix: list[list[Optional[float]]] = [[None] * n for _ in range(n)]
    for i, j, p in wins:
        matrix[i][j], matrix[j][i] = p, 1.0 - p
    return matrix


def _ids(prompts: Any, offsets: Any) -> tuple[bytes, list[int]]:
    """Ids as int32 bytes end to end, and how many each prompt has."""
    if offsets is not None:
        ends = [int(end) for end in offsets]
        if not ends or ends[0] != 0 or any(a > b for a, b in zip(ends, ends[1:])) or ends[-1] != len(prompts):
            raise InvalidInput(f"offsets go up from 0 to the number of ids, {len(prompts)}")
        return _int32("prompts", prompts), [b - a for a, b in zip(ends, ends[1:])]
    parts = [_int32(f"prompts[{i}]", prompt) for i, prompt in enumerate(prompts)]
    return b"".join(parts), [len(part) // 4 for part in parts]


def _int32(place: str, ids: Any) -> bytes:
    try:
        if numpy is None or not isinstance(ids, numpy.ndarray):
            return array("i", ids).tobytes()
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise TypeError(f"{ids.dtype} of {ids.ndim} dimensions")
        if ids.size and (ids.max() > 2**31 - 1 or ids.min() < -(2**31)):
            raise OverflowError("an id is too large")
        return ids.astype("<i4").tobytes()
    except (TypeError, OverflowError) as e:
        raise InvalidInput(f"{place} is a list of whole numbers, or an array of them: {e}") from None
