#!/usr/bin/env python3
"""Training speed of eager PyTorch on the workload: full fine-tuning in f32 with AdamW, unpadded batches.

    python benches/peers/cpu_train.py --work target/peers --threads 2

Each step is forward, next-token loss over every position, backward, clip to norm 1, AdamW (fused). Tokens per second is
batch * length over the median step time after the warm-up steps; the losses let engines be compared for sameness.
"""

import torch
from measure import Timer, arguments, load_model, read_lines, report


def main():
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    args = parser.parse_args()
    model = load_model(args).train()
    rows = [row["ids"] for row in read_lines(args.work / "train.jsonl")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True)
    losses, warm, timer = [], Timer(), Timer()
    for step in range(args.warmup + args.steps):
        batch = [rows[(step * args.batch + i) % len(rows)] for i in range(args.batch)]
        with warm if step < args.warmup else timer:
            ids = torch.tensor(batch)
            optimizer.zero_grad(set_to_none=True)
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(round(loss.item(), 6))
    report(
        args,
        {
            "work": "train",
            "batch": [args.batch, len(rows[0])],
            "losses": losses,
        }
        | timer.rates("tokens", args.batch * len(rows[0])),
    )


if __name__ == "__main__":
    main()
