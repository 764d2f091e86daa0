#!/usr/bin/env python3
"""Writes tests/golden/: tiny models as Hugging Face directories, and what transformers and torch compute with them.

    pip install -r scripts/requirements.txt
    python scripts/golden.py [--out tests/golden] [CASE ...]

Every model is random, from a config in this file and a fixed seed; nothing is downloaded. Everything is computed in f32
with eager attention, one unpadded sequence at a time, from the stored weights (which are exact in bf16, so the same for
every storage type). `tests/golden/README.md` says what each file holds.
"""

import argparse
import datetime
import json
import math
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import golden_text as text

DATE = datetime.datetime(2024, 7, 26)
LENGTHS = [1, 7, 33, 64]
# Half-open ranges of target positions t (predicted from t-1) in the sequences of LENGTHS; the first has none.
SPANS = [[], [[3, 7]], [[1, 9], [20, 33]], [[16, 64]]]
POSITIONS = [[0], [0, 3, 6], [0, 16, 32], [0, 31, 63]]  # Of these sequences, whose logits are kept whole.
BATCHES = [[1, 2], [2, 3], [3, 1]]  # Step s of the AdamW run trains on BATCHES[s % 3], as sequence indices.
ALPHA = 0.1  # Label smoothing as torch counts it; epsilon = ALPHA / 2.

LLAMA3_ROPE = {
    # A small original length, so that of the few wavelengths some are kept, one is blended and some are scaled.
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_type": "llama3",
}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@dataclass
class Case:
    """One model directory. `full` cases keep (nearly) whole gradients and all renderings; others keep samples."""

    name: str
    family: str  # model_type
    style: str  # tokenizer and template
    config: dict
    old_keys: bool = False  # rope_theta, rope_scaling, torch_dtype; else rope_parameters, dtype.
    storage: torch.dtype = torch.bfloat16
    shards: int = 1
    full: bool = False
    scalar: bool = False
    spare_vocab: int = 0  # Rows of the embedding beyond the tokenizer's ids, as Qwen has.
    write_tied_head: bool = False
    template_file: bool = False  # chat_template.jinja instead of a key of tokenizer_config.json.
    extra: dict = field(default_factory=dict)


CASES = [
    Case(
        "llama",
        "llama",
        "llama3",
        SHAPE | {"rms_norm_eps": 1e-5, "tie_word_embeddings": False},
        full=True,
        extra={"rope": LLAMA3_ROPE | {"rope_theta": 10000.0}},
    ),
    Case(
        "qwen2",
        "qwen2",
        "qwen2",
        SHAPE
        | {
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 16,
            "max_window_layers": 2,
        },
        full=True,
        old_keys=True,
        spare_vocab=5,
        extra={"rope": {"rope_theta": 1000000.0}},
    ),
    Case(
        "qwen3",
        "qwen3",
        "qwen3",
        SHAPE | {"head_dim": 12, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False},
        full=True,
        template_file=True,
        spare_vocab=3,
        extra={"rope": {"rope_theta": 1000000.0, "rope_type": "default"}},
    ),
    # Tied, old keys, f32 storage, and the head written although it is the embedding.
    Case(
        "llama_tied",
        "llama",
        "llama3",
        SMALL | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True},
        old_keys=True,
        storage=torch.float32,
        write_tied_head=True,
        extra={"rope": LLAMA3_ROPE | {"rope_theta": 500000.0}},
    ),
    # Every bias there is, an explicit head size, two shards with an index, no grouping of heads.
    Case(
        "llama_bias",
        "llama",
        "llama3",
        SMALL
        | {
            "head_dim": 12,
            "num_key_value_heads": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        shards=2,
        extra={"rope": {"rope_theta": 10000.0, "rope_type": "default"}},
    ),
    # Sizes that no vector width divides: three heads on one key head, biases beside qk-norm, an untied head.
    Case(
        "qwen3_odd",
        "qwen3",
        "qwen3",
        {
            "hidden_size": 13,
            "intermediate_size": 19,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "attention_bias": True,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        old_keys=True,
        extra={"rope": {"rope_theta": 10000.0}},
    ),
    # The pad token is the end-of-turn token: the scored position is the last one that is not it.
    Case(
        "llama_scalar",
        "llama",
        "llama3",
        SMALL | {"rms_norm_eps": 1e-5, "tie_word_embeddings": False},
        scalar=True,
        extra={"rope": LLAMA3_ROPE | {"rope_theta": 10000.0}, "pad": "<|eot_id|>"},
    ),
    Case(
        "qwen3_scalar",
        "qwen3",
        "qwen3",
        SMALL | {"head_dim": 10, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
        scalar=True,
        extra={"rope": {"rope_theta": 10000.0, "rope_type": "default"}},
    ),
]
ARCHITECTURE = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


# ---------------------------------------------------------------------------------------------------------------------
# Model directories


def write_tokenizer(case, root):
    tokenizer, names = text.train(case.style)
    tokenizer.save(str(root / "tokenizer.json"), pretty=False)
    added = {str(i): t for i, t in tokenizer.get_added_tokens_decoder().items()}
    config = {
        "added_tokens_decoder": {
            i: {k: getattr(t, k) for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
            for i, t in added.items()
        },
        **names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    template = text.TEMPLATES[case.style]
    if case.template_file:
        (root / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = template
    write_json(root / "tokenizer_config.json", config)
    return tokenizer


def write_config(case, root, tokenizer):
    """config.json and generation_config.json, in the keys of transformers 4 (`old_keys`) or 5."""
    ids = tokenizer.token_to_id
    llama = case.style == "llama3"
    eos = (
        [ids("<|end_of_text|>"), ids("<|eom_id|>"), ids("<|eot_id|>")]
        if llama
        else [ids("<|im_end|>"), ids("<|endoftext|>")]
    )
    pad = ids(case.extra.get("pad", "<|finetune_right_pad_id|>" if llama else "<|endoftext|>"))
    head = "ForSequenceClassification" if case.scalar else "ForCausalLM"
    rope = dict(case.extra["rope"])
    dtype = str(case.storage).removeprefix("torch.")
    config = {"architectures": [ARCHITECTURE[case.family] + head], "model_type": case.family, "hidden_act": "silu"}
    config |= case.config | {
        "vocab_size": tokenizer.get_vocab_size() + case.spare_vocab,
        "max_position_embeddings": 4096,
        "attention_dropout": 0.0,
        "bos_token_id": ids("<|begin_of_text|>") if llama else ids("<|endoftext|>"),
        "eos_token_id": eos if llama else eos[0],
        "pad_token_id": pad,
        "use_cache": True,
    }
    if case.scalar:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if case.old_keys:
        config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope or None, "torch_dtype": dtype}
    else:
        config |= {"rope_parameters": rope, "dtype": dtype}
    write_json(root / "config.json", config)
    generation = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": eos,
        "pad_token_id": pad,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    write_json(root / "generation_config.json", generation)


def model_class(case):
    return AutoModelForSequenceClassification if case.scalar else AutoModelForCausalLM


def random_tensor(rng, name, shape, tied):
    """Norms around 1 and biases around 0, both with a spread that shows when one is forgotten; matrices by fan-in."""
    noise = torch.from_numpy(rng.standard_normal(shape)).float()
    if name.endswith("norm.weight"):
        value = 1 + 0.3 * noise
    elif name.endswith("bias"):
        value = 0.2 * noise
    elif "embed_tokens" in name:
        value = (0.35 if tied else 0.1) * noise  # Small enough for the norm's epsilon to show when untied.
    else:
        value = 1.2 / math.sqrt(shape[-1]) * noise
    return value.to(torch.bfloat16).float()


def write_weights(case, root, seed):
    config = transformers.AutoConfig.from_pretrained(root)
    skeleton = model_class(case).from_config(config)
    tied = config.tie_word_embeddings and not case.scalar
    rng = np.random.default_rng(seed)
    state = {n: random_tensor(rng, n, p.shape, tied).to(case.storage) for n, p in skeleton.named_parameters()}
    if case.write_tied_head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    metadata = {"format": "pt"}
    if case.shards == 1:
        save_file(state, root / "model.safetensors", metadata)
        return
    names, weight_map = sorted(state), {}
    for shard in range(case.shards):
        part = names[shard :: case.shards]
        file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
        save_file({n: state[n] for n in part}, root / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(root / "model.safetensors.index.json", index)


def load(case, root, dtype=torch.float32):
    """The model from its directory, as transformers reads it; all tensors must be found, and no more."""
    model, info = model_class(case).from_pretrained(
        root, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    problems = {k: v for k, v in info.items() if v}
    assert not problems, f"{case.name}: {problems}"
    return model.train()  # No dropout in these configs; training mode only for its refusals.


# ---------------------------------------------------------------------------------------------------------------------
# Losses. Every one runs sequences one by one, unpadded, and divides at the end.


def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def lm_loss(model, examples):
    """Mean negative log-likelihood over the target positions of all examples together."""
    total, count = 0.0, 0
    for example in examples:
        targets = [t for start, end in example["spans"] for t in range(start, end)]
        logits = logits_of(model, example["ids"])[[t - 1 for t in targets]]
        total = total + F.cross_entropy(logits, torch.tensor([example["ids"][t] for t in targets]), reduction="sum")
        count += len(targets)
    return total / count


def verdict_logits(model, ids, labels):
    return logits_of(model, ids)[-1][labels]


def gram_loss(model, rows, labels):
    """Two-way cross-entropy with label smoothing at the last prompt position, mean over the rows."""
    z = torch.stack([verdict_logits(model, row["ids"], labels) for row in rows])
    return F.cross_entropy(z, torch.tensor(["AB".index(row["label"]) for row in rows]), label_smoothing=ALPHA)


def vocabulary_loss(model, rows, labels):
    """Label smoothing over the whole vocabulary: cross-entropy with ALPHA / 2 on the wrong label, mean over the rows."""
    z = torch.stack([logits_of(model, row["ids"])[-1] for row in rows])
    target = torch.zeros_like(z)
    for share, row in zip(target, rows):
        right = "AB".index(row["label"])
        share[labels[right]], share[labels[1 - right]] = 1 - ALPHA / 2, ALPHA / 2
    return F.cross_entropy(z, target)


def compat_loss(model, rows, labels, groups):
    """The sum over micro-batches of each one's mean, as GRAM's released code accumulates."""
    return sum(gram_loss(model, [rows[i] for i in group], labels) for group in groups)


def reward(model, ids):
    """As transformers pools: the last token that is not the pad token."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, 0]


def bradley_terry_loss(model, pairs):
    return torch.stack([-F.logsigmoid(reward(model, c) - reward(model, r)) for c, r in pairs]).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Recording


class Record:
    """What one case expects: JSON values in `json`, arrays in `tensors`."""

    def __init__(self, case):
        self.caps = {"grad.lm": 512, "grad.vocabulary": 8, None: 64} if case.full else {None: 32}
        self.json, self.tensors = {}, {}

    def digest(self, group, named):
        """Norms in the JSON, and of each tensor every `stride`-th element (all of a small one) as `group.name`."""
        out = {}
        for name, tensor in named:
            flat = tensor.detach().float().flatten()
            stride = math.ceil(flat.numel() / self.caps.get(group, self.caps[None]))
            while math.gcd(stride, tensor.shape[-1]) != 1:  # Or some columns would never be seen.
                stride += 1
            out[name] = {"norm": float(f"{flat.double().norm().item():.9g}"), "stride": stride}
            self.tensors[f"{group}.{name}"] = flat[::stride].clone()
        return out

    def write(self, root):
        write_json(root / "expected.json", self.json)
        save_file(self.tensors, root / "expected.safetensors")


def write_json(path, value):
    """One line for each list or object that holds only plain values, numbers without spaces; the rest indented."""
    flat = r"([\[{])\n\s+((?:[^][{}\"\n]|\"(?:[^\"\\]|\\.)*\"|\n)*?)\n\s*([\]}])"
    dumped = re.sub(flat, join_lines, json.dumps(value, indent=1, ensure_ascii=False)) + "\n"
    assert json.loads(dumped) == value
    path.write_text(dumped)


def join_lines(match):
    gap = " " if '"' in match[2] else ""
    return match[1] + re.sub(r",\n\s*", "," + gap, match[2]) + match[3]


def gradient_norm(model, loss):
    """Leaves the gradients in the model."""
    model.zero_grad()
    loss.backward()
    total = sum(p.grad.double().pow(2).sum().item() for p in model.parameters() if p.grad is not None)
    return {"loss": loss.item(), "grad_norm": math.sqrt(total)}


def gradients(record, group, model, loss):
    norm = gradient_norm(model, loss)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    named = [(n, torch.zeros_like(p) if p.grad is None else p.grad) for n, p in trained]
    return norm | {"gradients": record.digest(f"grad.{group}", named)}


OPTIMIZER = {
    "optimizer": "torch.optim.AdamW",
    "lr": 1e-2,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decayed": "parameters with two dimensions (embeddings and heads included)",
    "clip": 1.0,
    "clip_formula": "g *= min(1, clip / (grad_norm + 1e-6)); grad_norm is over all parameters, before clipping",
    "lr_formula": "step s from 0: lr * s/warmup if s < warmup, else lr * (1 + cos(pi * (s-warmup)/(total-warmup))) / 2",
}


def adamw_run(model, loss_of, batches, total, warmup):
    """`total` steps; returns what each saw before its update."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=(0.9, 0.999), eps=1e-8, foreach=False)
    steps = []
    for s in range(total):
        rise = s / warmup  # As transformers' schedules: the first step only fills the moments.
        fall = 0.5 * (1 + math.cos(math.pi * (s - warmup) / (total - warmup)))
        lr = OPTIMIZER["lr"] * (rise if s < warmup else fall)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = batches[s % len(batches)]
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"], foreach=False)
        optimizer.step()
        steps.append({"batch": batch, "lr": lr, "loss": loss.item(), "grad_norm": norm.item()})
    return steps


def training(record, group, case, root, loss_of, batches, total, warmup, load=load):
    """The run in f32, and how far its losses are from the same run in f64 (the norms and the softmax stay f32)."""
    model = load(case, root)
    steps = adamw_run(model, loss_of, batches, total, warmup)
    precise = adamw_run(load(case, root, torch.float64), loss_of, batches, total, warmup)
    deviation = max(abs(a["loss"] - b["loss"]) / max(1, abs(b["loss"])) for a, b in zip(steps, precise))
    assert deviation < 5e-6, f"{case.name}: this seed makes a run that amplifies rounding, {deviation:.1e}"
    return OPTIMIZER | {
        "total": total,
        "warmup": warmup,
        "f64_deviation": deviation,
        "steps": steps,
        "parameters": record.digest(f"final.{group}", model.named_parameters()),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The parts of expected.json


def record_logits(record, model, sequences, full):
    """Whole rows of logits at a few positions, and the log-probability of every next token."""
    entries = []
    for i, ids in enumerate(sequences):
        with torch.no_grad():
            logits = logits_of(model, ids)
        positions = POSITIONS[i] if full else POSITIONS[i][-1:]
        record.tensors[f"logits.{i}"] = logits[positions].contiguous()
        if len(ids) > 1:
            next_ids = torch.tensor(ids[1:])[:, None]
            record.tensors[f"logprobs.{i}"] = logits[:-1].log_softmax(-1).gather(1, next_ids)[:, 0].contiguous()
        entries.append({"sequence": i, "positions": positions})
    return entries


def greedy(model, ids, new=20):
    """Argmax without a cache, past any end-of-sequence token; `gap` is the smallest lead of a choice over its rival."""
    out, gap = list(ids), math.inf
    with torch.no_grad():
        for _ in range(new):
            top = logits_of(model, out)[-1].topk(2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            out.append(top.indices[0].item())
        cached = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=new,
            do_sample=False,
            temperature=None,
            top_p=None,
            eos_token_id=-1,
            pad_token_id=0,
        )
    assert cached[0].tolist() == out, "generate() disagrees with a full forward pass per token"
    return {"prompt": ids, "new": out[len(ids) :], "gap": gap}


def record_verdicts(model, tokenizer, labels, pairs):
    """Each pair in both orders: the rendered prompt, its ids, and logit A minus logit B after it."""
    entries = []
    for x, first, second in pairs:
        entry = {"prompt": x, "a": first, "b": second}
        for order, (a, b) in {"ab": (first, second), "ba": (second, first)}.items():
            messages = [{"role": "user", "content": text.judge_text(x, a, b)}]
            rendered, ids = render(tokenizer, messages, enable_thinking=False)
            with torch.no_grad():
                z = verdict_logits(model, ids, labels)
            entry[order] = {"text": rendered, "ids": ids, "margin": (z[0] - z[1]).item()}
        entries.append(entry)
    return entries


def render(tokenizer, messages, add_generation_prompt=True, **kwargs):
    kwargs |= {"add_generation_prompt": add_generation_prompt}
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.apply_chat_template(messages, return_dict=False, **kwargs)
    return rendered, ids


def record_rendered(tokenizer, style):
    """Every conversation; with both settings of the generation prompt and of thinking where these matter."""
    entries = []
    for name, messages in text.CONVERSATIONS.items():
        settings = [{"add_generation_prompt": messages[-1]["role"] != "assistant"}]
        if name in ("plain", "turns"):
            settings.append({"add_generation_prompt": not settings[0]["add_generation_prompt"]})
        if style == "qwen3" and name in ("plain", "system"):
            settings.append({"add_generation_prompt": True, "enable_thinking": False})
        entries += [rendering(tokenizer, name, messages, options) for options in settings]
    if style != "qwen2":
        messages = text.CONVERSATIONS["system"]
        entries.append(rendering(tokenizer, "system", messages, {"add_generation_prompt": True, "tools": text.TOOLS}))
    if style == "qwen3":
        entries.append(rendering(tokenizer, "call", text.CALL, {"add_generation_prompt": False}))
    return entries


def rendering(tokenizer, name, messages, options):
    entry = {"conversation": name, "options": options}
    try:
        rendered, ids = render(tokenizer, messages, **options)
    except Exception as error:  # raise_exception in the template
        assert type(error).__name__ == "TemplateError", error
        return entry | {"error": str(error)}
    # In "thought" the marks are cut out and written anew by the template that knows them.
    added = [t.content for t in tokenizer.added_tokens_decoder.values()]
    clean = name == "thought" or not any(t in m["content"] for t in added for m in messages)
    return entry | {"text": rendered} | ({"ids": ids} if clean else {})


def conversations():
    """The message lists that renderings and rewards refer to by name."""
    return text.CONVERSATIONS | {"call": text.CALL}


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def record_lm(case, root, tokenizer, seed, record):
    model = load(case, root)
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, model.config.vocab_size, n).tolist() for n in LENGTHS]
    examples = [{"ids": ids, "spans": spans} for ids, spans in zip(sequences, SPANS)]
    labels = [tokenizer.convert_tokens_to_ids(t) for t in "AB"]
    verdicts = record_verdicts(model, tokenizer, labels, text.PAIRS if case.full else text.PAIRS[:1])
    rows = [
        {"verdict": i, "order": order, "label": label, "ids": verdicts[i][order]["ids"]}
        for i, order, label in (
            [(0, "ab", "A"), (1, "ba", "A"), (2, "ba", "B")] if case.full else [(0, "ab", "A"), (0, "ba", "A")]
        )
    ]
    record.json |= {
        "labels": {"A": labels[0], "B": labels[1]},
        "sequences": examples,
        "logits": record_logits(record, model, sequences, case.full),
        "lm": {"batch": [1, 2, 3]} | gradients(record, "lm", model, lm_loss(model, examples[1:])),
        "gram": {
            "alpha": ALPHA,
            "epsilon": ALPHA / 2,
            "rows": [{k: row[k] for k in ("verdict", "order", "label")} for row in rows],
        }
        | gradients(record, "gram", model, gram_loss(model, rows, labels)),
        "adamw": training(
            record, "adamw", case, root, lambda m, batch: lm_loss(m, [examples[i] for i in batch]), BATCHES, 10, 3
        ),
        "greedy": [greedy(model, ids) for ids in (sequences[1], sequences[2], verdicts[0]["ab"]["ids"])],
        "judge_prompt": text.JUDGE_PROMPT,
        "verdicts": verdicts,
    }
    if case.full:
        groups = [[0, 1], [2]]
        compat = gradient_norm(model, compat_loss(model, rows, labels, groups))
        record.json |= {
            "vocabulary": gradients(record, "vocabulary", model, vocabulary_loss(model, rows, labels)),
            "gram_compat": {"micro_batches": groups} | compat,
        }
        record.json["rendered"] = record_rendered(tokenizer, case.style)


def record_scalar(case, root, tokenizer, record):
    model = load(case, root)
    names = ["plain", "turns", "unicode", "code", "empty", "thought"]
    entries, pad = [], model.config.pad_token_id
    for name in names:
        rendered, ids = render(tokenizer, text.CONVERSATIONS[name], add_generation_prompt=False)
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            value = reward(model, ids).item()
        scored = max(t for t, token in enumerate(ids) if token != pad)
        assert abs(model.score(hidden[scored]).item() - value) < 1e-6
        entries.append(
            {
                "conversation": name,
                "text": rendered,
                "ids": ids,
                "scored_position": scored,
                "reward": value,
                "reward_at_last": model.score(hidden[-1]).item(),
            }
        )
    width = max(len(e["ids"]) for e in entries)
    padded = torch.tensor([e["ids"] + [pad] * (width - len(e["ids"])) for e in entries])
    mask = torch.tensor([[1] * len(e["ids"]) + [0] * (width - len(e["ids"])) for e in entries])
    batched = model(input_ids=padded, attention_mask=mask).logits[:, 0]
    assert torch.allclose(batched, torch.tensor([e["reward"] for e in entries]), atol=1e-4), "padding changes rewards"
    pairs = [[1, 2], [3, 0], [5, 4]]  # (chosen, rejected) as indices into rewards
    batches = [[0, 1], [1, 2], [2, 0]]

    def loss_of(model, batch):
        return bradley_terry_loss(model, [[entries[i]["ids"] for i in pairs[p]] for p in batch])

    record.json |= {
        "pad_token_id": pad,
        "rewards": entries,
        "bradley_terry": {"pairs": pairs, "batch": [0, 1]}
        | gradients(record, "bradley_terry", model, loss_of(model, [0, 1])),
        "adamw": training(record, "adamw", case, root, loss_of, batches, 5, 2),
    }


def write_case(case, out):
    root = out / case.name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    seed = 5000 + CASES.index(case)  # All runs well conditioned, see `training`.
    write_config(case, root, write_tokenizer(case, root))
    write_weights(case, root, seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(root)
    record = Record(case)
    record.json["made_with"] = {m.__name__: m.__version__.split("+")[0] for m in (torch, transformers, tokenizers)}
    record.json["date"] = DATE.strftime("%Y-%m-%d")
    if case.scalar:
        record_scalar(case, root, tokenizer, record)
    else:
        record_lm(case, root, tokenizer, seed, record)
    record.write(root)
    size = sum(f.stat().st_size for f in root.iterdir())
    run = record.json["adamw"]
    losses = " ".join(f"{s['loss']:.4f}" for s in run["steps"])
    print(f"{case.name:13} {size:7} bytes; losses {losses}; from f64 {run['f64_deviation']:.1e}")
    for run in record.json.get("greedy", []):
        print(f"              greedy {run['new']} gap {run['gap']:.2e}")


class PinnedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/golden")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    chat_template_utils.datetime = PinnedDatetime  # What strftime_now of a template sees.
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "conversations.json", conversations())
    for case in CASES:
        if not args.cases or case.name in args.cases:
            write_case(case, args.out)
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
