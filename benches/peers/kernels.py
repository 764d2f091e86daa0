#!/usr/bin/env python3
"""The kernels of `gramophone bench kernels` in PyTorch, in the same JSON, so that `gramophone bench compare` sets them side by side.

    gramophone bench kernels --device cuda --json kernels.json
    python benches/peers/kernels.py --device cuda --compile --json torch.json
    gramophone bench compare torch.json kernels.json

Names and sizes are those of src/app/bench/kernels.rs. Samples are taken in the same way. Attention is measured with each SDPA backend
by itself, and with FlexAttention on a GPU; the case that carries our name is the fastest way, and so it is for every op that has
several (--compile adds torch.compile's). FlashInfer, Liger and bitsandbytes are ways too where they are installed. A way that does not
run is left out and named.
"""

import functools
import sys
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from clock import Clock, Deadline, Results, arguments, begin, why
from torch.nn.attention import SDPBackend, sdpa_kernel

SIZES = {
    "large": dict(t=16384, d=4096, f=14336, hq=32, hkv=8, k=128, v=128256,
                  seqs=[[8192] * 2, [2048] * 8, [8192] + [2048] * 4], decode=(32, 4096), params=1 << 27,
                  copied=1 << 30, square=8192),
    "small": dict(t=1024, d=512, f=1536, hq=8, hkv=4, k=64, v=8192, seqs=[[512, 512]],
                  decode=(8, 1024), params=1 << 21, copied=64 << 20, square=1024),
    "tiny": dict(t=24, d=64, f=128, hq=2, hkv=1, k=64, v=256, seqs=[[9, 7]],
                 decode=(2, 70), params=1000, copied=1 << 16, square=64),
}  # fmt: skip
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PAGE = 64


@dataclass
class Case:
    name: str
    bytes: float
    flops: float
    bound: str
    # name -> (() -> tuple of tensors, callable on them)
    ways: dict = field(default_factory=dict)


def plural(lengths):
    """2048*8, 8192+2048*4."""
    runs = []
    for n in lengths:
        if runs and runs[-1][0] == n:
            runs[-1][1] += 1
        else:
            runs.append([n, 1])
    return "+".join(str(n) if count == 1 else f"{n}*{count}" for n, count in runs)


class Cases:
    def __init__(self, s, dtype, device, compile_too):
        self.s, self.dtype, self.device, self.compile_too = s, dtype, device, compile_too
        self.name = {torch.bfloat16: "bfloat16", torch.float32: "float32"}[dtype]
        self.e = dtype.itemsize
        self.cuda = device.startswith("cuda")
        self.on = f"{s['hq']} on {s['hkv']} heads of {s['k']}"

    def normal(self, *shape, dtype=None):
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)

    def both(self, function, operands):
        """Eager and, if asked for, compiled."""
        ways = {"eager": (operands, function)}
        if self.compile_too:
            ways["compiled"] = (operands, torch.compile(function, dynamic=False))
        return ways

    def gradients(self, function, inputs):
        """Gradients alone, of the function eager and compiled: the graph is made when the operands are."""

        def operands(function):
            leaves = [x.requires_grad_() for x in inputs()]
            y = function(*leaves)
            return y, torch.randn_like(y), *leaves

        def run(y, dy, *leaves):
            return torch.autograd.grad(y, leaves, dy, retain_graph=True)

        return {name: (functools.partial(operands, f), run) for name, (_, f) in self.both(function, None).items()}

    def all(self):
        yield from self.rows()
        yield from self.products()
        for lengths in self.s["seqs"]:
            yield from self.attention(lengths)
        yield self.decode()
        yield from self.head()
        yield from self.optimizers()

    def rows(self):
        s, e, normal = self.s, self.e, self.normal
        t, d, f, v = s["t"], s["d"], s["f"], s["v"]

        def rms(x, w):
            return F.rms_norm(x, (d,), w, 1e-5)

        def swiglu(gate, up):
            return F.silu(gate) * up

        by_width, by_ffn = f"{self.name} {t} x {d}", f"{self.name} {t} x {f}"
        norm, gated = lambda: (normal(t, d), normal(d)), lambda: (normal(t, f), normal(t, f))
        yield Case(f"rmsnorm_fwd {by_width}", (2 * t * d + d) * e + 4 * t, 4 * t * d, "copy", self.both(rms, norm))
        yield Case(f"rmsnorm_bwd {by_width}", (4 * t * d + d) * e + (t + 2 * d) * 4, 12 * t * d, "copy",
                   self.gradients(rms, norm))  # fmt: skip
        yield Case(f"swiglu_fwd {by_ffn}", 3 * t * f * e, 5 * t * f, "copy", self.both(swiglu, gated))
        yield Case(f"swiglu_bwd {by_ffn}", 5 * t * f * e, 12 * t * f, "copy", self.gradients(swiglu, gated))
        table = lambda: (torch.arange(t, device=self.device) * 7919 % v, normal(v, d))  # noqa: E731
        yield Case(f"embed_fwd {by_width}", 2 * t * d * e + 4 * t, 0, "copy", self.both(F.embedding, table))
        yield self.qkv_tail()

    def qkv_tail(self):
        """Head norms, rotation, and keys and values written to their places."""
        s, normal = self.s, self.normal
        t, hq, hkv, k = s["t"], s["hq"], s["hkv"], s["k"]

        def turn(x, weight, cos, sin):
            x = F.rms_norm(x, (k,), weight, 1e-6)
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

        def tail(q, key, value, wq, wk, cos, sin, places, keys, values):
            q = turn(q, wq, cos, sin)
            keys.index_copy_(0, places, turn(key, wk, cos, sin))
            values.index_copy_(0, places, value)
            return q

        def operands():
            angles = [normal(t, 1, k // 2, dtype=torch.float32) for _ in range(2)]
            pools = [torch.zeros(t, hkv, k, device=self.device, dtype=self.dtype) for _ in range(2)]
            return (normal(t, hq, k), normal(t, hkv, k), normal(t, hkv, k), normal(k), normal(k), *angles,
                    torch.arange(t, device=self.device), *pools)  # fmt: skip

        n = t * (hq + hkv) * k
        return Case(f"qkv_tail {self.name} {t} tokens, {self.on}", (2 * n + 2 * t * hkv * k) * self.e + t * k * 4, 7 * n,
                    "copy", self.both(torch.no_grad()(tail), operands))  # fmt: skip

    def products(self):
        s, e, normal, name = self.s, self.e, self.normal, self.name
        d, f, rows = s["d"], s["f"], min(s["t"], 8192)
        for m, n, depth in [(rows, d, d), (rows, f, d), (rows, d, f), (1, f, d), (16, f, d)]:
            operands = lambda m=m, n=n, depth=depth: (normal(m, depth), normal(n, depth))  # noqa: E731
            yield Case(f"gemm_nt {name} {m} x {n} x {depth}", (m * n + m * depth + n * depth) * e, 2 * m * n * depth,
                       "matrix" if m >= 256 else "either", {"eager": (operands, F.linear)})  # fmt: skip
        yield Case(f"gemm_nn {name} {rows} x {d} x {f}", (rows * d + rows * f + f * d) * e, 2 * rows * d * f, "matrix",
                   {"eager": (lambda: (normal(rows, f), normal(f, d)), torch.matmul)})  # fmt: skip

        def mlp(x, residual, gate, up, down):
            return residual + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

        yield Case(f"mlp_fwd {name} {rows} x {d} x {f}", (3 * rows * d + 3 * d * f) * e, 6 * rows * d * f, "matrix",
                   self.both(torch.no_grad()(mlp), lambda: (normal(rows, d), normal(rows, d), normal(f, d), normal(f, d),
                                                            normal(d, f))))  # fmt: skip

    def attention(self, lengths):
        """Sequences of one length are a batch; ragged ones run one after the other, which costs PyTorch no padding."""
        s, e, normal = self.s, self.e, self.normal
        hq, hkv, k = s["hq"], s["hkv"], s["k"]
        alike = all(n == lengths[0] for n in lengths)
        batches = [(len(lengths), lengths[0])] if alike else [(1, n) for n in lengths]
        pairs, total = sum(n * (n + 1) // 2 for n in lengths), sum(lengths)

        def qkv(kv=hkv):
            return tuple(x for b, n in batches for x in (normal(b, hq, n, k), normal(b, kv, n, k), normal(b, kv, n, k)))

        def sdpa(backend, q, key, value):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, key, value, is_causal=True, enable_gqa=True)

        def flex(q, key, value):
            return flexible()(q, key, value, block_mask=causal(q.shape[2], q.device), enable_gqa=True)

        ways = {name: (qkv, functools.partial(sdpa, backend)) for name, backend in BACKENDS.items()}
        # Backends that know no groups of heads get each key and value as often as it is used.
        for backend in ("cudnn", "efficient"):
            ways[f"{backend} expanded"] = (functools.partial(qkv, hq), ways[backend][1])
        if self.cuda:
            ways["flex"] = (qkv, flex)

        def forward(attend, *x):
            return [attend(*x[i : i + 3]) for i in range(0, len(x), 3)]

        def graph(operands, attend):
            x = [leaf.requires_grad_() for leaf in operands()]
            y = forward(attend, *x)
            return (*y, *(torch.randn_like(o) for o in y), *x)

        def backward(*x):
            n = len(batches)
            return torch.autograd.grad(x[:n], x[2 * n :], x[n : 2 * n], retain_graph=True)

        name = f"{self.name} {plural(lengths)} tokens, {self.on}"
        heads = total * (hq + hkv) * k
        yield Case(f"attention_fwd {name}", 2 * heads * e + total * hq * 4, 4 * pairs * hq * k, "matrix",
                   {way: (x, torch.no_grad()(functools.partial(forward, f))) for way, (x, f) in ways.items()})  # fmt: skip
        yield Case(f"attention_bwd {name}", 4 * heads * e + 2 * total * hq * 4, 10 * pairs * hq * k, "matrix",
                   {way: (functools.partial(graph, x, f), backward) for way, (x, f) in ways.items()})  # fmt: skip

    def decode(self):
        s, normal = self.s, self.normal
        (b, length), hq, hkv, k = s["decode"], s["hq"], s["hkv"], s["k"]

        def cache(kv=hkv):
            return normal(b, hq, 1, k), normal(b, kv, length, k), normal(b, kv, length, k)

        def sdpa(backend, q, keys, values):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)

        ways = {name: (cache, functools.partial(sdpa, backend)) for name, backend in BACKENDS.items()}
        if self.cuda:
            ways["flex"] = (cache, lambda q, keys, values: flexible()(q, keys, values, enable_gqa=True))
            per = -(-length // PAGE)
            paged = lambda: (normal(b, hq, k), normal(b * per, 2, PAGE, hkv, k))  # noqa: E731
            ways["flashinfer"] = (paged, lambda q, pages: flashinfer_plan(b, per, length, hq, hkv, k, q).run(q, pages))
        return Case(f"decode_fwd {self.name} {b} x {length} tokens, {self.on}", 2 * (b * length * hkv + b * hq) * k * self.e,
                    4 * b * length * hq * k, "read", ways)  # fmt: skip

    def head(self):
        s, e, normal = self.s, self.e, self.normal
        d, v, rows = s["d"], s["v"], min(s["t"], 8192)

        def loss(h, w, targets):
            return F.cross_entropy(F.linear(h, w).float(), targets, reduction="sum")

        def step(loss):
            return lambda h, w, targets: torch.autograd.grad(loss(h, w, targets), (h, w))

        def hidden():
            targets = torch.arange(rows, device=self.device) * 7919 % v
            return normal(rows, d).requires_grad_(), (normal(v, d) * 0.02).requires_grad_(), targets

        shape = f"{self.name} {rows} x {d} x {v}"
        yield Case(f"xent_fwd {shape}", (rows + v) * d * e, 2 * rows * d * v, "matrix",
                   self.both(torch.no_grad()(loss), hidden))  # fmt: skip
        ways = {name: (hidden, step(f)) for name, (_, f) in self.both(loss, None).items()}
        if self.cuda:
            ways["liger"] = (hidden, lambda h, w, targets: torch.autograd.grad(liger_loss()(w, h, targets), (h, w)))
        yield Case(f"xent_step {shape}", (2 * rows + v) * d * e + 8 * v * d, 6 * rows * d * v, "matrix", ways)

    def optimizers(self):
        """Fused AdamW keeps its states in the parameter's type. The job is one step for so many parameters, however few bytes it moves."""
        n, normal = self.s["params"], self.normal

        def adamw(dtype, make):
            def operands():
                p = torch.randn(n, device=self.device, dtype=dtype).requires_grad_()
                p.grad = torch.randn_like(p)
                STEPS[p.data_ptr()] = make([p])
                STEPS[p.data_ptr()].step()
                return (p,)

            return operands, lambda p: STEPS[p.data_ptr()].step()

        fused = lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1, fused=True)  # noqa: E731
        blocks = -(-n // 256)
        yield Case(f"adamw_f32 f32 {n}", 28 * n, 16 * n, "copy", {"fused": adamw(torch.float32, fused)})
        ways = {"fused": adamw(torch.bfloat16, fused)}
        if self.cuda:
            ways["bitsandbytes"] = adamw(torch.bfloat16, bitsandbytes_adamw)
        for name, bytes in [("adamw_sr", 22 * n), ("adamw_8bit", 10 * n + 16 * blocks)]:
            yield Case(f"{name} bf16, bf16 gradients {n}", bytes, 16 * n, "copy", dict(ways))
        yield Case(f"norm2 f32 {n}", 4 * n, 2 * n, "read",
                   {"eager": (lambda: (normal(n, dtype=torch.float32),), torch.linalg.vector_norm)})  # fmt: skip


STEPS = {}


@functools.cache
def flexible():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def causal(n, device):
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, q, kv: q >= kv, None, None, n, n, device=device)


@functools.cache
def flashinfer_wrapper(b, per, length, hq, hkv, k, dtype, device):
    import flashinfer

    ints = lambda x: torch.tensor(x, dtype=torch.int32, device=device)  # noqa: E731
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.empty(128 << 20, dtype=torch.uint8, device=device), "NHD")
    # Pages of one sequence lie apart, as in a pool that has been in use.
    pages = [i * b + row for row in range(b) for i in range(per)]
    last = (length - 1) % PAGE + 1
    wrapper.plan(ints([per * row for row in range(b + 1)]), ints(pages), ints([last] * b), hq, hkv, k, PAGE,
                 q_data_type=dtype, kv_data_type=dtype)  # fmt: skip
    return wrapper


def flashinfer_plan(b, per, length, hq, hkv, k, q):
    return flashinfer_wrapper(b, per, length, hq, hkv, k, q.dtype, q.device)


@functools.cache
def liger_loss():
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="sum")


def bitsandbytes_adamw(parameters):
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, lr=1e-3, weight_decay=0.1)


def main():
    parser = arguments(__doc__, SIZES, samples=30)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    args = parser.parse_args()
    sizes, dtype = begin(args, SIZES)
    deadline, clock = Deadline(args.seconds), Clock(args.device, args.samples)
    results = Results("kernels", args.device, clock.ceilings(sizes["copied"], sizes["square"], dtype), args.json)
    for case in Cases(sizes, dtype, args.device, args.compile).all():
        if args.only and not any(part in case.name for part in args.only.split(",")):
            continue
        found, failed = [], []
        for way, (operands, run) in case.ways.items():
            try:
                deadline.check()
                found.append((clock.measure(operands, run), way))
            except Exception as e:  # Whatever a library throws: it is said, and the others go on.
                failed.append((way, why(e)))
            STEPS.clear()
            if clock.cuda:
                torch.cuda.empty_cache()
        results.add(case.name, case.bytes, case.flops, case.bound, found, failed)
    results.write()
    if not results.whole["cases"]:
        sys.exit("no case could run")


if __name__ == "__main__":
    main()
