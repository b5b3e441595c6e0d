"""How fast is an epoch of SVD on MovieLens 1M beside Surprise's, and how good is what both end with?

python benchmarks/ratings.py [--data_dir datasets] [--rounds 5] [--dim 64]

Both see the same 90 % of the ratings, in one thread. Epochs are timed in turns; the errors are of the same other 10 %,
after training as the program's makers suggest (Surprise's defaults but for the dimension). The last column is how long
training takes until the error is no larger than Surprise's at its end.
"""

import copy
import math
import statistics
import time

import pandas as pd
from common import build, epochs_of, in_turns, options, show, spread

from train import learning_rate

FLAGS = {
    "SVD, compiled": "--model SVD --compile on",
    "SVD": "--model SVD --compile off",
    "SVDpp": "--model SVDpp",
}
PEER = "Surprise's SVD"


def surprise_parts(data):
    """Surprise's training set, and the test part as its triples."""
    from surprise import Dataset, Reader

    users, items = data.train.tocoo().coords
    table = pd.DataFrame({"user": users, "item": items, "rating": data.train.data})
    scale = float(data.train.data.min()), float(data.train.data.max())
    train = Dataset.load_from_df(table, Reader(rating_scale=scale)).build_full_trainset()
    test = data.test.tocoo()
    return train, list(zip(*test.coords, test.data, strict=True))


def train(model, args, enough):
    """Train to the end: (test RMSE, seconds of training until it was at most `enough`)."""
    begin, reached, evaluating = time.perf_counter(), math.inf, 0.0
    for epoch in range(1, args.epochs + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
        trained = time.perf_counter()
        rmse = model.evaluate("test")["RMSE"]
        if rmse <= enough:
            reached = min(reached, trained - begin - evaluating)
        evaluating += time.perf_counter() - trained
    return rmse, reached


def main():
    given = options(__doc__, rounds=5, dim=64)
    flags = f"--dataset ml-1m --dim {given.dim}"
    epochs, found, enough = {}, {}, 0.0
    try:
        from surprise import SVD, accuracy
    except ImportError:
        pass
    else:
        train_set, test = surprise_parts(
            build(f"{flags} --model SVD --compile off", given.data_dir)[2]
        )
        begin = time.perf_counter()
        peer = SVD(n_factors=given.dim, random_state=1).fit(train_set)
        seconds = time.perf_counter() - begin
        enough = accuracy.rmse(peer.test(test), verbose=False)
        found[PEER] = enough, seconds
        epochs[PEER] = lambda: SVD(n_factors=given.dim, n_epochs=1, random_state=1).fit(train_set)
    for name, own in FLAGS.items():
        model, args, _ = build(f"{flags} {own}", given.data_dir)
        start = copy.deepcopy(model.state_dict())
        epochs[name] = epochs_of(model, args)
        epochs[name]()  # compiles
        model.load_state_dict(start)
        found[name] = train(model, args, enough)
    seconds, rows = in_turns(epochs, given.rounds), {}
    for name, own in seconds.items():
        rmse, reached = found[name]
        rows[name] = {**spread(own), "test RMSE": f"{rmse:.4f}"}
        if PEER in seconds:
            rows[name]["x Surprise"] = (
                f"{statistics.median(seconds[PEER]) / statistics.median(own):.2f}"
            )
            rows[name]["s to Surprise's RMSE"] = f"{reached:.2f}"
    show(f"An epoch on ml-1m, dim {given.dim}, one thread, median of {given.rounds} in turns", rows)


if __name__ == "__main__":
    main()
