"""How long does a training epoch on 100k and Gowalla take, beside implicit's and RecBole's BPR?

python benchmarks/epoch.py [--data_dir datasets] [--rounds 9]

A scored pair is a user-item score of the loss: 1 + N per interaction for OneBP, 2 for BPR. Drawing
the negatives is included.
"""

import logging
import statistics

from common import build, epochs_of, in_turns, options, show, spread
from peers import recbole_trainer
from scipy.sparse import csr_matrix

# {data set: (dimension, epochs in a timed call, ways to train)}; 32 is suggested for 100k
CASES = {
    "100k": (32, 10, ("compiled", "compiled, 2 threads", "eager")),
    "Gowalla": (64, 2, ("compiled", "eager")),
}
FLAGS = {
    "compiled": "--compile on --threads 1",
    "compiled, 2 threads": "--compile on --threads 2",
    "eager": "--compile off --threads 1",
}


def implicit_epochs(data, count, dim):
    """Return a function that trains `count` epochs of implicit's BPR.

    Each call also has a fixed cost, which the difference between two counts leaves out.
    """
    from implicit.bpr import BayesianPersonalizedRanking

    train = csr_matrix(data.train).astype("float32")

    def fit():
        # implicit adds a column for the bias: its encodings have `dim` numbers in all.
        model = BayesianPersonalizedRanking(
            factors=dim - 1, iterations=count, num_threads=1, random_state=1
        )
        model.fit(train, show_progress=False)

    return fit


def recbole_epoch(data, dim):
    """Return a function that trains an epoch of RecBole's BPR on the same interactions."""
    trainer, batches, _ = recbole_trainer(data, embedding_size=dim, train_batch_size=1024)
    return lambda: trainer._train_epoch(batches, 0, show_progress=False)


def compare(dataset, dim, epochs, ways, given):
    """Time epochs of a data set and print their table. epochs: in a timed call; ways: of FLAGS"""
    import torch

    functions, data = {}, None
    for way in ways:
        flags = f"--dataset {dataset} --dim {dim} {FLAGS[way]}"
        model, args, data = build(flags, given.data_dir)
        functions[f"OneBP {way}"] = epochs_of(model, args, epochs)
    try:
        functions |= {count: implicit_epochs(data, count, dim) for count in (1, 1 + epochs)}
        functions["RecBole BPR"] = recbole_epoch(data, dim)
    except ImportError as error:
        logging.warning("without peers: %s (pip install -r benchmarks/requirements.txt)", error)
    torch.set_num_threads(1)
    seconds = in_turns(functions, given.rounds)

    # Seconds of one epoch. Only RecBole's function trains a single one.
    if 1 in seconds:
        pairs = zip(seconds.pop(1), seconds.pop(1 + epochs), strict=True)
        seconds["implicit BPR"] = [(many - one) / epochs for one, many in pairs]
    for name in seconds:
        if "OneBP" in name:
            seconds[name] = [many / epochs for many in seconds[name]]

    # Scored pairs per second.
    rows = {}
    per_interaction = {name: 6 if "OneBP" in name else 2 for name in seconds}
    rates = {
        name: per_interaction[name] * data.train.nnz / statistics.median(times)
        for name, times in seconds.items()
    }
    for name, times in seconds.items():
        rows[name] = {**spread(times), "scored pairs, M/s": f"{rates[name] / 1e6:.1f}"}
        for peer in ("implicit BPR", "RecBole BPR"):
            if peer in rates:
                rows[name][f"x {peer}"] = f"{rates[name] / rates[peer]:.2f}"
    title = f"An epoch of {dataset}, dim {dim}, one thread unless said, {given.rounds} rounds"
    show(title, rows)


def main():
    given = options(__doc__, rounds=9)
    for dataset, case in CASES.items():
        compare(dataset, *case, given)


if __name__ == "__main__":
    main()
