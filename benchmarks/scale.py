"""How much faster do two ranks train than one, and what share of the time is communication?

python benchmarks/scale.py [--data_dir datasets] [--dataset Gowalla] [--dim 64] [--rounds 3]
                           [--kinds uniform,in-batch]
python benchmarks/scale.py --dataset 1M --dim 512 --kinds all-items
python benchmarks/scale.py --kinds clicks --rows 5000000

The kinds are of negatives; all-items is training against all of them. clicks is DeepFM on generated
rows in Criteo's format (see preprocess.py; --rows 0: on the log in --data_dir/criteo), of which
80 % are trained on; --dataset and --dim do not apply. Each rank has one thread, and compiles.
torchrun starts one rank and two in turns, anew for each batch size and kind. Epochs are timed
without evaluation. Communication is the difference to an epoch in which no rank sends anything, so
it includes waiting for the slower rank. On a busy machine compare the CPU time of a rank.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, options, show, spread
from preprocess import generate
from tqdm import tqdm

ITEMS = "--dataset {dataset} --dim {dim} "
# {kind: (flags, batch sizes, epochs timed in each round)}
KINDS = {
    "uniform": (ITEMS + "--lr 1e-3", (1024, 4096, 16384, 65536, 262144), 3),
    "in-batch": (ITEMS + "--preset best", (1024, 4096), 1),
    "all-items": (ITEMS + "--loss ELSA", (256,), 3),  # batches of users
    "clicks": ("--model DeepFM --dataset criteo", (10_000,), 1),
}
RANKS = (1, 2)
WORK = "WORK"  # environment variable that tells the ranks which kind and batch size to time


def seconds_of_epochs(given, kind, size):
    """Time epochs on a rank. Returns (seconds of each epoch, interactions of an epoch).

    given: flags of the benchmark
    kind: in KINDS
    size: of a batch

    The seconds are {"whole": [...], "alone": [...], "cpu": [...]}: with and, on several ranks,
    without communication; "cpu" is the CPU time of this rank in the epochs with it.
    """
    import torch

    import families
    from distributed import collectives, group
    from distributed.schedule import own_batch_size
    from parse import parse_args

    seconds, device = {}, torch.device("cpu")
    with group.process_group(device, 600):
        flags = f"{KINDS[kind][0].format(**vars(given))} --batch_size {size} --compile on"
        args = parse_args([*flags.split(), "--data_dir", given.data_dir])
        data = families.load_data(args)
        args = args.replace(batch_size=own_batch_size(args.batch_size))
        model = families.model_class(args)(data, args, device)
        model.start_training()

        # Time each epoch with the real functions, then with functions that send nothing.
        ways = {"whole": {}}
        if collectives.world_size() > 1:
            ways["alone"] = {"start_send_receive": lambda outgoing, incoming: []}
            ways["alone"] |= {"start_all_reduce": lambda tensor: lambda: tensor}
            ways["alone"] |= {"all_reduce_": lambda tensor: tensor}
        for name, functions in ways.items():
            vars(collectives).update(functions)
            seconds[name], cpu = [], []
            for _ in range(1 + KINDS[kind][2]):
                collectives.all_gather_ints(0)  # all ranks begin at the same time
                begin, begin_cpu = time.perf_counter(), time.process_time()
                model.train_epoch(1e-3, lambda: None)
                seconds[name].append(time.perf_counter() - begin)
                cpu.append(time.process_time() - begin_cpu)
            del seconds[name][0]  # it includes compiling
            seconds.setdefault("cpu", cpu[1:])
        return seconds, data.counts()["train"]


def run_ranks(given, work, count):
    """Run `seconds_of_epochs` on `count` ranks. Returns the result of the first one.

    given: flags of the benchmark
    work: (kind, batch size)
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += [f"--nproc_per_node={count}", "--standalone"]
    flags = [f"--{name}={value}" for name, value in vars(given).items()]
    command, environment = [*torchrun, __file__, *flags], {**os.environ, WORK: json.dumps(work)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    given = options(
        __doc__, dataset="Gowalla", dim=64, rounds=3, rows=5_000_000, kinds="uniform,in-batch"
    )
    given.data_dir = str(Path(given.data_dir).resolve())

    # On a rank that run_ranks started.
    if WORK in os.environ:
        result = seconds_of_epochs(given, *json.loads(os.environ[WORK]))
        if os.environ["RANK"] == "0":
            print(json.dumps(result))
        return

    if "clicks" in given.kinds and given.rows:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "criteo/train.txt"
            log.parent.mkdir()
            generate(log, given.rows, False)
            given.data_dir = folder
            compare(given)
    else:
        compare(given)


def compare(given):
    """Time one rank and two, in turns, and print the table. given: flags of the benchmark"""
    works = [(kind, size) for kind in given.kinds.split(",") for size in KINDS[kind][1]]
    times = {
        (work, count): {"whole": [], "alone": [], "cpu": []} for work in works for count in RANKS
    }
    for _ in tqdm(range(given.rounds), desc="rounds", leave=False, disable=None):
        for (work, count), seconds in times.items():
            epochs, interactions = run_ranks(given, work, count)
            for way, times_of_way in epochs.items():
                seconds[way] += times_of_way

    rows = {}
    for (work, count), seconds in times.items():
        kind, size = work
        name = f"{kind}, batches of {size:,}, {count} rank{'s' * (count > 1)}"
        row = rows[name] = spread(seconds["whole"])
        median = statistics.median(seconds["whole"])
        row["CPU of a rank, s"] = f"{statistics.median(seconds['cpu']):.4f}"
        row["interactions/s"] = f"{interactions / median:,.0f}"
        if count > 1:
            row["x one rank"] = f"{statistics.median(times[work, 1]['whole']) / median:.2f}"
            row["communication"] = f"{1 - statistics.median(seconds['alone']) / median:.0%}"
    of = "" if "clicks" in given.kinds else f" of {given.dataset}, dim {given.dim}"
    show(f"A training epoch{of}, one thread per rank, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
