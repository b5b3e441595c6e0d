"""How long does it take to correct a prediction by a memory, and to store the example?

python benchmarks/memory.py [--rows 16384] [--rounds 15]

It does what a slot of the stream does, on one core: compute the address of a key, read there, then
write there. knn holds 100,000 examples. lsh has as many, but its time does not depend on them.
"""

import statistics
import time
from itertools import pairwise
from types import SimpleNamespace

from common import options, show, spread
from tqdm import tqdm

DIM, STORED = 64, 100_000
KINDS = {
    "lsh, 32 arrays of 2^12 buckets": ("lsh", {"memory_k": 32, "memory_bits": 12}),
    f"knn, 100 of {STORED:,} examples": ("knn", {"memory_k": 100, "memory_size": STORED}),
}


def examples(rows, generator):
    """Random examples: keys (rows, DIM), labels (rows,) and predictions (rows,)."""
    import torch

    keys = torch.randn(rows, DIM, generator=generator)
    labels = (torch.rand(rows, generator=generator) < 0.25).float()
    return keys, labels, torch.rand(rows, generator=generator)


def seconds_of_steps(memory, rows, generator):
    """Time a memory on random examples. Returns {step: seconds}.

    memory: NearestNeighbourMemory or HashMemory
    rows: number of examples
    generator: torch.Generator

    The steps are address, read (with the correction), write, and all of them together.
    """
    from families.clicks.memory import correct, recall

    keys, labels, predictions = examples(rows, generator)
    times = [time.perf_counter()]
    address = memory.address(keys)
    times.append(time.perf_counter())
    correct(predictions, *recall(memory.read(address), 0.1), 0.4, 1.0)
    times.append(time.perf_counter())
    memory.write(address, labels, predictions)
    times.append(time.perf_counter())
    seconds = [end - begin for begin, end in pairwise(times)]
    return dict(zip(("address", "read", "write"), seconds, strict=True), together=sum(seconds))


def main():
    given = options(__doc__, rows=16_384, rounds=15)
    import torch

    from cli.registry import find
    from families.clicks.family import MEMORIES

    torch.set_num_threads(1)
    generator, memories = torch.Generator().manual_seed(0), {}
    for name, (kind, flags) in KINDS.items():
        memory = find(MEMORIES, kind)(DIM, SimpleNamespace(**flags, seed=0), torch.device("cpu"))
        keys, labels, predictions = examples(STORED, generator)
        memory.write(memory.address(keys), labels, predictions)
        seconds_of_steps(memory, given.rows, generator)  # the first call allocates memory
        memories[name] = memory
    seconds = {name: [] for name in memories}
    for _ in tqdm(range(given.rounds), desc="rounds", leave=False, disable=None):
        # In turns, so that all see the same noise.
        for name, memory in memories.items():
            seconds[name].append(seconds_of_steps(memory, given.rows, generator))
    rows = {}
    for name, rounds in seconds.items():
        columns = {step: [times[step] for times in rounds] for step in rounds[0]}
        medians = {
            step: f"{1e6 * statistics.median(times) / given.rows:.3f}"
            for step, times in columns.items()
        }
        rows[name] = {**medians, "spread": spread(columns["together"])["spread"]}
    title = f"Microseconds per example, keys of {DIM} numbers, one thread: "
    title += f"medians of {given.rounds} rounds of {given.rows:,} examples"
    show(title, rows)


if __name__ == "__main__":
    main()
