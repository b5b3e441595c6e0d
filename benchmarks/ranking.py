"""How near is full ranking, with masking and metrics, to the matrix product of the same shapes?

python benchmarks/ranking.py [--data_dir datasets] [--rounds 3]

The product is computed for the same blocks of users, into memory that is allocated once: by one
torch.mm per block, and in tiles that stay in the cache, as the ranking computes it.
"""

import statistics
from functools import partial

from common import build, in_turns, options, show, spread

import evaluate


def product(users, p, q, tiles):
    """Return a function that computes all scores, and nothing else.

    users (n,): their indices
    p (U, D), q (I, D): encodings of users and items
    tiles: whether to compute in tiles
    """
    import torch

    block = max(1, evaluate.BLOCK_SCORES // len(q))
    scores = p.new_empty(block, len(q))

    def run():
        for rows in users.split(block):
            if tiles:
                evaluate.DotProduct(p, q).score(rows, scores[: len(rows)])
            else:
                torch.mm(p[rows], q.T, out=scores[: len(rows)])

    return run


def main():
    given = options(__doc__, rounds=3)
    import torch

    rows = {}
    for flags in ("--dataset Gowalla --dim 64", "--dataset 1M --dim 128"):
        model, args, _ = build(f"{flags} --compile off", given.data_dir)
        encodings = model.weights["user"], model.weights["item"]
        ranking = model.evaluators["test"]
        functions = {
            "product": product(ranking.users, *encodings, tiles=False),
            "product in tiles": product(ranking.users, *encodings, tiles=True),
            "ranking": partial(model.evaluate, "test"),
        }
        torch.set_num_threads(1)
        seconds = in_turns(functions, given.rounds)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            rates = {
                f"rate / {other}'s": f"{medians[other] / medians[name]:.2f}"
                for other in list(medians)[:2]
            }
            rows[f"{flags.split()[1]}, dim {args.dim}: {name}"] = {**spread(times), **rates}
    show(f"Ranking all items for all users, one thread, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
