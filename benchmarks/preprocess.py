"""How long do encoding and training of rows in Criteo's format take, and how much memory?

python benchmarks/preprocess.py [--rows 5000000] [--gzip 0]

The rows are generated: numbers and words with long tails, a quarter of the columns mostly missing.
At 5 million rows, the six columns with the most words have some 2 million different ones each. The
rows are encoded (--threshold 10), then trained on for one epoch, in a new process each.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, options, show

BLOCK = 100_000  # rows generated at a time
# Number of different words in each categorical column, at most.
WORDS = [*[10_000_000] * 6, *[100_000] * 6, *[5_000] * 7, *[100] * 7]


ENCODE = """
import sys, time
import torch
from families.clicks.dataset import load_clicks
from utils import peak_memory_mb
begin = time.perf_counter()
load_clicks("criteo", sys.argv[1], threshold=10)
print(time.perf_counter() - begin, peak_memory_mb(torch.device("cpu")))
"""


def generate(path, rows, packed):
    """Write random rows in Criteo's format. packed: whether to compress them by gzip"""
    random = np.random.default_rng(1)
    with gzip.open(path, "wt", compresslevel=1) if packed else open(path, "w") as file:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            columns = [random.integers(0, 2, count).astype(str)]
            for field in range(13):
                numbers = np.floor(random.pareto(0.7, count).clip(max=1e6) * (field + 1))
                columns.append(numbers.astype(int).astype(str))
            for words in WORDS:
                # The k-th word is about k times rarer than the first. A product scatters the words.
                index = (words ** random.random(count)).astype(np.int64)
                columns.append(np.char.mod("%08x", index * 2_654_435_761 % (1 << 32)))
            for column in columns[1::4]:
                column[random.random(count) < 0.8] = ""
            file.write("\n".join(map("\t".join, zip(*columns, strict=True))) + "\n")


def train(folder, name):
    """Train one epoch in a new process. Returns its summary.json.

    folder: of all data sets; the run's files are written into it
    name: of the run
    """
    flags = "--model DeepFM --dataset criteo --epochs 1 --slots 1 "
    flags += f"--run_name {name} --data_dir {folder}"
    command = [sys.executable, str(ROOT / "main.py"), *flags.split()]
    command += ["--log_root", f"{folder}/runs", "--checkpoint_dir", f"{folder}/checkpoints"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "runs" / name / "summary.json").read_text())


def main():
    given = options(__doc__, rows=5_000_000, gzip=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "criteo").mkdir()
        log = folder / "criteo" / ("train.txt.gz" if given.gzip else "train.txt")
        generate(log, given.rows, given.gzip)
        millions, rows = given.rows / 1e6, {}

        # Encode, in a new process.
        command = [sys.executable, "-c", ENCODE, str(folder)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        seconds, memory = map(float, done.stdout.split())
        copy = next((folder / "criteo" / ".cache").iterdir())
        size = sum(path.stat().st_size for path in copy.iterdir())
        rows["encode"] = {
            "s per million rows": f"{seconds / millions:.2f}",
            "peak memory, MB": memory,
        }
        rows["encode"] |= {
            "log, MB": f"{log.stat().st_size / 1e6:.0f}",
            "encoded copy, MB": f"{size / 1e6:.0f}",
        }

        # Train; the encoded copy is there already.
        summary = train(folder, "epoch")
        rows["train one epoch"] = {
            "s per million rows": f"{summary['seconds']['train'] / (0.8 * millions):.2f}",
            "peak memory, MB": summary["peak_memory_mb"],
        }
        values = summary["dataset"]["values"]
    title = f"{given.rows:,} generated rows in Criteo's format, {values:,} ids with --threshold 10"
    show(f"{title}; DeepFM's defaults", rows)


if __name__ == "__main__":
    main()
