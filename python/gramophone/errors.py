"""What can go wrong. Every exception is an `Error`, and also the built-in kind that it resembles."""

from __future__ import annotations

from typing import Optional


class Error(Exception):
    """Anything that this package refuses or fails at."""


class InvalidInput(Error, ValueError):
    """Something that cannot be judged; the message names its place."""


class TooLong(InvalidInput):
    """More tokens than fit. Nothing is ever cut."""

    tokens: Optional[int] = None
    """How many there are."""
    most: Optional[int] = None
    """How many fit."""


class ModelError(Error, RuntimeError):
    """A model that is damaged, not supported, or cannot do what is asked."""


class FileError(Error, OSError):
    """The operating system refused a file."""


class DeviceError(Error, RuntimeError):
    """A device that is absent, too small or failing."""


class DeadlineExceeded(Error, TimeoutError):
    """The time was over before there was an answer."""


class Stopped(Error, RuntimeError):
    """The judge is closed, or stops."""


class Unreachable(Error, ConnectionError):
    """No server answers at this address."""


class Unauthorized(Error, PermissionError):
    """The server's key is missing or wrong."""


class ServerError(Error, RuntimeError):
    """The server failed, or what answers is no gramophone server."""
