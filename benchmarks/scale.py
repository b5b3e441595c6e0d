"""How much faster do two ranks train than one, and what share of the time is communication?

python benchmarks/scale.py [--data_dir datasets] [--dataset Gowalla] [--dim 64] [--rounds 3]

Each rank has one thread, and compiles. torchrun starts one rank and two in turns, anew for each
batch size and kind of negatives. Epochs are timed without evaluation. Communication is the
difference to an epoch in which no rank sends anything, so it includes waiting for the slower rank.
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
WORK = "WORK"  # environment variable that tells the ranks which of WORKS to time


def seconds_of_epochs(given, negatives, size):
    """Time epochs on a rank. Returns (seconds of each epoch, interactions of an epoch).

    given: flags of the benchmark
    negatives: UNIFORM or IN_BATCH
    size: of a batch

    The seconds are {"whole": [...], "alone": [...]}: with and, on several ranks, without
    communication.
    """
    import torch

    import families
    from distributed import collectives, group
    from distributed.schedule import own_batch_size
    from parse import parse_args

    seconds, device = {}, torch.device("cpu")
    with group.process_group(device, 600):
        flags = f"--dataset {given.dataset} --dim {given.dim} --batch_size {size} --compile on "
        flags += FLAGS[negatives]
        args = parse_args([*flags.split(), "--data_dir", given.data_dir])
        data = families.load_data(args)
        args = args.replace(batch_size=own_batch_size(args.batch_size))
        model = families.model_class(args)(data, args, device)
        model.start_training()

        # Time each epoch with the real functions, then with functions that send nothing.
        ways = {"whole": (collectives.start_send_receive, collectives.start_all_reduce)}
        if collectives.world_size() > 1:
            ways["alone"] = lambda outgoing, incoming: [], lambda tensor: lambda: tensor
        for name, (collectives.start_send_receive, collectives.start_all_reduce) in ways.items():
            seconds[name] = []
            for _ in range(1 + EPOCHS[negatives]):
                collectives.all_reduce_int(0)  # all ranks begin at the same time
                begin = time.perf_counter()
                model.train_epoch(1e-3, lambda: None)
                seconds[name].append(time.perf_counter() - begin)
            del seconds[name][0]  # it includes compiling
        return seconds, model.schedule.interactions


def run_ranks(given, work, count):
    """Run `seconds_of_epochs` on `count` ranks. Returns the result of the first one.

    given: flags of the benchmark
    work: index in WORKS
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += [f"--nproc_per_node={count}", "--standalone"]
    flags = [f"--{name}={value}" for name, value in vars(given).items()]
    command, environment = [*torchrun, __file__, *flags], {**os.environ, WORK: str(work)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    given = options(__doc__, dataset="Gowalla", dim=64, rounds=3)
    given.data_dir = str(Path(given.data_dir).resolve())

    # On a rank that run_ranks started.
    if WORK in os.environ:
        result = seconds_of_epochs(given, *WORKS[int(os.environ[WORK])])
        if os.environ["RANK"] == "0":
            print(json.dumps(result))
        return

    times = {
        (work, count): {"whole": [], "alone": []} for work in range(len(WORKS)) for count in RANKS
    }
    for _ in tqdm(range(given.rounds), desc="rounds", leave=False, disable=None):
        for (work, count), seconds in times.items():
            epochs, interactions = run_ranks(given, work, count)
            for way, times_of_way in epochs.items():
                seconds[way] += times_of_way

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
    title = f"A training epoch of {given.dataset}, dim {given.dim}, one thread per rank"
    show(f"{title}, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
