"""How fast is an epoch of SVD on MovieLens 1M beside Surprise's, and how good is what both end with?

python benchmarks/ratings.py [--data_dir datasets] [--rounds 5] [--dim 64]

Both see the same 90 % of the ratings, in one thread. Epochs are timed in turns; then each program trains as its makers
suggest (Surprise's defaults but for the dimension) and predicts the same other 10 %.
"""

import pandas as pd
from common import build, epochs_of, in_turns, options, show, spread


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
    flags = f"--dataset ml-1m --dim {given.dim} --model"
    epochs, rmse = {}, {}
    for name, own in {"SVD": "SVD --compile on", "SVD, not compiled": "SVD --compile off"}.items():
        model, args, data = build(f"{flags} {own}", given.data_dir)
        epochs[name] = epochs_of(model, args)
    try:
        from surprise import SVD, accuracy

        train, test = surprise_parts(data)
        epochs["Surprise SVD"] = lambda: SVD(n_factors=given.dim, n_epochs=1, random_state=1).fit(train)
        peer = SVD(n_factors=given.dim, random_state=1)
        rmse["Surprise SVD"] = accuracy.rmse(peer.fit(train).test(test), verbose=False)
    except ImportError:
        pass
    seconds = in_turns(epochs, given.rounds)
    for name, own in {"SVD": "SVD", "SVDpp": "SVDpp"}.items():
        model, args, _ = build(f"{flags} {own}", given.data_dir)
        epochs_of(model, args, args.epochs)()
        rmse[name] = model.evaluate("test")["RMSE"]
    rows = {name: spread(own) for name, own in seconds.items()}
    for row in rows.values():
        if "Surprise SVD" in rows:
            row["x Surprise"] = f"{float(rows['Surprise SVD']['median, s']) / float(row['median, s']):.2f}"
    for name, value in rmse.items():
        rows.setdefault(name, {"median, s": "", "spread": "", "x Surprise": ""})["RMSE, last epoch"] = f"{value:.4f}"
    show(f"An epoch on ml-1m, dim {given.dim}, one thread, median of {given.rounds} in turns; test RMSE", rows)


if __name__ == "__main__":
    main()
