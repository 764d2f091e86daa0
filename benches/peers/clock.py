"""What the peers of `gramophone bench` share: what they are told, how samples are taken, the ceilings, and the file of results."""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F


def quartiles(samples):
    samples = sorted(samples)
    at = lambda part: samples[round((len(samples) - 1) * part)]  # noqa: E731
    return {"median": statistics.median(samples), "low": at(0.25), "high": at(0.75), "samples": len(samples)}


def arguments(doc, sizes, samples):
    """A parser of what both peers take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0 for one per core")
    parser.add_argument("--dtype", choices=["f32", "bf16"], help="bf16 on a GPU, f32 on a CPU if not given")
    parser.add_argument("--sizes", choices=sizes, help="large on a GPU, small on a CPU if not given")
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--seconds", type=float, help="begin nothing new after so many")
    parser.add_argument("--json", type=Path, required=True)
    return parser


def begin(args, sizes):
    """Sets torch up as asked; the chosen sizes and type."""
    torch.manual_seed(1)
    # Every shape is compiled by itself; past the limit it would run uncompiled.
    torch._dynamo.config.recompile_limit = 100
    if args.threads:
        torch.set_num_threads(args.threads)
    gpu = args.device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(args.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype or ("bf16" if gpu else "f32")]
    return sizes[args.sizes or ("large" if gpu else "small")], dtype


class Clock:
    """Samples of a case: caches flushed, one call on each of several sets of operands, the device's own clock."""

    def __init__(self, device, samples, budget=4.0):
        self.cuda, self.device = device.startswith("cuda"), device
        self.samples, self.budget = samples, budget
        cache = torch.cuda.get_device_properties(device).L2_cache_size if self.cuda else 32 << 20
        self.flush = torch.empty(2 * cache, dtype=torch.uint8, device=device)
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
            last = self.timed(once)
        samples = []
        # What takes long is sampled less often: one slow way would crowd out the others.
        for _ in range(min(self.samples, max(5, int(self.budget / max(last, 1e-9))))):
            self.flush.zero_()
            samples.append(self.timed(once) / len(sets))
        return quartiles(samples)

    def ceilings(self, copied, square, dtype):
        n = copied // 4
        zeros = lambda *shape: torch.zeros(shape, device=self.device)  # noqa: E731
        copy = self.measure(lambda: (zeros(n), zeros(n)), lambda a, b: a.copy_(b))
        read = self.measure(lambda: (zeros(n),), torch.sum)
        factor = lambda: torch.randn(square, square, device=self.device, dtype=dtype)  # noqa: E731
        product = self.measure(lambda: (factor(), factor()), F.linear)
        return {"copy": 8 * n / copy["low"], "read": 4 * n / read["low"], "matrix": 2 * square**3 / product["low"]}


def environment(device):
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    # As our program calls the processor and the instructions that it uses there.
    level = "avx512" if "avx512bw" in flags else "avx2" if "avx2" in flags else "baseline"
    gpu = device.startswith("cuda")
    versions = [f"torch {torch.__version__}", f"python {platform.python_version()}"]
    if "transformers" in sys.modules:
        versions.insert(1, f"transformers {sys.modules['transformers'].__version__}")
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"{processor} ({level})".lower(),
        "threads": 0 if gpu else torch.get_num_threads(),
        "driver": f"CUDA {torch.version.cuda} (PyTorch's)" if gpu else "",
        "processor": processor,
        "system": f"{platform.system().lower()} {platform.machine()} {platform.release()}",
        "program": ", ".join(versions),
        "command": " ".join(sys.argv),
    }


class Results:
    """The file, written anew after each case, so that a run that is stopped leaves what it had."""

    def __init__(self, benchmark, device, ceilings, path):
        self.ceilings, self.path = ceilings, path
        self.whole = {"format": 1, "benchmark": benchmark, "environment": environment(device),
                      "ceilings": ceilings, "cases": [], "left_out": []}  # fmt: skip

    def at_most(self, bytes, flops, bound):
        """The least time in which this can be done."""
        top = self.ceilings
        times = {"copy": bytes / top["copy"], "read": bytes / top["read"], "matrix": flops / top["matrix"]}
        return max(times["read"], times["matrix"]) if bound == "either" else times[bound]

    def add(self, name, bytes, flops, bound, ways, failed, **more):
        """A case that was done in some ways, [(seconds, way)]; the fastest carries its name. `failed` says why others did not run."""
        for way, reason in failed:
            print(f"left out: {name} ({way}): {reason}", file=sys.stderr)
            self.whole["left_out"].append({"name": f"{name} ({way})", "reason": reason})
        if ways:
            seconds, way = min(ways, key=lambda x: x[0]["median"])
            share = self.at_most(bytes, flops, bound) / seconds["median"]
            self.whole["cases"].append(
                {"name": name, "bytes": bytes, "flops": flops, "bound": bound, "seconds": seconds, "of_ceiling": share,
                 "way": way, "ways": [{"name": way, "seconds": seconds} for seconds, way in ways], **more})  # fmt: skip
            print(f"{name} ({way}): {seconds['median'] * 1e3:.3f} ms, {100 * share:.1f}% of the ceiling", file=sys.stderr)
        self.write()

    def write(self):
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.whole, indent=1) + "\n")
        draft.replace(self.path)


class Deadline:
    """Ways that would begin after so many seconds are left out and named; None for no end."""

    def __init__(self, seconds):
        self.end = None if seconds is None else time.monotonic() + seconds

    def check(self):
        if self.end is not None and time.monotonic() > self.end:
            raise TimeoutError("no time was left (--seconds)")


def why(error):
    """The first line of what went wrong."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
