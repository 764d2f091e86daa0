"""Two replicas on Ray, behind one handle."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from conftest import GROUPS, PAIRS, model, same_bits

from gramophone import errors
from gramophone.ray import Replicas


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def replicas(cluster):
    opened = Replicas(model(), replicas=2, threads=1)
    yield opened
    opened.close()


def test_the_bits_are_those_of_the_command_line(replicas, judge, expected):
    assert same_bits(replicas.judge(PAIRS), expected)
    many = [(f"Question {i}", f"{i}", f"{i + 1}") for i in range(130)]
    assert replicas.judge(many).p_a.tobytes() == judge.judge(many).p_a.tobytes()
    for here, there in zip(judge.rank(GROUPS), replicas.rank(GROUPS)):
        assert (here.order, here.wins, here.scores.tobytes()) == (there.order, there.wins, there.scores.tobytes())
    assert len(replicas.judge([])) == 0 and not replicas.scalar


def test_threads_share_the_handle_and_both_replicas_work(replicas, expected):
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: same_bits(replicas.judge(PAIRS), expected), range(16)))
    seen = [ray.get(actor.judge.remote([("p", "a", "b")], None, 0)) for actor in replicas.replicas]
    assert len(seen) == 2 and seen[0].p_a.tobytes() == seen[1].p_a.tobytes()
    assert replicas._busy == [0, 0]


def test_handles_travel(replicas, expected):
    @ray.remote(num_cpus=0)
    def elsewhere(handle):
        return handle.judge(PAIRS).p_a.tolist()

    assert ray.get(elsewhere.remote(replicas)) == [row["p_a"] for row in expected]


def test_errors_are_those_of_a_judge_here(replicas, cluster):
    with pytest.raises(errors.TooLong) as refused:
        replicas.judge([("p", "word " * 5000, "b")])
    assert refused.value.most == 4096
    with pytest.raises(errors.InvalidInput, match="no method"):
        replicas.rank(GROUPS, method="best")
    with pytest.raises(errors.DeadlineExceeded):
        replicas.judge([(f"{i}", "word " * 300, "b") for i in range(300)], timeout=0.05)
    assert replicas._busy == [0, 0]
    with pytest.raises(Exception, match="no/such/model"):
        Replicas("/no/such/model", replicas=1, num_cpus=0)
    with pytest.raises(errors.InvalidInput):
        Replicas(model(), replicas=0)
