"""How long do rows in Criteo's format take until they are trained on, and how much memory?

python benchmarks/preprocess.py [--rows 5000000] [--gzip 0]

The rows are generated: numbers and words with long tails, a quarter of them missing; at 5 million rows the six columns
with the most words have some 2 million each. They are encoded (--threshold 10), then trained on for one epoch, each in
a process of its own.
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
WORDS = [
    *[10_000_000] * 6,
    *[100_000] * 6,
    *[5_000] * 7,
    *[100] * 7,
]  # of each categorical column, at most


def generate(path, rows, packed):
    """Write rows in Criteo's format."""
    random = np.random.default_rng(1)
    with gzip.open(path, "wt", compresslevel=1) if packed else open(path, "w") as file:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            columns = [random.integers(0, 2, count).astype(str)]
            for field in range(13):
                columns.append(
                    np.floor(random.pareto(0.7, count).clip(max=1e6) * (field + 1))
                    .astype(int)
                    .astype(str)
                )
            for words in WORDS:
                number = (
                    (words ** random.random(count)).astype(np.int64) * 2_654_435_761 % (1 << 32)
                )
                columns.append(np.char.mod("%08x", number))
            for column in columns[1::4]:
                column[random.random(count) < 0.8] = ""
            file.write("\n".join(map("\t".join, zip(*columns, strict=True))) + "\n")


def train(folder, name):
    """Run one epoch in a process of its own: its summary.json."""
    flags = f"--model DeepFM --dataset criteo --epochs 1 --slots 1 --run_name {name} --data_dir {folder}"
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
        code = "import sys, time; from clicks import load_clicks; from utils import peak_memory_mb; import torch; "
        code += "t = time.perf_counter(); load_clicks('criteo', sys.argv[1], threshold=10); "
        code += "print(time.perf_counter() - t, peak_memory_mb(torch.device('cpu')))"
        found = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        seconds, memory = map(float, found.stdout.split())
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
        summary = train(folder, "epoch")
        rows["train one epoch"] = {
            "s per million rows": f"{summary['seconds']['train'] / (0.8 * millions):.2f}",
            "peak memory, MB": summary["peak_memory_mb"],
        }
        values = summary["dataset"]["values"]
    show(
        f"{given.rows:,} generated rows in Criteo's format, {values:,} ids with --threshold 10; DeepFM's defaults",
        rows,
    )


if __name__ == "__main__":
    main()
