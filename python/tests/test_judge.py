"""A judge in this process."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
from conftest import GROUPS, PAIRS, cli, model, pair_rows, same_bits

import gramophone
from gramophone import errors


def test_the_bits_are_those_of_the_command_line(judge, expected):
    assert same_bits(judge.judge(PAIRS), expected)


def test_all_shapes_of_input_are_one(judge, expected):
    rows = pair_rows()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert same_bits(judge.judge(rows), expected)
    assert same_bits(judge.judge(columns), expected)
    assert same_bits(judge.judge(iter(PAIRS)), expected)
    one = judge.judge(PAIRS)[1]
    assert (one.p_a, one.verdict) == (expected[1]["p_a"], expected[1]["verdict"])
    assert (one.margin > 0) == (one.verdict == "A")
    assert [j.verdict for j in judge.judge(PAIRS)[4:]] == [row["verdict"] for row in expected[4:]]
    assert len(judge.judge([])) == 0


def test_groups_rank_as_on_the_command_line(judge):
    rows = [{"prompt": prompt, "responses": responses} for prompt, responses in GROUPS]
    for method in ["round-robin", "linear", "knockout", "swiss", "anchor", "adaptive"]:
        for found, theirs in zip(judge.rank(GROUPS, method=method), cli("rank", rows, "--method", method)):
            assert found.order == theirs["order"]
            assert found.comparisons == theirs["comparisons"]
            assert found.scores.astype(numpy.float32).tolist() == numpy.float32(theirs["scores"]).tolist()
    full = judge.rank(rows)[0]
    p = judge.judge([(GROUPS[0][0], GROUPS[0][1][0], GROUPS[0][1][2])]).p_a[0]
    assert (full.wins[0][2], full.wins[2][0], full.wins[1][1]) == (p, 1.0 - p, None)
    assert full.places[full.best] == 0 and sorted(full.places) == [0, 1, 2, 3]
    assert judge.rank([("alone", ["one"])])[0].wins is None
    two = judge.rank(GROUPS, method="anchor", anchors=1)
    assert all(ranking.comparisons == 3 for ranking in two)


def test_rewards_are_wins_against_references(judge, expected):
    prompts, responses, references = zip(*PAIRS)
    assert judge.reward(prompts, responses, references).tolist() == [row["p_a"] for row in expected]
    with pytest.raises(errors.InvalidInput, match="reference"):
        judge.reward(prompts, responses)


def test_ids_in_and_logits_out(judge):
    encoded = [judge.encode(*pair) for pair in PAIRS]
    prompts = [ids for both in encoded for ids in both]
    logits, lse = judge.judge_ids([numpy.array(ids, dtype=numpy.int32) for ids in prompts])
    margins = logits[:, 0] - logits[:, 1]
    judged = judge.judge(PAIRS)
    assert margins[0::2].tobytes() == judged.margin_ab.tobytes()
    assert margins[1::2].tobytes() == judged.margin_ba.tobytes()
    assert (lse > logits.max(axis=1)).all()
    flat = numpy.concatenate([numpy.array(ids) for ids in prompts])
    offsets = numpy.cumsum([0] + [len(ids) for ids in prompts])
    again, _ = judge.judge_ids(flat, judge.labels, offsets=offsets)
    assert again.tobytes() == logits.tobytes()
    swapped, _ = judge.judge_ids(prompts, judge.labels[::-1])
    assert swapped[:, ::-1].tobytes() == logits.tobytes()
    for bad, message in [([[1.5]], "prompts\\[0\\]"), ([[10**10]], "prompts\\[0\\]"), ([[99999]], "vocabulary"), ([[]], "no token")]:
        with pytest.raises(errors.InvalidInput, match=message):
            judge.judge_ids(bad)
    with pytest.raises(errors.InvalidInput, match="offsets"):
        judge.judge_ids(flat, offsets=[0, 5])


def test_scalar_models_give_rewards():
    rows = cli("judge", pair_rows(), case="qwen3_scalar")
    with gramophone.Judge(model("qwen3_scalar")) as scalar:
        assert scalar.scalar and scalar.labels is None
        judged = scalar.judge(PAIRS)
        assert judged.reward_a.tobytes() == numpy.float32([row["reward_a"] for row in rows]).tobytes()
        assert [j.verdict for j in judged] == [row["verdict"] for row in rows]
        assert judged.margin_ab is None and judged[0].margin is None
        prompts, responses, _ = zip(*PAIRS)
        assert scalar.reward(prompts, responses).astype(numpy.float32).tobytes() == judged.reward_a.tobytes()
        with pytest.raises(errors.InvalidInput, match="scalar head"):
            scalar.judge_ids([[1, 2]])
        assert scalar.reward_ids([[1, 2], [3]]).dtype == numpy.float32


def test_eight_threads_share_one_queue_and_get_the_same_bits(expected):
    # A queue that holds a few pairs at most: the threads wait for room, and nothing is refused.
    with gramophone.Judge(model(), threads=2, queue_tokens=4000) as judge:

        def work(thread):
            turned = PAIRS[thread % 6 :] + PAIRS[: thread % 6]
            theirs = expected[thread % 6 :] + expected[: thread % 6]
            return all(same_bits(judge.judge(turned), theirs) for _ in range(3))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(8)))
        assert judge.load == (0, 0)


def test_the_interpreter_is_free_while_it_computes(judge):
    # Different texts, so that nothing is computed once for all.
    pairs = [(f"Question {i}", f"{i} " * 150, f"{i + 1} " * 150) for i in range(60)]
    done = threading.Event()
    began = time.monotonic()
    thread = threading.Thread(target=lambda: (judge.judge(pairs), done.set()))
    thread.start()
    steps = 0
    while not done.is_set():
        time.sleep(0.001)
        steps += 1
    took = time.monotonic() - began
    thread.join()
    assert took > 0.1, "too short to tell"
    assert steps > 100 * took, f"{steps} steps in {took:.2f} s"


def test_an_interrupt_ends_a_long_call_and_takes_its_work_along():
    script = f"""
import gramophone, time
judge = gramophone.Judge({model()!r}, threads=1)
pairs = [(f"Question {{i}}", f"{{i}} " * 300, f"{{i + 1}} " * 300) for i in range(100000)]
print("go", flush=True)
began = time.monotonic()
try:
    judge.judge(pairs)
except KeyboardInterrupt:
    print("interrupted", judge.load == (0, 0), len(judge.judge(pairs[:1])), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted True 1\n"
    assert time.monotonic() - began < 10
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([("p", "a")], r"pairs\[0\] is a mapping or a tuple"),
        ([("p", "a", "b"), ("p", "a", None)], r"pairs\[1\]\.response_b is a text, not NoneType"),
        ([{"prompt": "p", "response_a": "a"}], r"pairs\[0\]: there is no 'response_b'"),
        ({"prompt": ["p"], "response_a": ["a"]}, "no column 'response_b'"),
        ({"prompt": ["p"], "response_a": ["a"], "response_b": []}, "not equally long"),
        ([(3, "a", "b")], r"pairs\[0\]\.prompt"),
        ([([], "a", "b")], "empty list of messages"),
        ([([{"content": "x"}], "a", "b")], r"pairs\[0\].*role"),
        ([([{"role": "user", "content": {1}}], "a", "b")], "no JSON text"),
        ([("p", "\ud800", "b")], "half a character"),
        ("pairs", "list of tuples"),
    ],
)
def test_what_cannot_be_judged_is_named(judge, pairs, message):
    with pytest.raises(errors.InvalidInput, match=message):
        judge.judge(pairs)
    assert judge.load == (0, 0)


def test_other_refusals(judge):
    with pytest.raises(errors.TooLong, match=r"pairs\[1\]: .* tokens") as refused:
        judge.judge([("p", "a", "b"), ("p", "word " * 5000, "b")])
    assert refused.value.tokens > refused.value.most == judge.context
    with pytest.raises(ValueError):
        judge.rank([("p", [])])
    with pytest.raises(errors.InvalidInput, match="there is no method"):
        judge.rank(GROUPS, method="best")
    with pytest.raises(errors.InvalidInput, match="anchors go with"):
        judge.rank(GROUPS, anchors=2)
    with pytest.raises(errors.InvalidInput, match="timeout is -1"):
        judge.judge(PAIRS, timeout=-1)
    with pytest.raises(TimeoutError):
        judge.judge([(f"{i}", "word " * 200, "b") for i in range(200)], timeout=0.01)
    assert judge.load == (0, 0)


def test_a_judge_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(errors.ModelError, match="no/such/model"):
        gramophone.Judge("/no/such/model")
    with pytest.raises(errors.InvalidInput, match="unknown device"):
        gramophone.Judge(model(), device="tpu")
    with pytest.raises(errors.InvalidInput, match="dtype"):
        gramophone.Judge(model(), dtype="int4")
    with pytest.raises(errors.InvalidInput, match="99999"):
        gramophone.Judge(model(), context=99999)
    with pytest.raises(OSError, match="no/such/template"):
        gramophone.Judge(model(), template="/no/such/template")
    (tmp_path / "template.txt").write_text("{prompt} only")
    with pytest.raises(errors.Error, match="response_a"):
        gramophone.Judge(model(), template=tmp_path / "template.txt")


def test_weights_are_exchanged_and_closed_judges_refuse(tmp_path):
    judge = gramophone.Judge(model(), threads=1, weight_version="first")
    assert judge.weight_version == "first"
    with pytest.raises(errors.ModelError, match="tokenizer"):
        judge.reload(model("qwen2"), "second")
    judge.reload(model(), "second")
    assert judge.weight_version == "second"
    judge.close()
    judge.close()
    with pytest.raises(errors.Stopped, match="closed"):
        judge.judge(PAIRS)


def test_a_fork_is_refused_and_not_waited_for(judge):
    child = os.fork()
    if child == 0:
        try:
            judge.judge(PAIRS)
        except errors.Stopped as e:
            os._exit(7 if "another process" in str(e) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(judge.judge(PAIRS)) == len(PAIRS)


def test_without_numpy():
    script = f"""
import sys
sys.modules["numpy"] = None
import gramophone
judge = gramophone.Judge({model()!r}, threads=1)
found = judge.judge([("1 + 1?", "2", "3")])
logits, lse = judge.judge_ids([list(judge.encode("1 + 1?", "2", "3")[0])])
print(found.p_a[0], type(found.p_a).__name__, logits[0] - logits[1] == found.margin_ab[0])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    theirs = cli("judge", [{"prompt": "1 + 1?", "response_a": "2", "response_b": "3"}])[0]
    assert said[0] == repr(theirs["p_a"]) and said[1] == "array"
