#!/usr/bin/env python3
"""Writes tests/golden/optimizers.json: 8-bit AdamW in NumPy and Muon in PyTorch, written from their formulas.

8-bit AdamW is the scheme of src/ops/codes.rs (square-companded codes in blocks of 256, rounded at random with Philox words), which is
ours: no other program's codes are claimed. Muon is Jordan's, with the factor of Liu et al.; torch.optim.Muon, which iterates in
bfloat16, must come near.

    pip install numpy torch && python scripts/golden_optim.py
"""

import json
import math
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).parent.parent / "tests/golden/optimizers.json"
BLOCK = 256
F = np.float32
ROUND = 5  # the stream of rounding


def philox(counter, key):
    """Philox 4x32-10 of many counters [N, 4] under one key."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1).astype(np.uint32)


def two_words(n, seed, step):
    """Element e owns words 2 (e % 2) and the next of counter e / 2."""
    pairs = np.arange((n + 1) // 2, dtype=np.uint32)
    zero = np.zeros_like(pairs)
    words = philox(np.stack([pairs, zero, zero + ROUND, zero + step], 1), (seed & 0xFFFFFFFF, seed >> 32))
    return words.reshape(-1, 2)[:n]


def bf16_nearest(x):
    bits = x.astype(F).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(F)


def bf16_random(x, word):
    bits = x.astype(F).view(np.uint32).astype(np.uint64) + (word >> np.uint32(16))
    return (bits >> np.uint64(16) << np.uint64(16)).astype(np.uint32).view(F)


def compand(x, top, word):
    """One of the two integers c around top sqrt(x), with the chances that make (c / top)^2 right on average."""
    target = F(x * F(top * top))
    low = np.minimum(np.floor(np.sqrt(target)), F(top))
    draw = (word >> np.uint32(8)).astype(F) * F(2.0**-24)
    up = F(target - F(low * low)) > F(draw * F(F(2) * low + F(1)))
    return np.minimum(np.where(up, low + F(1), low), F(top))


def adamw_8bit(p, gradients, hp, store):
    n = len(p)
    m_code, v_code = np.zeros(n, np.int8), np.zeros(n, np.uint8)
    blocks = [slice(b, min(b + BLOCK, n)) for b in range(0, n, BLOCK)]
    m_scale, v_scale = np.zeros(len(blocks), F), np.zeros(len(blocks), F)
    p = store(p, None)
    for step, g in enumerate(gradients, 1):
        words = two_words(n, hp["seed"], step)
        rate = F(hp["lr"] / (1 - hp["beta1"] ** step))
        unbias = F(1 / math.sqrt(1 - hp["beta2"] ** step))
        for b, at in enumerate(blocks):
            c, d = m_code[at].astype(F), v_code[at].astype(F)
            m = F(c * np.abs(c)) * F(m_scale[b] * F(1 / (127.0 * 127.0)))
            root = F(d * d) * F(v_scale[b] * F(1 / (255.0 * 255.0)))
            clipped = F(g[at] * F(hp["clip"]))
            # The one fused operation: exact in double, then rounded.
            m = (F(1 - hp["beta1"]).astype(np.float64) * F(clipped - m) + m).astype(F)
            v = F(F(hp["beta2"]) * F(root * root)) + F(F(F(1 - hp["beta2"]) * clipped) * clipped)
            shrink = F(1 - hp["lr"] * hp["decay"]) if hp["decays"][b] else F(1)
            new = F(p[at] * shrink) - F(F(rate * m) / F(F(np.sqrt(v) * unbias) + F(hp["eps"])))
            root = np.sqrt(v)
            m_scale[b], v_scale[b] = np.abs(m).max(), root.max()
            inverse = [F(1) / s if s > 0 else F(0) for s in (m_scale[b], v_scale[b])]
            first, second = words[at, 0], words[at, 1]
            p[at] = store(new, first)
            x = F(m * inverse[0])
            m_code[at] = (np.where(x < 0, F(-1), F(1)) * compand(np.abs(x), 127, first << np.uint32(16))).astype(np.int8)
            x = F(root * inverse[1])
            c = compand(x, 255, second)
            v_code[at] = np.where((x > 0) & (c == 0), F(1), c).astype(np.uint8)
    return {
        "parameter": p.tolist(),
        "first": m_code.view(np.uint8).tolist(),
        "second": v_code.tolist(),
        "first_scale": m_scale.tolist(),
        "second_scale": v_scale.tolist(),
    }


def muon(p, gradients, hp):
    """Momentum, Nesterov, five steps of the quintic iteration, decoupled decay; in float32."""
    p, m = p.clone(), torch.zeros_like(p)
    for g in gradients:
        g = g * hp["clip"]
        m.lerp_(g, 1 - hp["momentum"])
        u = g.lerp(m, hp["momentum"])
        x = u.T if u.shape[0] > u.shape[1] else u
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if u.shape[0] > u.shape[1] else x
        p.mul_(1 - hp["lr"] * hp["decay"]).sub_(x, alpha=hp["lr"] * 0.2 * math.sqrt(max(p.shape)))
    return p, m


def near_torch(p, gradients, hp, ours):
    theirs = torch.nn.Parameter(p.clone())
    optimizer = torch.optim.Muon(
        [theirs], lr=hp["lr"], momentum=hp["momentum"], weight_decay=hp["decay"], nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for g in gradients:
        theirs.grad = g * hp["clip"]
        optimizer.step()
    apart = ((theirs.detach() - ours).norm() / (ours - p).norm()).item()
    assert apart < 0.02, apart
    return apart


def main():
    random = np.random.default_rng(7)
    n = 600
    p = random.standard_normal(n).astype(F)
    gradients = [random.standard_normal(n).astype(F) * F([1, 0.01, 30][s % 3]) for s in range(5)]
    for g in gradients:
        g[::10] = 0  # parameters without a gradient
    hp = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "decay": 0.1, "clip": 0.7, "seed": 0x123456789, "decays": [1, 0, 1]}
    expected = {
        "adamw_8bit": hp
        | {
            "parameter": p.tolist(),
            "gradients": [g.tolist() for g in gradients],
            "f32": adamw_8bit(p, gradients, hp, lambda x, word: x.copy()),
            "bf16": adamw_8bit(p, gradients, hp, lambda x, word: bf16_nearest(x) if word is None else bf16_random(x, word)),
        },
        "muon": [],
    }
    torch.manual_seed(1)
    for rows, cols in [(12, 20), (20, 12), (9, 9)]:
        hp = {"lr": 0.02, "momentum": 0.9, "decay": 0.1, "clip": 0.5}
        p, gradients = torch.randn(rows, cols), [torch.randn(rows, cols) for _ in range(3)]
        after, momentum = muon(p, gradients, hp)
        print(f"muon {rows} x {cols}: torch.optim.Muon's updates differ by {near_torch(p, gradients, hp, after):.4f}")
        flat = lambda t: t.flatten().tolist()
        expected["muon"].append(
            hp
            | {"rows": rows, "parameter": flat(p), "gradients": [flat(g) for g in gradients], "after": flat(after)}
            | {"momentum_after": flat(momentum)}
        )
    OUT.write_text(json.dumps(expected) + "\n")


main()
