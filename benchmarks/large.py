"""How long do loading and training of very many interactions take, and how much memory?

python benchmarks/large.py [--millions 200] [--users 4000000] [--items 1000000] [--dim 16]
                           [--steps 200]

The interactions are generated, and written to disk in blocks of users. An epoch of --steps steps is
trained by one rank and by two, one thread each.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, options, show
from numpy.lib.format import open_memmap
from tqdm import tqdm

BLOCK = 100_000  # users generated at a time
TESTED = 2_000  # users with an item in the test split


def generate(folder, users, items, degree):
    """Write a data set of arrays, see sources/arrays.py.

    folder: new
    users, items: their numbers
    degree: number of different training items per user; the first TESTED users also have another
        item in the test split
    """
    random = np.random.default_rng(1)
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"users": users, "items": items}))
    np.save(folder / "train.indptr.npy", np.arange(users + 1, dtype=np.int64) * degree)
    np.save(folder / "test.indptr.npy", np.minimum(np.arange(users + 1, dtype=np.int64), TESTED))
    indices = open_memmap(folder / "train.indices.npy", "w+", np.int32, (users * degree,))
    tested = []
    for start in tqdm(range(0, users, BLOCK), desc="generating", leave=False, disable=None):
        count = min(BLOCK, users - start)
        # A user's items differ: the gaps between them add up to less than `items`.
        gaps = random.integers(1, items // (degree + 1), (count, degree + 1), dtype=np.int32)
        begin = random.integers(0, items, (count, 1), dtype=np.int32)
        chosen = (begin + gaps.cumsum(1, dtype=np.int32)) % items  # (count, degree + 1)
        tested.append(chosen[: max(0, TESTED - start), 0])
        indices[start * degree : (start + count) * degree] = np.sort(chosen[:, 1:], axis=1).ravel()
        indices.flush()
    np.save(folder / "test.indices.npy", np.concatenate(tested))


def train(folder, count, given, batch_size):
    """Train an epoch on `count` ranks. Returns (summary.json, seconds of the whole command).

    folder: contains the data set `made`; the run's files are written into it
    given: flags of the benchmark
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += [f"--nproc_per_node={count}", "--standalone"]
    flags = f"--dataset made --data_dir {folder} --dim {given.dim} --epochs 1 --compile off"
    flags += f" --batch_size {batch_size} --run_name of-{count}"
    flags += f" --log_root {folder} --checkpoint_dir {folder}"
    begin = time.perf_counter()
    done = subprocess.run(
        [*torchrun, "main.py", *flags.split()], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    summary = json.loads((folder / f"of-{count}" / "summary.json").read_text())
    return summary, time.perf_counter() - begin


def main():
    given = options(__doc__, millions=200, users=4_000_000, items=1_000_000, dim=16, steps=200)
    degree = given.millions * 1_000_000 // given.users
    batch_size = -(-given.users * degree // given.steps)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        generate(folder / "made", given.users, given.items, degree)
        generated = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in (folder / "made").iterdir())
        for count in (1, 2):
            summary, seconds = train(folder, count, given, batch_size)
            phases = summary["seconds"]
            rows[f"{count} rank{'s' * (count > 1)}"] = {
                "whole command, s": f"{seconds:.0f}",
                "epoch, s": f"{phases['train']:.0f}",
                "evaluation, s": f"{phases['eval']:.1f}",
                "peak memory of the first rank, MB": f"{summary['peak_memory_mb']:.0f}",
            }
    title = f"{given.users * degree:,} interactions, {size / 1e6:,.0f} MB, "
    title += f"generated in {generated:.0f} s; "
    title += f"{given.users:,} users, {given.items:,} items, dim {given.dim}"
    show(f"{title}; an epoch of {given.steps} steps of {batch_size:,}, one thread a rank", rows)


if __name__ == "__main__":
    main()
