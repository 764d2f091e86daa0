"""What trainers hand over as prompts and completions, as judges read it: messages and plain texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import _gramophone
from .errors import InvalidInput
from .scorer import Prompt


def prompt_of(value: Any) -> Prompt:
    """A prompt: messages stay, and a text that the policy's chat template has rendered (ChatML, Llama 3, Gemma) is taken apart."""
    return json.loads(_gramophone.turns(value)) if isinstance(value, str) else value


def response_of(value: Any) -> Optional[str]:
    """The text of a completion: a text without the policy's control tokens at its end, or what the assistant says last in a list of
    messages. None if there is no text in it."""
    if value is None:
        return None
    if isinstance(value, str):
        return _gramophone.response(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise InvalidInput(f"a completion is a text or a list of messages, not {type(value).__name__}")
    said = [message.get("content") for message in value if message.get("role") == "assistant"]
    content = said[-1] if said else None
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if part.get("type", "text") == "text")
    return content if content else None


def split(query: str, prompt: str) -> tuple[Prompt, str]:
    """The prompt and the response in a whole text that begins with a rendered prompt, at least about."""
    messages, response = _gramophone.split(query, prompt)
    return json.loads(messages), response


def runs(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Where runs of equal neighbours begin and end."""
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return list(zip(starts, starts[1:] + [len(keys)]))
