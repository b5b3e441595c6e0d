"""How near is full ranking, with masking and metrics, to the plain matrix product of the same shapes?

python benchmarks/ranking.py [--data_dir datasets] [--rounds 3]

The product is made in the same blocks of users, into memory that is allocated once.
"""

import statistics
from functools import partial

from common import build, in_turns, options, show, spread

import evaluate


def product(users, user_encodings, item_encodings):
    """A function that computes all scores of `users`, and nothing else."""
    import torch

    block = max(1, evaluate.BLOCK_SCORES // len(item_encodings))
    scores = user_encodings.new_empty(block, len(item_encodings))

    def run():
        for part in users.split(block):
            torch.mm(user_encodings[part], item_encodings.T, out=scores[: len(part)])

    return run


def main():
    given = options(__doc__, rounds=3)
    import torch

    rows = {}
    for flags in ("--dataset Gowalla --dim 64", "--dataset 1M --dim 128"):
        model, args, _ = build(f"{flags} --compile off", given.data_dir)
        encodings = model.weights["user"], model.weights["item"]
        ranking = model.rankings["test"]
        functions = {"product": product(ranking.users, *encodings), "ranking": partial(model.evaluate, "test")}
        torch.set_num_threads(1)
        seconds = in_turns(functions, given.rounds)
        rate = statistics.median(seconds["product"]) / statistics.median(seconds["ranking"])
        for name, times in seconds.items():
            rows[f"{flags.split()[1]}, dim {args.dim}: {name}"] = spread(times)
        rows[f"{flags.split()[1]}, dim {args.dim}: ranking"]["rate / product's"] = f"{rate:.2f}"
    show(f"Ranking all items for all users, one thread, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
