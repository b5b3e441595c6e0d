"""How fast is an epoch of SVD on MovieLens 1M beside Surprise's, and how good is what both end with?

python benchmarks/ratings.py [--data_dir datasets] [--rounds 5] [--dim 64]

Both see the same 90 % of the ratings, in one thread. Epochs are timed in turns; the errors are of the same other 10 %,
after training as the program's makers suggest (Surprise's defaults but for the dimension).
"""

import statistics

import pandas as pd
from common import build, epochs_of, in_turns, options, show, spread

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


def main():
    given = options(__doc__, rounds=5, dim=64)
    epochs, rmse = {}, {}
    for name, flags in FLAGS.items():
        model, args, data = build(f"--dataset ml-1m --dim {given.dim} {flags}", given.data_dir)
        epochs_of(model, args, args.epochs)()
        rmse[name] = model.evaluate("test")["RMSE"]
        epochs[name] = epochs_of(model, args)
    try:
        from surprise import SVD, accuracy
    except ImportError:
        pass
    else:
        train, test = surprise_parts(data)
        peer = SVD(n_factors=given.dim, random_state=1).fit(train)
        rmse[PEER] = accuracy.rmse(peer.test(test), verbose=False)
        epochs[PEER] = lambda: SVD(n_factors=given.dim, n_epochs=1, random_state=1).fit(train)
    seconds = in_turns(epochs, given.rounds)
    rows = {}
    for name, own in seconds.items():
        rows[name] = {**spread(own), "test RMSE": f"{rmse[name]:.4f}"}
        if PEER in seconds:
            rows[name]["x Surprise"] = f"{statistics.median(seconds[PEER]) / statistics.median(own):.2f}"
    show(f"An epoch on ml-1m, dim {given.dim}, one thread, median of {given.rounds} in turns", rows)


if __name__ == "__main__":
    main()
