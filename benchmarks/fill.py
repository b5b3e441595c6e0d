"""How long does the top 10 of every user take?

python benchmarks/fill.py [--rounds 5] [--dim 64] [--seen 20]

It ranks as `--mode recommend --users all` does, on all cores. Encodings and seen items are random:
the time depends only on how many there are. Memory is the peak of the process so far.
"""

import time

import numpy as np
import torch
from common import options, show, spread

from engine.tables import UserItems
from evaluate import DotProduct
from inference.recommend import recommendations
from sources.interactions import pair_matrix
from utils import choose_device, peak_memory_mb

SIZES = {"6,040 users, 3,706 items": (6040, 3706), "600,000 users, 3,000 items": (600_000, 3000)}


def main():
    given = options(__doc__, rounds=5, dim=64, seen=20)
    device = choose_device("auto")
    rows = {}
    for name, shape in SIZES.items():
        random = np.random.default_rng(0)
        generator = torch.Generator(device).manual_seed(0)
        scorer = DotProduct(
            *(torch.randn(size, given.dim, generator=generator, device=device) for size in shape)
        )
        pairs = (
            np.repeat(np.arange(shape[0]), given.seen),
            random.integers(shape[1], size=shape[0] * given.seen),
        )
        seen = [UserItems(pair_matrix(*pairs, None, shape), device)]
        users, seconds = torch.arange(shape[0], device=device), []
        for _ in range(given.rounds + 1):
            begin = time.perf_counter()
            table = recommendations(scorer, shape[1], users, seen, 10)
            seconds.append(time.perf_counter() - begin)
        assert len(table) == 10 * shape[0]
        rows[name] = spread(seconds[1:]) | {"peak memory, MB": round(peak_memory_mb(device))}
    show(f"The ten best items of every user, dim {given.dim}, {given.seen} seen items each", rows)


if __name__ == "__main__":
    main()
