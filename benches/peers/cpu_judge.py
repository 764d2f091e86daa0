#!/usr/bin/env python3
"""Judging speed of transformers on the workload: ragged pairs, both orders, only the logits at the last position.

    python benches/peers/cpu_judge.py --work target/peers --threads 2 [--margins FILE]

Three ways: batches of 8 in the order of arrival, the same sorted by length (the least padding), and one prompt at a
time (no padding at all, small products). Padding is on the left. The figure to beat is the best of the three.
"""

import json
from pathlib import Path

import torch
from measure import Timer, arguments, load_model, read_lines, report


def batches_of(prompts, order, size):
    return [[order[i] for i in range(start, min(start + size, len(order)))] for start in range(0, len(prompts), size)]


def score(model, prompts, batches, labels):
    """Logit A minus logit B of every prompt."""
    margins = [0.0] * len(prompts)
    for batch in batches:
        width = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in batch])
        inputs = {"input_ids": ids}
        if any(len(prompts[i]) != width for i in batch):  # No mask where nothing is padded: the faster attention.
            lengths = torch.tensor([len(prompts[i]) for i in batch])
            inputs["attention_mask"] = (torch.arange(width) >= width - lengths[:, None]).long()
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        for i, margin in zip(batch, (logits[:, labels["A"]] - logits[:, labels["B"]]).tolist()):
            margins[i] = margin
    return margins


def main():
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, help="only the first N")
    parser.add_argument("--way", choices=["arrival", "sorted", "single"], help="only this one: its own peak memory")
    parser.add_argument("--margins", type=Path, help="write the margins here, for comparing engines")
    args = parser.parse_args()
    model = load_model(args).eval()
    pairs = read_lines(args.work / "judge.jsonl")[: args.pairs]
    labels = json.loads((args.work / "labels.json").read_text())
    prompts = [pair[order] for pair in pairs for order in ("ab", "ba")]
    tokens = sum(map(len, prompts))
    arrival = list(range(len(prompts)))
    by_length = sorted(arrival, key=lambda i: len(prompts[i]))
    ways = {
        "arrival": batches_of(prompts, arrival, args.batch),
        "sorted": batches_of(prompts, by_length, args.batch),
        "single": batches_of(prompts, arrival, 1),
    }
    ways = {args.way: ways[args.way]} if args.way else ways
    results, margins = {}, {}
    with torch.inference_mode():
        for way, batches in ways.items():
            score(model, prompts, batches[-2:], labels)  # Warm-up.
            timer = Timer()
            for _ in range(args.repeats):
                with timer:
                    margins[way] = score(model, prompts, batches, labels)
            computed = sum(len(batch) * max(len(prompts[i]) for i in batch) for batch in batches)
            results[way] = timer.rates("pairs", len(pairs)) | {"padding": round(computed / tokens - 1, 3)}
    first = next(iter(margins.values()))
    apart = max(abs(a - b) for other in margins.values() for a, b in zip(other, first))
    if args.margins:
        ab, ba = first[::2], first[1::2]
        rows = [{"id": p["id"], "margin_ab": x, "margin_ba": y} for p, x, y in zip(pairs, ab, ba)]
        args.margins.write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = max(results, key=lambda way: results[way]["pairs_per_s"])
    report(
        args,
        {
            "work": "judge",
            "pairs": len(pairs),
            "tokens": tokens,
            "batch": args.batch,
            "best": best,
            "pairs_per_s": results[best]["pairs_per_s"],
            "ways": results,
            "margins_differ_between_ways_by": apart,
        },
    )


if __name__ == "__main__":
    main()
