"""What every judge can do, wherever it computes, and the shapes of its input."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, Union

from .errors import InvalidInput
from .results import Judgments, Ranking

Prompt = Union[str, Sequence[Mapping[str, Any]]]
"""A text, or a list of messages {"role", "content"}."""
Pair = tuple[Prompt, str, str]
Group = tuple[Prompt, list[str]]

THREADS = 64
"""Calls of one scorer that may be awaited at a time."""


class Scorer(ABC):
    """Compares responses. Safe to use from many threads: what they ask is batched together."""

    def judge(self, pairs: Any, *, timeout: Optional[float] = None, priority: int = 0) -> Judgments:
        """Which response of each pair is better.

        `pairs`: tuples `(prompt, response_a, response_b)`, mappings with these names, or one mapping of columns."""
        return self._judge(list(_rows("pairs", pairs, ("prompt", "response_a", "response_b"), _pair)), timeout, priority)

    def rank(
        self,
        groups: Any,
        *,
        method: str = "round_robin",
        anchors: Optional[int] = None,
        confidence: Optional[float] = None,
        timeout: Optional[float] = None,
        priority: int = 0,
    ) -> list[Ranking]:
        """Orders the responses of each group.

        `groups`: tuples `(prompt, responses)`, mappings with these names, or one mapping of columns. Methods: round_robin, linear,
        knockout, swiss, anchor (with `anchors`, usually 3) and adaptive (to a `confidence`, usually 0.95)."""
        rows = list(_rows("groups", groups, ("prompt", "responses"), _group))
        return self._rank(rows, method, anchors, confidence, timeout, priority)

    def reward(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        references: Optional[Sequence[str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Any:
        """Rewards of responses, float64: the probability that each beats its reference. A scalar model needs no references."""
        if references is not None:
            columns = {"prompt": prompts, "response_a": responses, "response_b": references}
            return self.judge(columns, timeout=timeout).p_a
        if not self.scalar:
            raise InvalidInput("references: this judge compares, so each response needs a reference to be compared with")
        from .results import column

        alone = {"prompt": prompts, "responses": [[response] for response in responses]}
        return column("d", [ranking.scores[0] for ranking in self.rank(alone, timeout=timeout)])

    async def judge_async(self, pairs: Any, **options: Any) -> Judgments:
        """`judge`, awaited."""
        return await self._apart(self.judge, pairs, **options)

    async def rank_async(self, groups: Any, **options: Any) -> list[Ranking]:
        """`rank`, awaited."""
        return await self._apart(self.rank, groups, **options)

    async def reward_async(self, *columns: Any, **options: Any) -> Any:
        """`reward`, awaited."""
        return await self._apart(self.reward, *columns, **options)

    @property
    @abstractmethod
    def scalar(self) -> bool:
        """Whether the model gives rewards instead of comparing."""

    @abstractmethod
    def close(self) -> None:
        """Ends it. Calls that run get their answers."""

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @abstractmethod
    def _judge(self, pairs: list[Pair], timeout: Optional[float], priority: int) -> Judgments: ...

    @abstractmethod
    def _rank(
        self,
        groups: list[Group],
        method: str,
        anchors: Optional[int],
        confidence: Optional[float],
        timeout: Optional[float],
        priority: int,
    ) -> list[Ranking]: ...

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="gramophone")

    async def _apart(self, call: Any, *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(call, *args, **options))


def encoded(prompt: Prompt) -> Union[str, bytes]:
    """A prompt as the engine takes it: a text, or messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False).encode()


_opened: dict[tuple, Scorer] = {}
_opening = threading.Lock()


def open_scorer(where: Union[str, os.PathLike, Scorer, None] = None, **options: Any) -> Scorer:
    """The judge of an adapter: a `Scorer` itself, a server's address (http...), or a model directory. If not given, the environment says:
    `GRAMOPHONE_URL` (with `GRAMOPHONE_API_KEY`), or `GRAMOPHONE_MODEL` (with `GRAMOPHONE_DEVICE`). One process opens each only once."""
    if isinstance(where, Scorer):
        return where
    from .client import Client
    from .judge import Judge

    where = where or os.environ.get("GRAMOPHONE_URL") or os.environ.get("GRAMOPHONE_MODEL")
    if not where:
        raise InvalidInput("no judge: give a server's address or a model directory, or set GRAMOPHONE_URL or GRAMOPHONE_MODEL")
    where = os.fspath(where)
    remote = where.startswith(("http://", "https://"))
    if remote:
        options.setdefault("api_key", os.environ.get("GRAMOPHONE_API_KEY"))
    else:
        options.setdefault("device", os.environ.get("GRAMOPHONE_DEVICE", "cpu"))
    key = (os.getpid(), where, *sorted(options.items()))
    with _opening:
        if key not in _opened:
            _opened[key] = Client(where, **options) if remote else Judge(where, **options)
        return _opened[key]


def _rows(what: str, rows: Any, names: tuple[str, ...], read: Any) -> Iterable[Any]:
    """Rows of any shape, read one by one."""
    if isinstance(rows, Mapping):
        missing = [name for name in names if name not in rows]
        if missing:
            raise InvalidInput(f"{what}: there is no column {missing[0]!r}")
        columns = [rows[name] for name in names]
        lengths = [len(values) for values in columns]
        if len(set(lengths)) > 1:
            said = ", ".join(f"{name} has {n}" for name, n in zip(names, lengths))
            raise InvalidInput(f"{what}: the columns are not equally long: {said}")
        rows = zip(*columns)
    elif isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidInput(f"{what} is a list of tuples or mappings, or one mapping of columns, not {type(rows).__name__}")
    for i, row in enumerate(rows):
        place = f"{what}[{i}]"
        if isinstance(row, Mapping):
            missing = [name for name in names if name not in row]
            if missing:
                raise InvalidInput(f"{place}: there is no {missing[0]!r}")
            row = [row[name] for name in names]
        elif isinstance(row, (str, bytes)) or not isinstance(row, Sequence) or len(row) != len(names):
            raise InvalidInput(f"{place} is a mapping or a tuple of {', '.join(names)}")
        yield read(place, *row)


def _pair(place: str, prompt: Any, a: Any, b: Any) -> Pair:
    return _prompt(place, prompt), _text(f"{place}.response_a", a), _text(f"{place}.response_b", b)


def _group(place: str, prompt: Any, responses: Any) -> Group:
    if isinstance(responses, str) or not isinstance(responses, Iterable):
        raise InvalidInput(f"{place}.responses is a list of texts, not {type(responses).__name__}")
    texts = [_text(f"{place}.responses[{i}]", response) for i, response in enumerate(responses)]
    if not texts:
        raise InvalidInput(f"{place}.responses is empty; there is nothing to rank")
    return _prompt(place, prompt), texts


def _prompt(place: str, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return _text(f"{place}.prompt", prompt)
    if isinstance(prompt, bytes) or not isinstance(prompt, Sequence) or not all(isinstance(m, Mapping) for m in prompt):
        raise InvalidInput(f"{place}.prompt is a text or a list of messages, not {type(prompt).__name__}")
    if not prompt:
        raise InvalidInput(f"{place}.prompt is an empty list of messages")
    messages = [dict(message) for message in prompt]
    try:
        json.dumps(messages, ensure_ascii=False).encode()
    except (TypeError, ValueError) as e:
        raise InvalidInput(f"{place}.prompt holds something that is no JSON text: {e}") from None
    return messages


def _text(place: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{place} is a text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidInput(f"{place} holds half a character at place {e.start}") from None
    return text
