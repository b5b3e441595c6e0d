"""How long does a training epoch on 100k take, beside implicit's and RecBole's BPR?

python benchmarks/epoch.py [--data_dir datasets] [--rounds 9]

A scored pair is a user-item score of the loss: 1 + N per interaction for OneBP, 2 for BPR. Drawing
the negatives is included.
"""

import logging
import statistics

from common import build, epochs_of, in_turns, options, show, spread
from peers import recbole_trainer
from scipy.sparse import csr_matrix

DIM = 32  # suggested for 100k
EPOCHS = 10  # epochs in a timed call


def implicit_epochs(data, count):
    """Return a function that trains `count` epochs of implicit's BPR.

    Each call also has a fixed cost, which the difference between two counts leaves out.
    """
    from implicit.bpr import BayesianPersonalizedRanking

    train = csr_matrix(data.train).astype("float32")

    def fit():
        # implicit adds a column for the bias: its encodings have DIM numbers in all.
        model = BayesianPersonalizedRanking(
            factors=DIM - 1, iterations=count, num_threads=1, random_state=1
        )
        model.fit(train, show_progress=False)

    return fit


def recbole_epoch(data):
    """Return a function that trains an epoch of RecBole's BPR on the same interactions."""
    trainer, batches, _ = recbole_trainer(data, embedding_size=DIM, train_batch_size=1024)
    return lambda: trainer._train_epoch(batches, 0, show_progress=False)


def main():
    given = options(__doc__, rounds=9)
    import torch

    functions, data = {}, None
    for name, compiled, threads in (
        ("compiled", "on", 1),
        ("compiled, 2 threads", "on", 2),
        ("eager", "off", 1),
    ):
        flags = f"--dataset 100k --compile {compiled} --threads {threads}"
        model, args, data = build(flags, given.data_dir)
        functions[f"OneBP {name}"] = epochs_of(model, args, EPOCHS)
    try:
        functions |= {count: implicit_epochs(data, count) for count in (1, 1 + EPOCHS)}
        functions["RecBole BPR"] = recbole_epoch(data)
    except ImportError as error:
        logging.warning("without peers: %s (pip install -r benchmarks/requirements.txt)", error)
    torch.set_num_threads(1)
    seconds = in_turns(functions, given.rounds)

    # Seconds of one epoch. Only RecBole's function trains a single one.
    if 1 in seconds:
        pairs = zip(seconds.pop(1), seconds.pop(1 + EPOCHS), strict=True)
        seconds["implicit BPR"] = [(many - one) / EPOCHS for one, many in pairs]
    for name in seconds:
        if "OneBP" in name:
            seconds[name] = [many / EPOCHS for many in seconds[name]]

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
    show(f"An epoch of 100k, dim {DIM}, one thread unless said, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
