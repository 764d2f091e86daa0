#!/usr/bin/env python3
"""The passes of `gramophone bench engine` in PyTorch and transformers, in the same JSON.

    gramophone bench engine --device cuda --family llama-3.1-8b --json engine.json
    python benches/peers/engine.py --device cuda --family llama-3.1-8b --json torch-engine.json
    gramophone bench compare torch-engine.json engine.json

The same shapes with random weights, the same prompts' lengths, the same names (src/app/bench/engine.rs). Each pass is done in several
ways: `default` is what transformers does when nothing is asked for; the others are what one can ask it for. The fastest way carries
our name; a way that does not run or has no room is left out and named. Wall time, the host's work included.
"""

import gc
import sys
import time
from contextlib import contextmanager, nullcontext

import torch
import transformers
from clock import Clock, Deadline, Results, arguments, begin, quartiles, why
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations import sdpa_attention
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config, StoppingCriteria, StoppingCriteriaList

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192, "rope_theta": 500000.0}  # fmt: skip
SHAPES = {  # class, vocabulary, width, feed-forward, layers, query heads, key heads, head size, tied
    "llama-3.1-8b": (LlamaConfig, 128256, 4096, 14336, 32, 32, 8, 128, False),
    "qwen3-1.7b": (Qwen3Config, 151936, 2048, 6144, 28, 16, 8, 128, True),
    "qwen3-small": (Qwen3Config, 8192, 512, 1536, 6, 8, 4, 64, True),
    "qwen3-tiny": (Qwen3Config, 256, 64, 128, 1, 2, 1, 64, True),
}
PASSES = {
    "large": dict(tokens=4096, passes=16384, judged=32, sequences=[1, 32], written=64, answers=(16, 400), asked=[500, 2000],
                  copied=1 << 30, square=8192, family="llama-3.1-8b"),
    "small": dict(tokens=512, passes=2048, judged=16, sequences=[1, 8], written=32, answers=(4, 100), asked=[128],
                  copied=64 << 20, square=1024, family="qwen3-small"),
    "tiny": dict(tokens=64, passes=96, judged=4, sequences=[1, 2], written=6, answers=(3, 8), asked=[12],
                 copied=1 << 16, square=64, family="qwen3-tiny"),
}  # fmt: skip
CLOSE = 12
BATCH = 8


def configuration(family):
    make, vocab, width, ffn, layers, heads, kv, size, tied = SHAPES[family]
    rope = LLAMA3 if make is LlamaConfig else {"rope_type": "default", "rope_theta": 1000000.0}
    return make(vocab_size=vocab, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=kv, head_dim=size, tie_word_embeddings=tied,
                rope_parameters=rope, max_position_embeddings=32768, bos_token_id=None, eos_token_id=None,
                pad_token_id=None)  # fmt: skip


def lengths(prompts, longest):
    """As src/app/bench/engine/workload.rs has them."""
    pairs, least = -(-prompts // 2), longest // 8
    stride = 5 if pairs % 7 == 0 else 7
    return [least + (longest - least) * (i // 2 * stride % pairs) // max(pairs - 1, 1) for i in range(prompts)]


class Stamps(StoppingCriteria):
    """When each step of a generation ended."""

    def __init__(self, sync):
        self.sync, self.times = sync, []

    def __call__(self, input_ids, scores, **_):
        self.sync()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Bench:
    def __init__(self, args, sizes, dtype):
        self.args, self.p, self.dtype = args, sizes, dtype
        self.deadline = Deadline(args.seconds)
        self.family = args.family or sizes["family"]
        self.cuda = args.device.startswith("cuda")
        clock = Clock(args.device, 30)
        ceilings = clock.ceilings(sizes["copied"], sizes["square"], dtype)
        del clock
        self.results = Results("engine", args.device, ceilings, args.json)
        self.config = configuration(self.family)
        self.called = f"{self.family} {str(dtype).removeprefix('torch.')}"
        self.model = self.make().eval()
        self.body = None

    def make(self):
        with torch.device(self.args.device):
            return AutoModelForCausalLM.from_config(self.config, dtype=self.dtype, attn_implementation="sdpa")

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def ids(self, row, n):
        i = torch.arange(n, device=self.args.device)
        return (i * 7919 + row * 104729 + 3) % self.config.vocab_size

    # What a pass costs at least, as ours counts it.

    def forward_flops(self, lengths, rows):
        c = self.config
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        token = 2 * c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size)
        pairs = sum(n * (n + 1) / 2 for n in lengths)
        return c.num_hidden_layers * (token * sum(lengths) + 4 * q * pairs) + 2 * c.hidden_size * c.vocab_size * rows

    def weights(self):
        c = self.config
        table = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
        return (sum(p.numel() for p in self.model.parameters()) - table) * self.dtype.itemsize

    # How ways are tried.

    def try_ways(self, name, cost, ways, tokens):
        """`ways`: name -> () -> quartiles of seconds."""
        found, failed = [], []
        for way, measure in ways.items():
            try:
                self.deadline.check()
                found.append((measure(), way))
            except Exception as e:  # Whatever a library throws: it is said, and the others go on.
                failed.append((way, why(e)))
            self.tidy()
        self.results.add(name, *cost, "either", found, failed, tokens=tokens)

    def tidy(self):
        self.model._cache = None
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def samples(self, run, warm=2):
        """Fewer where a run takes long: some twenty seconds a way."""
        for _ in range(warm):
            start = time.perf_counter()
            run()
            self.sync()
            last = time.perf_counter() - start
        times = []
        for _ in range(max(2, min(self.args.samples, int(20 / last)))):
            start = time.perf_counter()
            run()
            self.sync()
            times.append(time.perf_counter() - start)
        return quartiles(times)

    @contextmanager
    def compiled(self, **options):
        before, self.model.forward = self.model.forward, torch.compile(self.model.forward, **options)
        try:
            yield
        finally:
            self.model.forward = before

    @contextmanager
    def cudnn(self):
        """cuDNN's attention; keys and values are repeated where it knows no groups of heads."""
        groups = sdpa_attention.use_gqa_in_sdpa
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            try:
                x = lambda heads: torch.randn(1, heads, 128, 128, device=self.args.device, dtype=self.dtype)  # noqa: E731
                torch.nn.functional.scaled_dot_product_attention(x(4), x(2), x(2), is_causal=True, enable_gqa=True)
            except RuntimeError:
                sdpa_attention.use_gqa_in_sdpa = lambda *_, **__: False
            try:
                yield
            finally:
                sdpa_attention.use_gqa_in_sdpa = groups

    def variants(self, run):
        """A pass as it is, compiled, and both with cuDNN's attention: the fastest one can ask for without other libraries."""

        def inside(context):
            def measure():
                with torch.inference_mode(), context():
                    return self.samples(run)

            return measure

        @contextmanager
        def both():
            with self.compiled(dynamic=False), self.cudnn():
                yield

        ways = {"eager": inside(nullcontext)}
        if self.args.compile:
            ways["compiled"] = inside(lambda: self.compiled(dynamic=False))
        if self.cuda:
            ways["cudnn"] = inside(self.cudnn)
        if self.cuda and self.args.compile:
            ways["compiled cudnn"] = inside(both)
        return ways

    # The passes.

    def prefill(self):
        n = self.p["tokens"] - 1
        ids = self.ids(0, n)[None]
        cost = self.weights(), self.forward_flops([n], 1)
        run = lambda: self.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)  # noqa: E731
        self.try_ways(f"prefill {self.called}, {n + 1} tokens", cost, self.variants(run), n)

    def decode(self, sequences):
        """The times of single steps of a second generation: the first one compiles."""
        p, c = self.p, self.config
        prompt = max(p["tokens"] - p["written"], 1)
        ids = torch.stack([self.ids(row, prompt) for row in range(sequences)])
        steps = p["written"] - 1
        begin = min(3, steps // 2)

        def generate(**options):
            def measure():
                stamps = []
                for _ in range(2):
                    stamps = Stamps(self.sync)
                    self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=p["written"], do_sample=False,
                                        stopping_criteria=StoppingCriteriaList([stamps]), **options)  # fmt: skip
                last = stamps.times[begin:]
                return quartiles([b - a for a, b in zip(last, last[1:])])

            return measure

        keys = sequences * (prompt + p["written"] // 2)
        cached = c.num_hidden_layers * 2 * c.num_key_value_heads * c.head_dim * self.dtype.itemsize * keys
        attention = 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * keys
        cost = self.weights() + cached, self.forward_flops([1] * sequences, sequences) + attention
        # On a GPU transformers compiles the steps of a static cache, with graphs.
        ways = {"default": generate(), ("compiled" if self.cuda else "static"): generate(cache_implementation="static")}
        self.try_ways(f"decode {self.called}, {sequences} x {p['tokens']} tokens", cost, ways, sequences)

    def verdicts(self, rows):
        """Label logits at the end of each prompt. Padding on the right needs no mask: causal attention never sees it."""
        longest = max(len(r) for r in rows)
        ids = torch.stack([torch.nn.functional.pad(r, (0, longest - len(r))) for r in rows])
        ends = torch.tensor([len(r) - 1 for r in rows], device=ids.device)
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(rows), device=ids.device), ends]
        return last @ self.model.lm_head.weight[1:3].T

    def plain(self, rows):
        """As one asks without thinking of speed: padded on the left with a mask, all logits."""
        longest = max(len(r) for r in rows)
        pad = lambda r, value: torch.nn.functional.pad(r, (longest - len(r), 0), value=value)  # noqa: E731
        ids, mask = torch.stack([pad(r, 0) for r in rows]), torch.stack([pad(torch.ones_like(r), 0) for r in rows])
        return self.model(input_ids=ids, attention_mask=mask).logits[:, -1, 1:3]

    def score(self, name, prompts, chosen):
        flat = [len(r) for r in prompts]
        batches = lambda rows: [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]  # noqa: E731
        single, by_length = [[r] for r in prompts], batches(sorted(prompts, key=len))

        def way(score, batches, context=nullcontext):
            def measure():
                with torch.inference_mode(), context():
                    return self.samples(lambda: [score(b).float().cpu() for b in batches], warm=1)

            return measure

        ways = {
            "default": way(self.plain, batches(prompts)),
            "sorted": way(self.verdicts, by_length),
            "single": way(self.verdicts, single),
        }
        if self.cuda:
            ways["sorted cudnn"] = way(self.verdicts, by_length, self.cudnn)
        if self.args.compile:
            ways["sorted compiled"] = way(self.verdicts, by_length, self.compiled_body)
            ways["single compiled"] = way(self.verdicts, single, self.compiled_body)
        cost = self.weights() * -(-sum(flat) // self.p["passes"]), self.forward_flops(flat, 0)
        self.try_ways(name, cost, {way: ways[way] for way in chosen if way in ways}, sum(flat))

    @contextmanager
    def compiled_body(self):
        """The layers without the head, for any lengths; compiled once for all that is judged."""
        body = self.model.model
        before = body.forward
        self.body = self.body or torch.compile(before, dynamic=True)
        body.forward = self.body
        try:
            yield
        finally:
            body.forward = before

    def judge(self):
        p = self.p
        prompts = [self.ids(row, n) for row, n in enumerate(lengths(p["judged"], p["tokens"]))]
        least = p["tokens"] // 8
        ways = ["default", "sorted", "single", "sorted cudnn", "sorted compiled", "single compiled"]
        self.score(f"judge {self.called}, {p['judged']} prompts of {least} to {p['tokens']} tokens", prompts, ways)

    def pairs(self, question):
        """Some of the ordered pairs of answers, without sharing. All have one length, so no batch is padded."""
        n, answer = self.p["answers"]
        rows = [(0, question)], [(1 + i, answer) for i in range(n)], (1 + n, CLOSE)
        every = [(i, j) for i in range(n) for j in range(n) if i != j]
        chosen = every[:: max(len(every) // 24, 1)]
        prompts = [torch.cat([self.ids(*x) for x in (rows[0][0], rows[1][i], rows[1][j], rows[2])]) for i, j in chosen]
        self.score(f"pairs {self.called}, {n} answers of {answer} to {question} tokens", prompts,
                   ["sorted", "sorted cudnn", "sorted compiled"])  # fmt: skip

    def train(self):
        """States in the weights' type, as torch keeps them."""
        n = self.p["tokens"]
        ids = self.ids(0, n)[None]

        def way(context=nullcontext, checkpoint=False):
            def measure():
                self.model.train()
                if checkpoint:
                    self.model.gradient_checkpointing_enable()
                optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

                def step():
                    self.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

                try:
                    with context():
                        return self.samples(step)
                finally:
                    optimizer.zero_grad(set_to_none=True)
                    self.model.gradient_checkpointing_disable()

            return measure

        parameters = sum(p.numel() for p in self.model.parameters())
        # Weights read twice and written once, gradients and two states read and written once.
        cost = parameters * 9 * self.dtype.itemsize, 3 * self.forward_flops([n], n - 1)
        ways = {"default": way()}
        if self.cuda:
            ways["cudnn"] = way(self.cudnn)
        if self.args.compile:
            ways["compiled"] = way(lambda: self.compiled(dynamic=False))
        # Slower, but it fits where the others do not.
        ways["checkpointed"] = way(checkpoint=True)
        self.try_ways(f"train {self.called}, {n} tokens", cost, ways, n)


def main():
    parser = arguments(__doc__, PASSES, samples=5)
    parser.add_argument("--family", choices=SHAPES, help="a published shape; that of the sizes if not given")
    parser.add_argument("--work", default="prefill,decode,judge,rank,train", help="passes, separated by commas")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    sizes, dtype = begin(args, PASSES)
    bench = Bench(args, sizes, dtype)
    for work in args.work.split(","):
        if work == "decode":
            for sequences in sizes["sequences"]:
                bench.decode(sequences)
        elif work == "rank":
            for question in sizes["asked"]:
                bench.pairs(question)
        else:
            {"prefill": bench.prefill, "judge": bench.judge, "train": bench.train}[work]()
    if not bench.results.whole["cases"]:
        sys.exit("no pass could run")


if __name__ == "__main__":
    main()
