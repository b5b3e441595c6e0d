"""What the benchmarks share: the repository's modules, timing in turns, and one form of table."""

import argparse
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

import families
from families import load_data
from parse import parse_args
from train import learning_rate
from utils import choose_device, keep_freed_memory

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as main.py does; read when torch is loaded
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # as implicit asks for; read when numpy is loaded
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

keep_freed_memory()  # as main.py does


def options(description, **numbers):
    """The benchmark's flags: --data_dir, and one per number with its default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", default="datasets")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def build(flags, data_dir):
    """The model that `python main.py <flags>` trains: (model, args, data)."""
    args = parse_args([*flags.split(), "--data_dir", str(data_dir)])
    data = load_data(args)
    torch.compiler.reset()
    model = families.model_class(args.model)(data, args, choose_device(args.device))
    model.start_training()
    return model, args, data


def epochs_of(model, args, count=1):
    """A function that trains `count` epochs, with the negatives that they need."""
    return lambda: [
        model.train_epoch(learning_rate(args, epoch), lambda: None) for epoch in range(1, count + 1)
    ]


def in_turns(functions, rounds):
    """Time {name: function}: {name: seconds of each round}. A round calls each once, so that all see the same noise."""
    for function in functions.values():
        function()  # warm: compiled, cached, allocated
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def spread(seconds):
    """Median and, as a share of it, half the distance between the quartiles."""
    low, median, high = statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=4)
    return {"median, s": f"{median:.4f}", "spread": f"{(high - low) / 2 / median:.0%}"}


def show(title, rows):
    """Print the table {row: {column: value}} with the machine and the versions."""
    packages = []
    for name in ("torch", "numpy", "scipy", "implicit", "recbole", "scikit-surprise", "fuxictr"):
        try:
            packages.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    chip = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        chip = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), chip
        )
    if torch.cuda.is_available():
        chip += f", {torch.cuda.get_device_name()}"
    print(
        f"\n{title}\n{chip}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(packages)}\n"
    )
    print(pd.DataFrame.from_dict(rows, orient="index").fillna("").to_string())
