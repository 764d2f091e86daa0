"""A judge on a server."""

import asyncio
import http.server
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from conftest import GROUPS, PAIRS, model, same_bits, serving

import gramophone
from gramophone import errors

JUDGED = {"p": 0.5, "verdict": "tie", "margin_ab": 0.0, "margin_ba": 0.0, "label_mass": 0.5, "consistent": False}


@contextmanager
def pretending(*answers):
    """A server that gives these answers, one a request, the last for ever: `(status, headers, body)`, or None to hang up. Yields its address and
    the requests that came: `(route, headers, body)`."""
    came = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            came.append((self.path, dict(self.headers), json.loads(body) if body else None))
            answer = answers[min(len(came), len(answers)) - 1]
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(text), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        server.server_close()


def test_the_bits_are_those_of_the_command_line_and_of_a_judge_here(client, judge, expected):
    assert same_bits(client.judge(PAIRS), expected)
    for method in ["round_robin", "swiss", "adaptive"]:
        for here, there in zip(judge.rank(GROUPS, method=method), client.rank(GROUPS, method=method)):
            assert (here.order, here.comparisons, here.wins) == (there.order, there.comparisons, there.wins)
            assert here.scores.tobytes() == there.scores.tobytes()
    prompts, responses, references = zip(*PAIRS)
    assert client.reward(prompts, responses, references).tolist() == [row["p_a"] for row in expected]
    assert len(client.judge([])) == 0 and client.rank([]) == []


def test_long_lists_go_out_in_parts_and_come_back_in_order(client, judge, monkeypatch):
    monkeypatch.setattr(gramophone.client, "PART", 40)
    pairs = [(f"Question {i}", f"{i}", f"{i + 1}") for i in range(100)]
    assert client.judge(pairs).p_a.tobytes() == judge.judge(pairs).p_a.tobytes()
    with pytest.raises(errors.TooLong, match=r"^pairs\[90\]") as refused:
        client.judge(pairs[:90] + [("p", "word " * 5000, "b")] + pairs[90:])
    assert refused.value.tokens > refused.value.most == 4096


def test_threads_and_coroutines_share_a_client(client, expected):
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: same_bits(client.judge(PAIRS), expected), range(16)))

    async def together():
        return await asyncio.gather(*(client.judge_async(PAIRS) for _ in range(16)))

    assert all(same_bits(judged, expected) for judged in asyncio.run(together()))


def test_what_the_server_refuses_is_raised_by_name(client, server):
    with pytest.raises(errors.InvalidInput, match=r"^pairs\[0\]\.prompt.*role"):
        client.judge([([{"content": "x"}], "a", "b")])
    with pytest.raises(errors.InvalidInput, match=r"^groups\[[01]\]\.method: there is no method"):
        client.rank(GROUPS[:2], method="best")
    with pytest.raises(errors.InvalidInput, match="anchors"):
        client.rank(GROUPS, method="swiss", anchors=2)
    with gramophone.Client(server, model="another") as other:
        with pytest.raises(errors.InvalidInput, match="no model"):
            other.judge(PAIRS)
    with pytest.raises(errors.Stopped, match="closed"):
        other.judge(PAIRS)
    for bad in ["localhost:8000", "ftp://host", "http://"]:
        with pytest.raises(errors.InvalidInput, match="address"):
            gramophone.Client(bad)


def test_keys():
    with serving("--api-key", "secret") as (url, _):
        with pytest.raises(errors.Unauthorized):
            gramophone.Client(url).judge(PAIRS)
        with gramophone.Client(url, api_key="secret") as client:
            assert len(client.judge(PAIRS)) == len(PAIRS)
            assert client.info()["scalar"] is False and not client.scalar


def test_scalar_models():
    with serving(case="qwen3_scalar") as (url, _), gramophone.Client(url) as client:
        assert client.scalar
        with gramophone.Judge(model("qwen3_scalar"), threads=1) as judge:
            assert client.judge(PAIRS).reward_b.tobytes() == judge.judge(PAIRS).reward_b.tobytes()
            prompts, responses, _ = zip(*PAIRS)
            assert client.reward(prompts, responses).tolist() == judge.reward(prompts, responses).tolist()


def test_a_server_that_is_not_up_yet_is_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = gramophone.Client(f"http://127.0.0.1:{port}")
    with pytest.raises(errors.Unreachable, match="no server answers"):
        client.wait_ready(timeout=0.3)
    with ThreadPoolExecutor(1) as threads:
        ready = threads.submit(client.wait_ready, 60)
        time.sleep(0.3)
        with serving(port=port):
            ready.result(60)
            assert len(client.judge(PAIRS)) == len(PAIRS)


def test_a_full_or_stopping_server_is_asked_again():
    busy = (503, {"Retry-After": "0"}, {"error": {"message": "the queue is full", "param": None}})
    with pretending(busy, None, (429, {}, b"no JSON"), (200, {}, {"judgments": [JUDGED]})) as (url, came):
        assert gramophone.Client(url).judge([("p", "a", "b")])[0].verdict == "tie"
    assert len(came) == 4 and all(request == came[0][2] for _, _, request in came)
    left = [float(headers["X-Request-Timeout"]) for _, headers, _ in came]
    assert 290 < left[-1] < left[0] <= 300, "each attempt has the time that is left"


def test_a_call_ends_at_its_deadline():
    with pretending((503, {"Retry-After": "1"}, {"error": {"message": "the queue is full"}})) as (url, came):
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match="the queue is full"):
            gramophone.Client(url).judge([("p", "a", "b")], timeout=2.5)
        assert 1 < time.monotonic() - began < 2.6 and len(came) == 3
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TimeoutError):
            gramophone.Client(f"http://127.0.0.1:{silent.getsockname()[1]}").judge([("p", "a", "b")], timeout=0.2)


def test_other_failures_are_not_asked_again():
    for status, body, kind, message in [
        (504, {"error": {"message": "the deadline passed"}}, errors.DeadlineExceeded, "the deadline passed"),
        (500, {"error": {"message": "damaged"}}, errors.ServerError, "damaged"),
        (404, b"<html>", errors.ServerError, "status 404: <html>"),
        (200, b"hello", errors.ServerError, "not JSON"),
    ]:
        with pretending((status, {}, body)) as (url, came):
            with pytest.raises(kind, match=message):
                gramophone.Client(url).judge([("p", "a", "b")])
            assert len(came) == 1


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(monkeypatch):
    monkeypatch.setattr(gramophone.client, "PAUSE", 60.0)
    answer = (200, {}, {"judgments": [JUDGED]})
    # Answers, then hangs up before the next request on the same connection.
    with pretending(answer, None, answer) as (url, came):
        client = gramophone.Client(url)
        client.judge([("p", "a", "b")])
        began = time.monotonic()
        client.judge([("p", "a", "b")])
        assert time.monotonic() - began < 30, "no pause was made"
        assert len(came) == 3


def test_one_part_that_fails_ends_the_others():
    wrong = (422, {}, {"error": {"message": "wrong", "param": "pairs[3].a"}})
    busy = (503, {"Retry-After": "60"}, {})
    with pretending(busy, busy, wrong) as (url, _):
        began = time.monotonic()
        with pytest.raises(errors.InvalidInput, match=r"pairs\[\d+\]\.response_a: wrong"):
            gramophone.Client(url).judge([(f"{i}", "a", "b") for i in range(600)])
        assert time.monotonic() - began < 10
