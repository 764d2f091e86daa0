#!/usr/bin/env python3
"""Writes tests/golden/lora/: adapters that PEFT made beside models of tests/golden/, and what PEFT computes with them.

    pip install -r scripts/requirements.txt
    python scripts/golden_lora.py

Run it after golden.py, whose models and samples it uses. `tests/golden/README.md` says what each file holds.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import golden
from golden import BATCHES, CASES, gradients, logits_of, reward

ROOT = Path(__file__).parent.parent / "tests/golden"
ADAPTERS = {
    # Every projection, ranks and scales that differ, none a power of two.
    "qwen3": LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        rank_pattern={"k_proj": 3, "layers.1.mlp.down_proj": 5},
        alpha_pattern={"self_attn.o_proj": 2},
    ),
    # A regular expression, rsLoRA, and a reward row of its own.
    "qwen3_scalar": LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=5, use_rslora=True, target_modules=r".*\.(?!k_)[qvk]_proj|.*\.1\.mlp\.up_proj"
    ),
}


def plain(name):
    """The name of a parameter as PEFT's files have it."""
    return name.replace(".default", "").replace(".modules_to_save", "")


def trained(model):
    return [(plain(n), p) for n, p in model.named_parameters() if p.requires_grad]


class Record(golden.Record):
    """As golden's, of trained parameters alone."""

    def digest(self, group, named):
        return super().digest(group, [(plain(n), p) for n, p in named if "lora_" in n or "modules_to_save" in n])


def make(case, root, config, seed):
    """An adapter directory as PEFT saves it, with numbers that are not zero."""
    model = get_peft_model(golden.load(case, ROOT / case.name), config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in trained(model):
            noise = torch.from_numpy(rng.standard_normal(tuple(p.shape))).float()
            p.copy_((0.5 / np.sqrt(p.shape[-1]) * noise).to(torch.bfloat16).float())
    model.peft_config["default"].base_model_name_or_path = f"golden/{case.name}"
    model.save_pretrained(root)
    (root / "README.md").unlink()
    # PEFT writes sets, in any order.
    config = json.loads((root / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    golden.write_json(root / "adapter_config.json", config)
    save_file(load_file(root / "adapter_model.safetensors"), root / "adapter_model.safetensors", {"format": "pt"})


def load(case, root, dtype=torch.float32):
    base = golden.load(case, ROOT / case.name, dtype)
    return PeftModel.from_pretrained(base, root, is_trainable=True, autocast_adapter_dtype=False).to(dtype).train()


def record(case, root):
    out, model = Record(case), load(case, root)
    expected = json.loads((ROOT / case.name / "expected.json").read_text())
    out.json["made_with"] = {m.__name__: m.__version__.split("+")[0] for m in (torch, peft)}
    if case.scalar:
        ids, pairs = [e["ids"] for e in expected["rewards"]], expected["bradley_terry"]["pairs"]
        with torch.no_grad():
            out.json["rewards"] = [reward(model, i).item() for i in ids]

        def loss_of(model, batch):
            return golden.bradley_terry_loss(model, [[ids[i] for i in pairs[p]] for p in batch])

        group, batches, batch = "bradley_terry", [[0, 1], [1, 2], [2, 0]], [0, 1]
    else:
        examples = expected["sequences"]
        with torch.no_grad():
            out.tensors["logits"] = logits_of(model, examples[2]["ids"])[[0, 16, 32]].contiguous()
        labels = list(expected["labels"].values())
        rows = expected["gram"]["rows"]
        rows = [row | {"ids": expected["verdicts"][row["verdict"]][row["order"]]["ids"]} for row in rows]
        out.json["gram"] = gradients(out, "gram", model, golden.gram_loss(model, rows, labels))

        def loss_of(model, batch):
            return golden.lm_loss(model, [examples[i] for i in batch])

        group, batches, batch = "lm", BATCHES, [1, 2, 3]
    out.json[group] = {"batch": batch} | gradients(out, group, model, loss_of(model, batch))
    out.json["adamw"] = golden.training(out, "adamw", case, root, loss_of, batches, 10, 3, load)
    out.write(root)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    golden.transformers.logging.set_verbosity_error()
    golden.transformers.logging.disable_progress_bar()
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        case = next(c for c in CASES if c.name == name)
        root = ROOT / "lora" / name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        make(case, root, config, 9000 + seed)
        record(case, root)
        print(name, sum(f.stat().st_size for f in root.iterdir()), "bytes")


if __name__ == "__main__":
    main()
