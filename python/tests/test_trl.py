"""TRL's own trainer with our reward function: a tiny policy, two steps, on the CPU."""

import pytest
from conftest import model
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer

from gramophone.trl import PairwiseReward


class Recorded(PairwiseReward):
    """Notes what the trainer asked and got."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.calls = []

    def __call__(self, prompts, completions, **columns):
        rewards = super().__call__(prompts, completions, **columns)
        self.calls.append((prompts, completions, rewards, sorted(columns)))
        return rewards


def policy():
    set_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(model())
    config = LlamaConfig(
        vocab_size=295,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=288,
        eos_token_id=294,
        pad_token_id=290,
    )
    return LlamaForCausalLM(config), tokenizer


@pytest.mark.parametrize("kind", ["here", "server"])
def test_two_steps_of_grpo(kind, judge, server, tmp_path):
    reward = Recorded(judge if kind == "here" else server)
    questions = ["What is 2 + 2?", "Why?", "Who?", "When?"]
    prompts = questions if kind == "here" else [[{"role": "user", "content": question}] for question in questions]
    network, tokenizer = policy()
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        seed=1,
    )
    trainer = GRPOTrainer(
        model=network,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 2 and len(reward.calls) == 2
    for asked, completions, rewards, columns in reward.calls:
        assert len(asked) == 4 and all(prompt == asked[0] for prompt in asked)
        assert {"completion_ids", "log_extra", "log_metric", "trainer_state"} <= set(columns)
        texts = [c if kind == "here" else c[0]["content"] for c in completions]
        said = [i for i, text in enumerate(texts) if text]
        ranking = judge.rank([(asked[0], [texts[i] for i in said])])[0]
        assert [rewards[i] for i in said] == ranking.scores.tolist()
    logged = [entry for entry in trainer.state.log_history if "rewards/gramophone/mean" in entry]
    assert len(logged) == 2 and all("gramophone/comparisons" in entry for entry in logged)
