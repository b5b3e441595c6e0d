"""How near is a training step against all items to the matrix products that it needs?

python benchmarks/all_items.py [--rounds 5] [--threads 1]

The products are A^T A and A G, for all items A (I, D) and G (D, D), into memory that is allocated
once. The step is that of --loss ELSA with batches of 256 users who have 50 items each; it includes
drawing the batch. Each size has a process of its own. Peak memory is what training adds to that of
loading; a table is the size of A.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, build, epochs_of, in_turns, options, show
from large import generate
from tqdm import tqdm

SIZES = [(items, dim) for items in (10_000, 100_000) for dim in (64, 128, 256, 512)]
SIZES += [(1_000_000, 64), (1_000_000, 128)]
USERS, DEGREE, STEPS = 1024, 50, 4  # of an epoch
SIZE = "SIZE"  # environment variable that tells a process which size to time


def measure(items, dim, given):
    """Time a size. Returns (seconds of a step, seconds of the products, MB that training adds).

    given: flags of the benchmark
    """
    import torch

    from utils import peak_memory_mb

    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "made", USERS, items, DEGREE)
        flags = f"--dataset made --loss ELSA --dim {dim} --batch_size {USERS // STEPS}"
        begin = peak_memory_mb(torch.device("cpu"))
        model, args, _ = build(f"{flags} --threads {given.threads}", folder)
        torch.set_num_threads(given.threads)
        epoch = epochs_of(model, args)
        epoch()
        added = peak_memory_mb(torch.device("cpu")) - begin

        a, g = model.weights["item"].data, torch.randn(dim, dim)
        gram, product = torch.empty_like(g), torch.empty_like(a)

        def products():
            torch.mm(a.T, a, out=gram)
            torch.mm(a, g, out=product)

        seconds = in_turns({"epoch": epoch, "products": products}, given.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return medians["epoch"] / STEPS, medians["products"], added


def main():
    given = options(__doc__, rounds=5, threads=1)
    if SIZE in os.environ:
        print(json.dumps(measure(*json.loads(os.environ[SIZE]), given)))
        return

    rows = {}
    for items, dim in tqdm(SIZES, leave=False, disable=None):
        command = [sys.executable, __file__, f"--rounds={given.rounds}"]
        command += [f"--threads={given.threads}"]
        environment = {**os.environ, SIZE: json.dumps([items, dim])}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        step, products, added = json.loads(done.stdout.splitlines()[-1])
        rows[f"{items:,} items, dim {dim}"] = {
            "step, s": f"{step:.4f}",
            "products, s": f"{products:.4f}",
            "x products": f"{step / products:.2f}",
            "peak, MB": f"{added:.0f}",
            "tables": f"{added * 1e6 / (4 * items * dim):.1f}",
        }
    title = f"A step of training against all items, threads: {given.threads}"
    show(f"{title}, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
