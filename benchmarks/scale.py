"""How much faster do two ranks train than one, and what of the time is communication?

python benchmarks/scale.py [--data_dir datasets] [--dataset Gowalla] [--dim 64] [--rounds 3]

One thread each, compiled. torchrun starts one rank and two in turns, anew for each batch size and kind of negatives;
epochs are timed without evaluation.
Communication is what it takes longer than an epoch in which no rank sends anything, so waiting for the slower rank is
part of it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, options, show, spread
from tqdm import tqdm

UNIFORM, IN_BATCH = "uniform negatives", "in-batch negatives"
FLAGS = {UNIFORM: "--lr 1e-3", IN_BATCH: "--preset inbatch"}
WORKS = [(UNIFORM, size) for size in (1024, 4096, 16384, 65536, 262144)]
WORKS += [(IN_BATCH, size) for size in (1024, 4096)]
RANKS = (1, 2)
EPOCHS = {UNIFORM: 3, IN_BATCH: 1}  # timed in each round
WORK = "WORK"  # tells the ranks which of WORKS to time


def seconds_of_epochs(given, negatives, size):
    """On a rank: {"whole": seconds of each epoch, "alone": without communication}; interactions of an epoch."""
    import torch

    import families
    from distributed import collectives, group
    from distributed.schedule import own_batch_size
    from parse import parse_args

    found, device = {}, torch.device("cpu")
    with group.process_group(device, 600):
        flags = f"--dataset {given.dataset} --dim {given.dim} --batch_size {size} --compile on {FLAGS[negatives]}"
        args = parse_args([*flags.split(), "--data_dir", given.data_dir])
        data = families.load_data(args)
        own = args.replace(batch_size=own_batch_size(args.batch_size))
        model = families.model_class(args.model)(data, own, device)
        model.start_training()
        ways = {"whole": (collectives.start_send_receive, collectives.start_all_reduce)}
        if collectives.world_size() > 1:
            ways["alone"] = lambda outgoing, incoming: [], lambda tensor: lambda: tensor
        for name, (collectives.start_send_receive, collectives.start_all_reduce) in ways.items():
            found[name] = []
            for _ in range(1 + EPOCHS[negatives]):
                collectives.all_reduce_int(0)  # all begin at the same time
                begin = time.perf_counter()
                model.train_epoch(1e-3, lambda: None)
                found[name].append(time.perf_counter() - begin)
            del found[name][0]  # it was compiled in this one
        return found, model.schedule.interactions


def started(given, work, count):
    """What `seconds_of_epochs` finds on the first of `count` ranks."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={count}",
        "--standalone",
    ]
    flags = [f"--{name}={value}" for name, value in vars(given).items()]
    done = subprocess.run(
        [*torchrun, __file__, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, WORK: str(work)},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    given = options(__doc__, dataset="Gowalla", dim=64, rounds=3)
    given.data_dir = str(Path(given.data_dir).resolve())
    if WORK in os.environ:
        found = seconds_of_epochs(given, *WORKS[int(os.environ[WORK])])
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    times = {
        (work, count): {"whole": [], "alone": []} for work in range(len(WORKS)) for count in RANKS
    }
    for _ in tqdm(range(given.rounds), desc="rounds", leave=False, disable=None):
        for (work, count), seconds in times.items():
            found, interactions = started(given, work, count)
            for way, epochs in found.items():
                seconds[way] += epochs
    rows = {}
    for (work, count), seconds in times.items():
        negatives, size = WORKS[work]
        name = f"{negatives}, batches of {size:,}, {count} rank{'s' * (count > 1)}"
        row = rows[name] = spread(seconds["whole"])
        median = statistics.median(seconds["whole"])
        row["interactions/s"] = f"{interactions / median:,.0f}"
        if count > 1:
            row["x one rank"] = f"{statistics.median(times[work, 1]['whole']) / median:.2f}"
            row["communication"] = f"{1 - statistics.median(seconds['alone']) / median:.0%}"
    show(
        f"A training epoch of {given.dataset}, dim {given.dim}, one thread per rank, {given.rounds} rounds",
        rows,
    )


if __name__ == "__main__":
    main()
