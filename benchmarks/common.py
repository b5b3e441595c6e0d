"""Shared by all benchmarks: the path of the program's modules, timing in turns, printed tables."""

import argparse
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

# These must be set before the imports below. torch reads the first variable when it is loaded, as
# in main.py; numpy reads the second, which implicit asks for.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

import families  # noqa: E402
from parse import parse_args  # noqa: E402
from train import learning_rate  # noqa: E402
from utils import choose_device, keep_freed_memory  # noqa: E402

keep_freed_memory()  # as main.py does

# Their versions stand above each table.
PACKAGES = ("torch", "numpy", "scipy", "pandas", "pyarrow", "polars", "implicit", "recbole")
PACKAGES += ("elsarec", "scikit-surprise", "fuxictr")


def options(description, **numbers):
    """Parse a benchmark's command line: --data_dir, and a flag for each of `numbers`.

    description: text for --help
    numbers: default of each flag; its type is that of the flag
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", default="datasets")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def build(flags, data_dir):
    """Build the model of `python main.py <flags>`, ready to train: (model, parse.Flags, data)."""
    args = parse_args([*flags.split(), "--data_dir", str(data_dir)])
    data = families.load_data(args)
    torch.compiler.reset()
    model = families.model_class(args)(data, args, choose_device(args.device))
    model.start_training()
    return model, args, data


def epochs_of(model, args, count=1):
    """Return a function that trains `count` epochs; drawing negatives is part of them."""

    def train():
        for epoch in range(1, count + 1):
            model.train_epoch(learning_rate(args, epoch), lambda: None)

    return train


def in_turns(functions, rounds):
    """Time functions: {name: seconds of its call in each round}.

    functions: {name: function}
    rounds: how often to call each; a round calls each once, so that all see the same noise
    """
    # The first call compiles, fills caches and allocates memory.
    for function in functions.values():
        function()
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
    """Columns of a table: the median, and half the distance between the quartiles in % of it."""
    low, median, high = statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=4)
    return {"median, s": f"{median:.4f}", "spread": f"{(high - low) / 2 / median:.0%}"}


def show(title, rows):
    """Print a table below its title and the versions of machine and packages.

    rows: {name of the row: {column: value}}
    """
    packages = []
    for name in PACKAGES:
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
    versions = f"Python {platform.python_version()}, {', '.join(packages)}"
    print(f"\n{title}\n{chip}, {os.cpu_count()} cores; {versions}\n")
    print(pd.DataFrame.from_dict(rows, orient="index").fillna("").to_string())
