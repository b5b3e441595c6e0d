"""How much faster do two ranks train than one, and what of the time is communication?

python benchmarks/scale.py [--data_dir datasets] [--dataset Gowalla] [--dim 64] [--rounds 3]

One thread each, compiled. torchrun starts one rank and two in turns; epochs are timed without evaluation.
Communication is what it takes longer than an epoch in which each rank takes its own gradients for those of all, so
waiting for the slower rank is part of it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, options, show, spread
from tqdm import tqdm

SIZES = (1024, 4096, 16384, 65536, 262144)
RANKS = (1, 2)
EPOCHS = 3  # timed together; one may take less than half a second


def seconds_of_epochs(given):
    """On a rank: {batch size: seconds of an epoch, and of one without communication}; interactions of an epoch."""
    import torch

    import instep
    import ranks
    from main import load_data
    from parse import parse_args
    from registry import MODELS, find
    from shards import own_flags

    found, device = {}, torch.device("cpu")
    with ranks.joined(device, 600):
        for size in SIZES:
            flags = f"--dataset {given.dataset} --dim {given.dim} --batch_size {size} --compile on --lr 1e-3"
            args = parse_args([*flags.split(), "--data_dir", given.data_dir])
            model = find(MODELS, args.model)(load_data(args), own_flags(args), device)
            model.start_training()
            ways = {"whole": (ranks.gathered, ranks.summed)}
            if ranks.count() > 1:
                ways["alone"] = (
                    lambda tensor: tensor.repeat(ranks.count(), *[1] * (tensor.dim() - 1)),
                    lambda tensor: tensor,
                )
            for name, (instep.gathered, instep.summed) in ways.items():
                torch.compiler.reset()
                model.train_epoch(1e-3, lambda: None)  # warm: compiled, allocated
                ranks.wait()
                begin = time.perf_counter()
                for _ in range(EPOCHS):
                    model.train_epoch(1e-3, lambda: None)
                found.setdefault(size, {})[name] = (time.perf_counter() - begin) / EPOCHS
            instep.gathered, instep.summed = ranks.gathered, ranks.summed
        return found, model.schedule.interactions


def started(given, count):
    """What `seconds_of_epochs` finds on the first of `count` ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
    flags = [f"--{name}={value}" for name, value in vars(given).items()]
    done = subprocess.run([*torchrun, __file__, *flags], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    given = options(__doc__, dataset="Gowalla", dim=64, rounds=3)
    given.data_dir = str(Path(given.data_dir).resolve())
    if "RANK" in os.environ:
        found = seconds_of_epochs(given)
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    times = {(size, count): [] for size in SIZES for count in RANKS}
    alone = {size: [] for size in SIZES}
    for _ in tqdm(range(given.rounds), desc="rounds", leave=False, disable=None):
        for count in RANKS:
            found, interactions = started(given, count)
            for size in SIZES:
                times[size, count].append(found[str(size)]["whole"])
                alone[size] += [found[str(size)]["alone"]] if count > 1 else []
    rows = {}
    for (size, count), seconds in times.items():
        row = rows[f"batches of {size:,}, {count} rank{'s' * (count > 1)}"] = spread(seconds)
        median = float(row["median, s"])
        row["interactions/s"] = f"{interactions / median:,.0f}"
        if count > 1:
            row["x one rank"] = f"{float(rows[f'batches of {size:,}, 1 rank']['median, s']) / median:.2f}"
            row["communication"] = f"{1 - float(spread(alone[size])['median, s']) / median:.0%}"
    show(f"A training epoch of {given.dataset}, dim {given.dim}, one thread per rank, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
