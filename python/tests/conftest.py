"""Tiny models of tests/golden, the command line to compare with, and servers."""

import json
import os
import re
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import gramophone

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "gramophone"

PAIRS = [
    ("What is 2 + 2?", "4", "Five, I think."),
    ("Say it in German", "Grüß Gott", "héllo 你好"),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}], "Because.", "No reason at all."),
    ("An empty answer", "", "not empty"),
    ("Long", "word " * 120, "word " * 119),
    ("Same", "same", "same"),
]
GROUPS = [(prompt, [a, b, f"{a} {b}", "something else"]) for prompt, a, b in PAIRS[:3]]


def model(case="llama"):
    return str(ROOT / "tests" / "golden" / case)


def cli(verb, rows, *flags, case="llama"):
    """What the command line answers to rows."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    command = [BINARY, verb, "--model", model(case), "--input", "-", *flags]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def pair_rows(pairs=PAIRS):
    return [{"prompt": p, "response_a": a, "response_b": b} for p, a, b in pairs]


@contextmanager
def serving(*flags, case="llama", port=0):
    """A server's address and its process."""
    address = ["--addr", f"127.0.0.1:{port}", "--threads", "2", "--quiet"]
    command = [BINARY, "serve", "--model", model(case), *address, *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    said = ""
    for line in process.stderr:
        said += line.decode()
        found = re.search(r"serving on (http://\S+)", said)
        if found:
            break
    else:
        raise AssertionError(f"the server did not start: {said}")
    # Nobody may wait for a full pipe.
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield found.group(1), process
    finally:
        process.terminate()
        assert process.wait(30) == 0, "the server ends well"


@pytest.fixture(scope="session")
def judge():
    with gramophone.Judge(model(), threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def server():
    with serving() as (url, _):
        yield url


@pytest.fixture(scope="session")
def client(server):
    with gramophone.Client(server) as opened:
        yield opened


@pytest.fixture(scope="session")
def expected():
    """The command line's judgments of PAIRS."""
    return cli("judge", pair_rows())


def same_bits(judgments, rows):
    """Whether judgments are those that the command line wrote."""
    import numpy

    assert [j.verdict for j in judgments] == [row["verdict"] for row in rows]
    assert judgments.p_a.dtype == numpy.float64 and judgments.margin_ab.dtype == numpy.float32
    assert judgments.p_a.tolist() == [row["p_a"] for row in rows]
    assert judgments.label_mass.tolist() == [row["label_mass"] for row in rows]
    for name in ("margin_ab", "margin_ba"):
        # The command line writes the shortest decimals that read back as the same float32.
        theirs = numpy.array([row[name] for row in rows], dtype=numpy.float32)
        assert judgments.column(name).tobytes() == theirs.tobytes()
    assert judgments.consistent.astype(bool).tolist() == [row["consistent"] for row in rows]
    return True
