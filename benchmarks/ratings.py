"""How fast is an epoch of SVD on MovieLens 1M beside Surprise's, and how good are both at the end?

python benchmarks/ratings.py [--data_dir datasets] [--rounds 5] [--dim 64]

Both train on the same 90 % of the ratings, in one thread. Epochs are timed in turns. Errors are
those on the other 10 %, after training with each program's suggested values (of Surprise, all but
the dimension are defaults). The last column is the time of training until the error is not larger
than that of Surprise at its end.
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


def surprise_data(data):
    """Give Surprise the ratings: (its training set, list of test (user, item, rating))."""
    from surprise import Dataset, Reader

    users, items = data.train.tocoo().coords
    table = pd.DataFrame({"user": users, "item": items, "rating": data.train.data})
    scale = float(data.train.data.min()), float(data.train.data.max())
    train = Dataset.load_from_df(table, Reader(rating_scale=scale)).build_full_trainset()
    test = data.test.tocoo()
    return train, list(zip(*test.coords, test.data, strict=True))


def train(model, args, goal):
    """Train to the end: (test RMSE, seconds of training until it was at most `goal`)."""
    begin, reached, evaluating = time.perf_counter(), math.inf, 0.0
    for epoch in range(1, args.epochs + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
        trained = time.perf_counter()
        rmse = model.evaluate("test")["RMSE"]
        if rmse <= goal:
            reached = min(reached, trained - begin - evaluating)
        evaluating += time.perf_counter() - trained
    return rmse, reached


def main():
    given = options(__doc__, rounds=5, dim=64)
    flags = f"--dataset ml-1m --dim {given.dim}"
    # results: {name: (test RMSE, seconds until Surprise's RMSE)}. epochs: functions to time.
    epochs, results, goal = {}, {}, 0.0
    try:
        from surprise import SVD, accuracy
    except ImportError:
        pass
    else:
        data = build(f"{flags} --model SVD --compile off", given.data_dir)[2]
        train_set, test = surprise_data(data)
        begin = time.perf_counter()
        peer = SVD(n_factors=given.dim, random_state=1).fit(train_set)
        seconds = time.perf_counter() - begin
        goal = accuracy.rmse(peer.test(test), verbose=False)
        results[PEER] = goal, seconds
        epochs[PEER] = lambda: SVD(n_factors=given.dim, n_epochs=1, random_state=1).fit(train_set)
    for name, model_flags in FLAGS.items():
        model, args, _ = build(f"{flags} {model_flags}", given.data_dir)
        # Train an epoch, which compiles the step, and undo it.
        start = copy.deepcopy(model.state_dict())
        epochs[name] = epochs_of(model, args)
        epochs[name]()
        model.load_state_dict(start)
        results[name] = train(model, args, goal)

    seconds, rows = in_turns(epochs, given.rounds), {}
    for name, times in seconds.items():
        rmse, reached = results[name]
        rows[name] = {**spread(times), "test RMSE": f"{rmse:.4f}"}
        if PEER in seconds:
            ratio = statistics.median(seconds[PEER]) / statistics.median(times)
            rows[name]["x Surprise"] = f"{ratio:.2f}"
            rows[name]["s to Surprise's RMSE"] = f"{reached:.2f}"
    show(f"An epoch on ml-1m, dim {given.dim}, one thread, median of {given.rounds} in turns", rows)


if __name__ == "__main__":
    main()
