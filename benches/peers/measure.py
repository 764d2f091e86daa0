"""What both measurements need: the workload, the model, and the block that says where a figure comes from."""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that workload.py wrote")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="sdpa is the faster one")
    return parser


def load_model(args):
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        args.work / "model", dtype=torch.float32, attn_implementation=args.attention
    )


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def processor():
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


class Timer:
    """Times repetitions: wall time, and the processor time of all threads, which other programs disturb less."""

    def __init__(self):
        self.wall, self.cpu = [], []

    def __enter__(self):
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        self.wall.append(time.perf_counter() - self.start[0])
        self.cpu.append(time.process_time() - self.start[1])

    def rates(self, name, amount):
        """`amount` per second: the median, the best, and per second of processor time (with one thread, the rate of
        an idle machine; with more, threads that spin while they wait count as well)."""
        middle, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return {
            f"{name}_per_s": round(amount / middle, 3),
            f"best_{name}_per_s": round(amount / min(self.wall), 3),
            f"{name}_per_cpu_s": round(amount / cpu, 3),
            "seconds": [round(s, 3) for s in self.wall],
        }


def report(args, result):
    """Prints one JSON object: the result and its environment. Peak memory is that of the whole process."""
    environment = {
        "cpu": processor(),
        "threads": args.threads,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "attention": args.attention,
        "command": " ".join(sys.argv),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"peak_rss_mib": round(peak, 1), "environment": environment}, indent=1))
