#!/usr/bin/env python3
"""Writes the work that every engine in this comparison gets: a model directory and token ids.

    python benches/peers/workload.py --out target/peers

    model/config.json, model/model.safetensors   Qwen3 shape, 23.1M parameters, f32, random from a fixed seed
    train.jsonl   one {"ids": [...]} a line: 64 sequences of 512 tokens; a batch is --batch lines in order
    judge.jsonl   one {"id", "ab": [...], "ba": [...]} a line: the two prompts of a pair, 100..700 tokens each
    labels.json   {"A": id, "B": id}: the verdict is the logit of A minus that of B at the last position

The ids are random: only their number matters here. Both prompts of a pair share the question; the answers swap places.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_theta": 1000000.0,
    "torch_dtype": "float32",
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LABELS = {"A": 32, "B": 33}


def write_model(root, rng):
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(root))
    state = {}
    for name, p in model.named_parameters():
        value = np.ones(p.shape) if name.endswith("norm.weight") else 0.02 * rng.standard_normal(p.shape)
        state[name] = torch.from_numpy(value).float()
    save_file(state, root / "model.safetensors", {"format": "pt"})
    print(f"model: {sum(t.numel() for t in state.values()) / 1e6:.1f}M parameters")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def train_rows(rng, count=64, length=512):
    return [{"ids": rng.integers(1, CONFIG["vocab_size"], length).tolist()} for _ in range(count)]


def judge_rows(rng, count=64, shortest=100, longest=700):
    rows = []
    for i in range(count):
        length = int(rng.integers(shortest, longest + 1))
        ids = rng.integers(1, CONFIG["vocab_size"], length).tolist()
        start, end = length // 5, length - 8  # Question; two answers of unequal length; the closing words.
        middle = start + int((end - start) * rng.uniform(0.3, 0.7))
        question, a, b, close = ids[:start], ids[start:middle], ids[middle:end], ids[end:]
        rows.append({"id": i, "ab": question + a + b + close, "ba": question + b + a + close})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_model(args.out / "model", np.random.default_rng(1))
    write_lines(args.out / "train.jsonl", train_rows(np.random.default_rng(2)))
    pairs = judge_rows(np.random.default_rng(3))
    write_lines(args.out / "judge.jsonl", pairs)
    (args.out / "labels.json").write_text(json.dumps(LABELS) + "\n")
    print(f"judge: {len(pairs)} pairs, {sum(len(p['ab']) + len(p['ba']) for p in pairs)} tokens")


if __name__ == "__main__":
    main()
