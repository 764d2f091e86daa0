#!/usr/bin/env python3
"""The kernels of `gramophone bench kernels` in PyTorch, in the same JSON, so that `gramophone bench compare` sets them side by side.

    gramophone bench kernels --device cuda --json ours.json
    python benches/peers/kernels.py --device cuda --json torch.json
    gramophone bench compare torch.json ours.json

Names and sizes are those of src/app/bench/kernels.rs. Samples are taken in the same way: caches flushed by overwriting a buffer, one call
on each of several sets of operands, the device's own clock, medians and quartiles. Attention is measured with each SDPA backend by
itself; the case that carries our name is the fastest of them, and so it is for every op that has several ways (--compile adds
torch.compile's). A way that the device does not have is left out and named.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SIZES = {
    "large": dict(t=16384, d=4096, f=14336, hq=32, hkv=8, k=128, v=128256, seqs=[8192, 2048, 2048, 2048, 2048],
                  decode=(32, 4096), params=1 << 27, copied=1 << 30, square=8192),
    "small": dict(t=1024, d=512, f=1536, hq=8, hkv=4, k=64, v=8192, seqs=[512, 512],
                  decode=(8, 1024), params=1 << 21, copied=64 << 20, square=1024),
    "tiny": dict(t=24, d=64, f=128, hq=2, hkv=1, k=64, v=256, seqs=[9, 7],
                 decode=(2, 70), params=1000, copied=1 << 16, square=64),
}  # fmt: skip
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass
class Case:
    name: str
    bytes: float
    flops: float
    bound: str
    operands: object  # () -> tuple of tensors
    ways: dict  # name -> callable on the operands


class Clock:
    """Samples of a case, flushed and rotated."""

    def __init__(self, args):
        self.cuda = args.device.startswith("cuda")
        self.device, self.samples = args.device, args.samples
        cache = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 32 << 20
        self.flush = torch.empty(2 * cache, dtype=torch.uint8, device=args.device)
        self.rotated = 4 * cache

    def timed(self, work):
        if not self.cuda:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    def measure(self, operands, way):
        first = operands()
        one = sum(x.numel() * x.element_size() for x in first)
        sets = [first] + [operands() for _ in range(min(64, max(1, -(-self.rotated // max(one, 1)))) - 1)]

        def once():
            for operands in sets:
                way(*operands)

        for _ in range(3):  # compilation, autotuning, first touch
            self.timed(once)
        samples = []
        for _ in range(self.samples):
            self.flush.zero_()
            samples.append(self.timed(once) / len(sets))
        samples.sort()
        at = lambda part: samples[round((len(samples) - 1) * part)]  # noqa: E731
        return {"median": statistics.median(samples), "low": at(0.25), "high": at(0.75), "samples": len(samples)}


def cases(s, dtype, device):
    name = {torch.bfloat16: "bfloat16", torch.float32: "float32"}[dtype]
    e = dtype.itemsize
    t, d, f, hq, hkv, k, v = (s[key] for key in ("t", "d", "f", "hq", "hkv", "k", "v"))
    normal = lambda *shape, dtype=dtype: torch.randn(shape, device=device, dtype=dtype)  # noqa: E731
    leaf = lambda x: x.requires_grad_()  # noqa: E731
    out = []

    def rms(x, w):
        return F.rms_norm(x, (d,), w, 1e-5)

    def backward(function):
        # The gradients alone: the graph is made when the operands are.
        def operands(*inputs):
            inputs = [leaf(x) for x in inputs]
            y = function(*inputs)
            return y, torch.randn_like(y), *inputs

        return operands, lambda y, dy, *inputs: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    out.append(Case(f"rmsnorm_fwd {name} {t} x {d}", (2 * t * d + d) * e + 4 * t, 4 * t * d, "copy",
                    lambda: (normal(t, d), normal(d)), {"eager": rms}))  # fmt: skip
    make, run = backward(rms)
    out.append(Case(f"rmsnorm_bwd {name} {t} x {d}", (4 * t * d + d) * e + (t + 2 * d) * 4, 12 * t * d, "copy",
                    lambda: make(normal(t, d), normal(d)), {"autograd": run}))  # fmt: skip

    def swiglu(gate, up):
        return F.silu(gate) * up

    out.append(Case(f"swiglu_fwd {name} {t} x {f}", 3 * t * f * e, 5 * t * f, "copy",
                    lambda: (normal(t, f), normal(t, f)), {"eager": swiglu}))  # fmt: skip
    make2, run2 = backward(swiglu)
    out.append(Case(f"swiglu_bwd {name} {t} x {f}", 5 * t * f * e, 12 * t * f, "copy",
                    lambda: make2(normal(t, f), normal(t, f)), {"autograd": run2}))  # fmt: skip
    out.append(Case(f"embed_fwd {name} {t} x {d}", 2 * t * d * e + 4 * t, 0, "copy",
                    lambda: (torch.arange(t, device=device) * 7919 % v, normal(v, d)), {"eager": F.embedding}))  # fmt: skip

    rows = min(t, 8192)
    for m, n, depth in [(rows, d, d), (rows, f, d), (rows, d, f), (1, f, d), (16, f, d)]:
        out.append(Case(f"gemm_nt {name} {m} x {n} x {depth}", (m * n + m * depth + n * depth) * e, 2 * m * n * depth,
                        "matrix" if m >= 256 else "either",
                        lambda m=m, n=n, depth=depth: (normal(m, depth), normal(n, depth)), {"eager": F.linear}))  # fmt: skip
    out.append(Case(f"gemm_nn {name} {rows} x {d} x {f}", (rows * d + rows * f + f * d) * e, 2 * rows * d * f, "matrix",
                    lambda: (normal(rows, f), normal(f, d)), {"eager": torch.matmul}))  # fmt: skip

    # Sequences of one length are a batch; ragged ones run one after the other, which costs PyTorch no padding.
    seqs = s["seqs"]
    pairs, total = sum(n * (n + 1) // 2 for n in seqs), sum(seqs)
    shape = f"{name} {'+'.join(map(str, seqs))} tokens, {hq} on {hkv} heads of {k}"

    def qkv():
        return tuple(x for n in seqs for x in (normal(1, hq, n, k), normal(1, hkv, n, k), normal(1, hkv, n, k)))

    def attend(backend):
        def way(*x):
            with sdpa_kernel(backend):
                for i in range(0, len(x), 3):
                    F.scaled_dot_product_attention(*x[i : i + 3], is_causal=True, enable_gqa=True)

        return way

    heads = 2 * total * (hq + hkv) * k
    out.append(Case(f"attention_fwd {shape}", heads * e + total * hq * 4, 4 * pairs * hq * k, "matrix", qkv,
                    {name: attend(backend) for name, backend in BACKENDS.items()}))  # fmt: skip

    b, length = s["decode"]
    cache = lambda: (normal(b, hq, 1, k), normal(b, hkv, length, k), normal(b, hkv, length, k))  # noqa: E731

    def decode(backend):
        def way(q, keys, values):
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)

        return way

    out.append(Case(f"decode_fwd {name} {b} x {length} tokens, {hq} on {hkv} heads of {k}",
                    2 * (b * length * hkv + b * hq) * k * e, 4 * b * length * hq * k, "read", cache,
                    {name: decode(backend) for name, backend in BACKENDS.items()}))  # fmt: skip

    labelled = min(t, 2048)
    ids = lambda: torch.arange(labelled, device=device) * 7919 % v  # noqa: E731

    def head(h, w, targets):
        return F.cross_entropy(F.linear(h, w).float(), targets, reduction="none")

    def head_step(h, w, targets):
        return torch.autograd.grad(head(h, w, targets).sum(), (h, w))

    hidden = lambda: (leaf(normal(labelled, d)), leaf(normal(v, d) * 0.02), ids())  # noqa: E731
    out.append(Case(f"xent_fwd {name} {labelled} x {d} x {v}", (labelled + v) * d * e, 2 * labelled * d * v, "matrix",
                    hidden, {"eager": torch.no_grad()(head)}))  # fmt: skip
    out.append(Case(f"xent_step {name} {labelled} x {d} x {v}", (2 * labelled + v) * d * e + 8 * v * d,
                    6 * labelled * d * v, "matrix", hidden, {"eager": head_step}))  # fmt: skip

    n = s["params"]

    def adamw(parameter, fused):
        def operands():
            p = torch.randn(n, device=device, dtype=parameter).requires_grad_()
            p.grad = torch.randn_like(p)
            optimizer = torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1, fused=fused, foreach=False if fused else None)
            optimizer.step()
            STEPS[p.data_ptr()] = optimizer
            return (p,)

        return operands

    # Fused AdamW keeps its states in the parameter's type: of ours, the f32 one is the same work. Not fused is slower everywhere.
    out.append(Case(f"adamw_f32 f32 {n}", 28 * n, 16 * n, "copy", adamw(torch.float32, True),
                    {"fused": lambda p: STEPS[p.data_ptr()].step()}))  # fmt: skip
    out.append(Case(f"norm2 f32 {n}", 4 * n, 2 * n, "read", lambda: (normal(n, dtype=torch.float32),),
                    {"vector_norm": torch.linalg.vector_norm}))  # fmt: skip
    return out


STEPS = {}


def ceilings(s, dtype, device, clock):
    n = s["copied"] // 4
    zeros = lambda *shape: torch.zeros(shape, device=device)  # noqa: E731
    copy = clock.measure(lambda: (zeros(n), zeros(n)), lambda a, b: a.copy_(b))
    read = clock.measure(lambda: (zeros(n),), torch.sum)
    square = lambda: torch.randn(s["square"], s["square"], device=device, dtype=dtype)  # noqa: E731
    product = clock.measure(lambda: (square(), square()), F.linear)
    return {"copy": 8 * n / copy["low"], "read": 4 * n / read["low"], "matrix": 2 * s["square"] ** 3 / product["low"]}


def at_most(case, top):
    memory = {"copy": case.bytes / top["copy"], "read": case.bytes / top["read"], "matrix": case.flops / top["matrix"]}
    return max(memory["read"], memory["matrix"]) if case.bound == "either" else memory[case.bound]


def environment(args):
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    # As our program calls the processor and the instructions that it uses there.
    level = "avx512" if "avx512bw" in flags else "avx2" if "avx2" in flags else "baseline"
    gpu = args.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(0) if gpu else f"{processor} ({level})".lower(),
        "threads": 0 if gpu else torch.get_num_threads(),
        "driver": f"CUDA {torch.version.cuda} (PyTorch's)" if gpu else "",
        "processor": processor,
        "system": f"{platform.system().lower()} {platform.machine()} {platform.release()}",
        "program": f"torch {torch.__version__}, python {platform.python_version()}",
        "command": " ".join(sys.argv),
    }


def fastest(case, clock, compile_too):
    """The fastest way's times, and why others did not run."""
    found, failed = [], []
    ways = dict(case.ways)
    if compile_too:
        ways |= {f"compiled {name}": torch.compile(way, mode="max-autotune") for name, way in case.ways.items()}
    for name, way in ways.items():
        try:
            found.append((clock.measure(case.operands, way), name))
        except (RuntimeError, NotImplementedError) as e:
            failed.append({"name": f"{case.name} ({name})", "reason": str(e).splitlines()[0]})
        STEPS.clear()
    return min(found, key=lambda x: x[0]["median"], default=(None, None)), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0 for one per core")
    parser.add_argument("--dtype", choices=["f32", "bf16"], help="bf16 on a GPU, f32 on a CPU if not given")
    parser.add_argument("--sizes", choices=SIZES, help="large on a GPU, small on a CPU if not given")
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="torch.compile each way as well")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(1)
    if args.threads:
        torch.set_num_threads(args.threads)
    gpu = args.device.startswith("cuda")
    sizes = SIZES[args.sizes or ("large" if gpu else "small")]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype or ("bf16" if gpu else "f32")]
    clock = Clock(args)
    top = ceilings(sizes, dtype, args.device, clock)
    measured, left_out = [], []
    for case in cases(sizes, dtype, args.device):
        if args.only and not any(part in case.name for part in args.only.split(",")):
            continue
        (seconds, way), failed = fastest(case, clock, args.compile)
        left_out += failed
        if seconds is None:
            continue
        share = at_most(case, top) / seconds["median"]
        measured.append({"name": case.name, "bytes": case.bytes, "flops": case.flops, "bound": case.bound,
                         "seconds": seconds, "of_ceiling": share, "way": way})  # fmt: skip
        print(f"{case.name} ({way}): {seconds['median'] * 1e3:.3f} ms, {100 * share:.1f}% of the ceiling", file=sys.stderr)
    result = {"format": 1, "benchmark": "kernels", "environment": environment(args), "ceilings": top,
              "cases": measured, "left_out": left_out}  # fmt: skip
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
