"""What each framework calls, as it calls it: with a judge here, and with a server."""

import asyncio
import importlib.util
import inspect
import math
import sys
import types
from types import SimpleNamespace

import pytest
from conftest import PAIRS, model

import gramophone
from gramophone import errors, openrlhf, slime, swift, texts, trl, verifiers

CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
RENDERED = CHATML.format("What is 2 + 2?")
ANSWERS = ["4", "Five, I think.", "2 + 2 = 4", "no idea"]


@pytest.fixture(params=["here", "server"])
def where(request, judge, server):
    return judge if request.param == "here" else server


def test_texts_of_policies():
    assert texts.prompt_of(RENDERED) == TURNS
    assert texts.prompt_of("plain") == [{"role": "user", "content": "plain"}]
    assert texts.prompt_of(TURNS) is TURNS
    assert texts.response_of("4<|im_end|>\n") == "4"
    assert texts.response_of([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "t"}]) == "a"
    assert texts.response_of([{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]) == "x"
    assert texts.response_of([{"role": "assistant", "content": None}]) is None and texts.response_of(None) is None
    assert texts.split(RENDERED + "4<|im_end|>", RENDERED) == (TURNS, "4")
    assert texts.runs(["a", "a", "b", "a"]) == [(0, 2), (2, 3), (3, 4)]


def test_trl_ranks_within_groups(where, judge):
    reward = trl.PairwiseReward(where)
    logged, measured = {}, {}
    prompts = ["What is 2 + 2?"] * 4 + ["alone"] + ["Why?"] * 2
    completions = ANSWERS + ["x"] + ["Because.", "No reason."]
    columns = {"completion_ids": [[1]] * 7, "trainer_state": None, "other": [0] * 7}
    rewards = reward(prompts, completions, log_extra=logged.__setitem__, log_metric=measured.__setitem__, **columns)
    first, second = judge.rank([("What is 2 + 2?", ANSWERS), ("Why?", ["Because.", "No reason."])])
    assert rewards == [*first.scores, None, *second.scores]
    assert logged["gramophone_place"] == [p + 1 for p in first.places] + [None] + [p + 1 for p in second.places]
    assert measured == {"gramophone/comparisons": 7.0}
    # Conversations; one completion calls a tool and says nothing.
    said = [[{"role": "assistant", "content": answer}] for answer in ANSWERS[:3]]
    said.insert(1, [{"role": "assistant", "content": None, "tool_calls": []}])
    rewards = reward([TURNS] * 4, said)
    ranking = judge.rank([(TURNS, ANSWERS[:3])])[0]
    assert rewards == [ranking.scores[0], None, *ranking.scores[1:]]
    assert reward.__name__ == "gramophone" and not inspect.iscoroutinefunction(reward)


def test_trl_against_references(where, judge):
    reward = trl.PairwiseReward(where, reference="answer")
    measured = {}
    rewards = reward(["q", "q", "q"], ["a", "b", "c"], answer=["x", None, "y"], log_metric=measured.__setitem__)
    judged = judge.judge([("q", "a", "x"), ("q", "c", "y")])
    assert rewards == [judged.p_a[0], None, judged.p_a[1]]
    assert measured == {"gramophone/consistent": judged.consistent.mean()}
    with pytest.raises(KeyError, match="answer"):
        reward(["q"], ["a"])


def test_verl_loads_its_file_by_path(where, judge):
    # As verl's `load_module` does.
    path = inspect.getsourcefile(importlib.import_module("gramophone.verl"))
    spec = importlib.util.spec_from_file_location("custom_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def score(ground_truth="Five", **info):
        call = module.compute_score(
            data_source="x",
            solution_str="4<|im_end|>",
            ground_truth=ground_truth,
            extra_info=info,
            reward_router_address=None,
            reward_model_tokenizer=None,
            judge=where,
        )
        return asyncio.run(call)

    judged = judge.judge([(TURNS, "4", "Five")])[0]
    found = score(prompt=RENDERED)
    assert found["score"] == judged.p_a and found["margin"] == judged.margin
    assert all(isinstance(value, float) for value in found.values())
    assert score(question="What is 2 + 2?")["score"] == judge.judge([("What is 2 + 2?", "4", "Five")]).p_a[0]
    with pytest.raises(errors.InvalidInput, match="prompt"):
        score(index=3)
    with pytest.raises(errors.InvalidInput, match="reference"):
        score(ground_truth=None, question="?")


def test_openrlhf(where, judge):
    pytest.importorskip("torch")
    queries = [RENDERED + answer + "<|im_end|>\n" for answer in ANSWERS]
    found = openrlhf.reward_func(queries, [RENDERED] * 4, ["Five", None, "4", "word " * 5000], judge=where)
    judged = judge.judge([(TURNS, ANSWERS[0], "Five"), (TURNS, ANSWERS[2], "4")])
    theirs = [judged.p_a[0], 0.5, judged.p_a[1], 0.5]
    assert found["rewards"].tolist() == pytest.approx(theirs, abs=1e-7) and found["rewards"].shape == (4,)
    assert found["scores"].tolist() == found["rewards"].tolist()
    assert found["extra_logs"]["invalid"].tolist() == [0, 1, 0, 1]
    assert found["extra_logs"]["margin_ab"].tolist() == [judged.margin_ab[0], 0, judged.margin_ab[1], 0]


def test_slime(where, judge, monkeypatch, server):
    if where is judge:
        monkeypatch.delenv("GRAMOPHONE_URL", raising=False)
        monkeypatch.setenv("GRAMOPHONE_MODEL", model())
    args = SimpleNamespace(rm_url=None if where is judge else server)
    samples = [SimpleNamespace(prompt=RENDERED, response=answer + "<|im_end|>", label="Five") for answer in ANSWERS]
    rewards = asyncio.run(slime.group_rm(args, samples))
    assert rewards == judge.rank([(TURNS, ANSWERS)])[0].scores.tolist()
    assert asyncio.run(slime.single_rm(args, samples[0])) == judge.judge([(TURNS, "4", "Five")]).p_a[0]
    assert asyncio.run(slime.group_rm(args, [])) == []
    samples[2].prompt = "another"
    with pytest.raises(errors.InvalidInput, match=r"samples\[2\]"):
        asyncio.run(slime.group_rm(args, samples))


def test_verifiers(where, judge):
    group, single = verifiers.group_reward(where), verifiers.reward(where)
    completions = [[{"role": "assistant", "content": answer}] for answer in ANSWERS]
    rewards = asyncio.run(group(prompts=[TURNS] * 4, completions=completions, states=[{}] * 4))
    assert rewards == judge.rank([(TURNS, ANSWERS)])[0].scores.tolist()
    found = asyncio.run(single(prompt=TURNS, completion=completions[0], answer="Five", state={}))
    assert found == judge.judge([(TURNS, "4", "Five")]).p_a[0]
    # A rubric tells group functions from others by their plural names.
    assert {"prompts", "completions"} <= set(inspect.signature(group).parameters)
    assert {"prompt", "completion", "answer"} <= set(inspect.signature(single).parameters)


def test_swift(where, judge):
    function = swift.GroupReward(judge=where)
    rows = [TURNS + [{"role": "assistant", "content": answer}] for answer in ANSWERS]
    assert function(ANSWERS, messages=rows, solution=[None] * 4) == list(judge.rank([(TURNS, ANSWERS)])[0].scores)
    with pytest.raises(errors.InvalidInput, match="messages"):
        function(ANSWERS)


def test_skyrl(where, judge, monkeypatch, server):
    # Its package's two classes, as its environments see them.
    class BaseTextEnv:
        def __init__(self):
            self.turns = 0

    Output = type("BaseTextEnvStepOutput", (SimpleNamespace,), {})
    base = types.ModuleType("skyrl_gym.envs.base_text_env")
    base.BaseTextEnv, base.BaseTextEnvStepOutput = BaseTextEnv, Output
    for name in ("skyrl_gym", "skyrl_gym.envs"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.delitem(sys.modules, "gramophone.skyrl", raising=False)
    skyrl = importlib.import_module("gramophone.skyrl")
    if where is judge:
        monkeypatch.setenv("GRAMOPHONE_MODEL", model())
    config = {} if where is judge else {"base_url": server}
    env = skyrl.JudgedEnv(config, {"reward_model": {"ground_truth": "Five"}})
    assert env.init(TURNS) == (TURNS, {})
    step = env.step("4<|im_end|>")
    assert (step.reward, step.done, step.observations) == (judge.judge([(TURNS, "4", "Five")]).p_a[0], True, [])
    sys.modules.pop("gramophone.skyrl")


def test_scalar_models_need_no_references():
    with gramophone.Judge(model("qwen3_scalar"), threads=1) as scalar:
        alone = scalar.reward([TURNS] * 4, ANSWERS).tolist()
        assert trl.PairwiseReward(scalar)([TURNS] * 4, [[{"role": "assistant", "content": a}] for a in ANSWERS]) == alone
        found = openrlhf.reward_func([RENDERED + "4"], [RENDERED], [None], judge=scalar)
        assert float(found["rewards"][0]) == pytest.approx(alone[0])
        assert float(found["scores"][0]) == pytest.approx(1 / (1 + math.exp(-alone[0])))


def test_judges_are_found_by_the_environment(monkeypatch, server):
    for name in ("GRAMOPHONE_URL", "GRAMOPHONE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.InvalidInput, match="GRAMOPHONE_URL"):
        gramophone.open_scorer()
    monkeypatch.setenv("GRAMOPHONE_MODEL", model())
    local = gramophone.open_scorer()
    assert isinstance(local, gramophone.Judge) and gramophone.open_scorer() is local
    monkeypatch.setenv("GRAMOPHONE_URL", server)
    remote = gramophone.open_scorer()
    assert isinstance(remote, gramophone.Client) and gramophone.open_scorer(server) is remote
    assert remote.judge(PAIRS).p_a.tobytes() == local.judge(PAIRS).p_a.tobytes()
