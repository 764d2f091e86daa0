"""`examples/embed.c`, compiled and run: its numbers are those of the command line."""

import os
import re
import subprocess

import numpy
from conftest import BINARY, ROOT, cli, model

PROMPTS = ["What is 2 + 2?", "Wie viel ist 2 + 2ä?"]
ANSWERS = ["4", "Five, I think.", "2 + 2 = 4, because 2 and 2 are four."]


def test_the_example_in_c(tmp_path):
    libraries, program = BINARY.parent, tmp_path / "embed"
    compiled = [os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", program, ROOT / "examples/embed.c"]
    linked = ["-I", ROOT / "capi", "-L", libraries, "-lgramophone", "-lpthread", f"-Wl,-rpath,{libraries}"]
    subprocess.run([*compiled, *linked], check=True)
    said = subprocess.run([program, model()], capture_output=True, text=True, check=True).stdout

    rows = [
        {"prompt": prompt, "response_a": ANSWERS[i], "response_b": ANSWERS[(i + 1) % 3]} for prompt in PROMPTS for i in range(3)
    ]
    found = re.findall(r"pair (\d) (\d): p_a (\S+), margins (\S+) (\S+), (\w+)", said)
    theirs = cli("judge", rows)
    assert len(found) == len(theirs) == 6
    for (thread, i, p, ab, ba, verdict), row in zip(found, theirs):
        assert (float(p), verdict) == (row["p_a"], row["verdict"])
        for mine, name in [(ab, "margin_ab"), (ba, "margin_ba")]:
            assert numpy.float32(mine) == numpy.float32(row[name])
    ranked = cli("rank", [{"prompt": PROMPTS[0], "responses": ANSWERS}])[0]
    places = re.findall(r"rank \d: answer (\d), score (\S+)", said)
    assert [int(answer) for answer, _ in places] == ranked["order"]
    assert [numpy.float32(score) for _, score in places] == [numpy.float32(ranked["scores"][i]) for i in ranked["order"]]
    refused = subprocess.run([program, "/no/such/model"], capture_output=True, text=True)
    assert refused.returncode == 1 and "/no/such/model" in refused.stderr


def test_the_header_serves_c_plus_plus_too(tmp_path):
    source = tmp_path / "header.cpp"
    source.write_text('#include "gramophone.h"\nint main() { return gramophone_version() == nullptr; }\n')
    command = [os.environ.get("CXX", "c++"), "-Wall", "-Werror", "-fsyntax-only", "-I", ROOT / "capi", source]
    subprocess.run(command, check=True)
