"""A judge on a server: `gramophone serve`. Needs nothing but the standard library.

A call has a deadline (`timeout`) and keeps trying until then: a server that is not up yet, full, or restarting is waited for; what it
refuses is raised at once. Long lists go out in parts, several at a time. Requests are safe to repeat, for the same question has the
same answer, to the bit."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Optional
from urllib.parse import urlsplit

from . import errors
from .results import Judgments, Ranking, column
from .scorer import Group, Pair, Scorer

PART = 256
"""Pairs in one request."""
PART_TEXT = 4 << 20
"""Characters in one request, about."""
PAUSE = 0.1
"""Seconds before the second attempt; each further one waits twice as long, up to five, where the server does not say."""
LOOK_UP = 0.2
"""Seconds after which a call that waits for its parts looks up for Ctrl-C."""
BUSY = (429, 503, 529)
"""Statuses of a server that may answer later."""


class Client(Scorer):
    """The judge behind `url`. `timeout`: seconds a call may take in all, unless it says otherwise; None waits for ever. `connections`: requests
    at a time. `model`: a name, where the server insists on one."""

    def __init__(
        self,
        url: str,
        *,
        api_key: Optional[str] = None,
        model: Optional[str] = None,
        timeout: Optional[float] = 300.0,
        connections: int = 16,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.InvalidInput(f"{url!r} is no address of a server; it looks like http://host:8000")
        if connections < 1:
            raise errors.InvalidInput(f"connections is {connections}; there must be at least one")
        self.url = url.rstrip("/")
        self._address = (parts.hostname, parts.port)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._model = {"model": model} if model else {}
        self._timeout = timeout
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._parts = ThreadPoolExecutor(connections, thread_name_prefix="gramophone-client")
        self._scalar: Optional[bool] = None
        self._closed = False

    def wait_ready(self, timeout: Optional[float] = 600.0) -> None:
        """Waits until the server answers requests: call it before training starts."""
        _Call(self, timeout).ask("GET", "/ready")

    def info(self) -> dict:
        """The server's version, model, weight version and context."""
        return _Call(self, self._timeout).ask("GET", "/version")

    @property
    def scalar(self) -> bool:
        if self._scalar is None:
            self._scalar = bool(self.info().get("scalar"))
        return self._scalar

    def close(self) -> None:
        self._closed = True
        self._parts.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _judge(self, pairs: list[Pair], timeout: Optional[float], priority: int) -> Judgments:
        parts = list(_cut(pairs))
        bodies = [
            {"pairs": [{"prompt": p, "a": a, "b": b} for p, a, b in pairs[start:end]], "priority": priority, **self._model}
            for start, end in parts
        ]
        answers = self._all("/v1/judge", bodies, timeout, "pairs", [start for start, _ in parts])
        return Judgments.join([_judgments(answer["judgments"]) for answer in answers])

    def _rank(
        self,
        groups: list[Group],
        method: str,
        anchors: Optional[int],
        confidence: Optional[float],
        timeout: Optional[float],
        priority: int,
    ) -> list[Ranking]:
        limits = {name: value for name, value in [("anchors", anchors), ("confidence", confidence)] if value is not None}
        bodies = [
            {"prompt": prompt, "responses": responses, "method": method, "priority": priority, **limits, **self._model}
            for prompt, responses in groups
        ]
        answers = self._all("/v1/rank", bodies, timeout, "groups", list(range(len(bodies))))
        return [
            Ranking(answer["ranking"], column("d", answer["rewards"]), answer["comparisons"], answer.get("wins"))
            for answer in answers
        ]

    def _all(self, route: str, bodies: list[dict], timeout: Optional[float], what: str, starts: list[int]) -> list[dict]:
        """Answers to all bodies, in order. Whatever fails or interrupts one ends the others."""
        if self._closed:
            raise errors.Stopped("this client is closed")
        call = _Call(self, self._timeout if timeout is None else timeout)
        ask = lambda body, start: call.ask("POST", route, body, what, start)  # noqa: E731
        if len(bodies) == 1:
            return [ask(bodies[0], starts[0])]
        waiting = [self._parts.submit(ask, body, start) for body, start in zip(bodies, starts)]
        try:
            left = set(waiting)
            while left:
                done, left = wait(left, LOOK_UP, FIRST_EXCEPTION)
                for future in done:
                    future.result()
            return [future.result() for future in waiting]
        except BaseException:
            for future in waiting:
                future.cancel()
            call.stop()
            raise


class _Call:
    """A call with its deadline, and the connections that it uses."""

    def __init__(self, client: Client, timeout: Optional[float]):
        if timeout is not None and not timeout > 0:
            raise errors.InvalidInput(f"timeout is {timeout}; it must be a positive number of seconds, or None")
        self._client = client
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stopped = threading.Event()
        self._open: set[http.client.HTTPConnection] = set()

    def stop(self) -> None:
        """Breaks off: the server drops the work of those who go away."""
        self._stopped.set()
        for connection in list(self._open):
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _left(self) -> Optional[float]:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def ask(self, method: str, route: str, body: Optional[dict] = None, what: str = "", start: int = 0) -> dict:
        """The answer to one request, however often it must be asked."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        pause = PAUSE
        while True:
            try:
                status, headers, text = self._once(method, route, data)
            except (OSError, http.client.HTTPException) as e:
                if self._stopped.is_set():
                    raise errors.Stopped("the call was broken off") from None
                if isinstance(e, ssl.SSLCertVerificationError):
                    raise errors.Unreachable(f"{self._client.url}: {e}") from e
                status, headers, text, trouble = 0, {}, b"", e
            if 200 <= status < 300:
                return _json(self._client.url, text)
            refusal = None if status == 0 else _refusal(self._client.url, status, text, what, start)
            if refusal is not None and status not in BUSY:
                raise refusal
            told = headers.get("retry-after", "")
            rest = min(float(told), 60.0) if told.replace(".", "", 1).isdigit() else pause
            left = self._left()
            if left is not None and rest >= left:
                # There is no time for another attempt.
                if refusal is None and not isinstance(trouble, TimeoutError):
                    raise errors.Unreachable(f"{self._client.url}: no server answers: {trouble}") from trouble
                raise errors.DeadlineExceeded(f"{self._client.url}: {refusal or 'no answer within the time'}")
            if self._stopped.wait(rest):
                raise errors.Stopped("the call was broken off")
            pause = min(2 * pause, 5.0)

    def _once(self, method: str, route: str, data: Optional[bytes]) -> tuple[int, dict, bytes]:
        client, left = self._client, self._left()
        if self._stopped.is_set():
            raise OSError("broken off")
        headers = dict(client._headers)
        if left is not None and data is not None:
            headers["X-Request-Timeout"] = f"{max(left, 0.001):.3f}"
        kept, connection = self._connection(left)
        self._open.add(connection)
        try:
            connection.request(method, client._path + route, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except BaseException as e:
            connection.close()
            stale = (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected)
            if kept and isinstance(e, stale) and not self._stopped.is_set():
                # The server had closed a connection that lay idle, which says nothing about this request.
                self._drop_idle()
                return self._once(method, route, data)
            raise
        finally:
            self._open.discard(connection)
        if answer.will_close:
            connection.close()
        else:
            with client._lock:
                client._idle.append(connection)
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text

    def _connection(self, left: Optional[float]) -> tuple[bool, http.client.HTTPConnection]:
        client = self._client
        with client._lock:
            kept = client._idle.pop() if client._idle else None
        # The server keeps the deadline; what is added covers the way.
        patience = None if left is None else left + 1.0
        if kept is not None and kept.sock is not None:
            kept.sock.settimeout(patience)
            return True, kept
        host, port = client._address
        if client._tls is not None:
            return False, http.client.HTTPSConnection(host, port, timeout=patience, context=client._tls)
        return False, http.client.HTTPConnection(host, port, timeout=patience)

    def _drop_idle(self) -> None:
        with self._client._lock:
            idle, self._client._idle = self._client._idle, []
        for connection in idle:
            connection.close()


def _cut(pairs: list[Pair]) -> Iterator[tuple[int, int]]:
    """Where the parts of a list begin and end."""
    start, text = 0, 0
    for i, (prompt, a, b) in enumerate(pairs):
        size = len(a) + len(b) + (len(prompt) if isinstance(prompt, str) else sum(len(str(m)) for m in prompt))
        if i > start and (i - start == PART or text + size > PART_TEXT):
            yield start, i
            start, text = i, 0
        text += size
    if start < len(pairs):
        yield start, len(pairs)


def _judgments(rows: list[dict]) -> Judgments:
    sides = {"A": 1, "B": -1, "tie": 0}
    columns: dict[str, list] = {"p_a": [row["p"] for row in rows], "verdict": [sides[row["verdict"]] for row in rows]}
    for name in ("margin_ab", "margin_ba", "label_mass", "consistent", "reward_a", "reward_b"):
        if rows and name in rows[0]:
            columns[name] = [row[name] for row in rows]
    return Judgments(columns)


def _json(url: str, text: bytes) -> dict:
    try:
        return json.loads(text)
    except ValueError as e:
        raise errors.ServerError(f"{url}: the answer is not JSON: {e}") from None


def _refusal(url: str, status: int, text: bytes, what: str, start: int) -> errors.Error:
    """What a status and its body mean. Places are those in the whole list, of which this request held a part that began at `start`."""
    try:
        error = json.loads(text)["error"]
        message, field = str(error["message"]), error.get("param") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        said = text[:200].decode("utf-8", "replace").strip()
        return errors.ServerError(f"{url}: status {status}: {said or http.client.responses.get(status, 'no reason given')}")
    if what == "pairs":
        field = re.sub(r"^pairs\[(\d+)\]", lambda found: f"pairs[{int(found.group(1)) + start}]", field)
        field = field.replace("].a", "].response_a").replace("].b", "].response_b")
    elif what == "groups" and field:
        field = f"groups[{start}].{field}"
    message = f"{field}: {message}" if field else message
    if status in (401, 403):
        return errors.Unauthorized(f"{url}: {message}")
    if status in (408, 504):
        return errors.DeadlineExceeded(message)
    if "tokens" in error:
        refusal = errors.TooLong(message)
        refusal.tokens, refusal.most = error["tokens"], error.get("max_tokens")
        return refusal
    if 400 <= status < 500 and status not in BUSY:
        return errors.InvalidInput(message)
    return errors.ServerError(f"{url}: status {status}: {message}")
