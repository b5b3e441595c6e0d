"""How good, how soon, on 100k: --preset fast, and implicit's ALS?

python benchmarks/quality.py [--data_dir datasets] [--seeds 3]

Seconds are of training alone, compilation not counted. No epoch is chosen: the metrics are those of the last one.
"""

import copy
import statistics
import time

from common import build, epochs_of, options, show

HEADLINE = ("Recall@20", "NDCG@20")


def onebp(data_dir, seed):
    """(seconds, metrics) of --preset fast; an epoch that is then undone has compiled the step."""
    model, args, _ = build(f"--dataset 100k --preset fast --compile on --seed {seed}", data_dir)
    start = copy.deepcopy(model.state_dict())
    epochs_of(model, args)()
    model.load_state_dict(start)
    begin = time.perf_counter()
    epochs_of(model, args, args.epochs)()
    return time.perf_counter() - begin, model.evaluate("test")


def als(data_dir, seed):
    """(seconds, metrics) of implicit's ALS with what was best on the test part for seed 1.

    Of factors 16, 32, 64; regularization 0.1, 1, 5, 20, 50; alpha 1, 2, 5, 10; 10 iterations.
    """
    import torch
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model, _, data = build("--dataset 100k --compile off", data_dir)
    train = csr_matrix(data.train).astype("float32")
    peer = AlternatingLeastSquares(
        factors=64, regularization=20.0, alpha=2.0, iterations=10, num_threads=1, random_state=seed
    )
    begin = time.perf_counter()
    peer.fit(train, show_progress=False)
    seconds = time.perf_counter() - begin
    encodings = (torch.as_tensor(part) for part in (peer.user_factors, peer.item_factors))
    return seconds, model.rankings["test"].evaluate(*encodings)


def main():
    given = options(__doc__, seeds=3)
    rows = {}
    for name, function in (("OneBP, --preset fast", onebp), ("implicit ALS", als)):
        try:
            results = [function(given.data_dir, seed) for seed in range(1, given.seeds + 1)]
        except ImportError:
            continue  # no peers installed
        rows[name] = {"training, s": f"{statistics.median(seconds for seconds, _ in results):.2f}"}
        for metric in HEADLINE:
            values = [metrics[metric] for _, metrics in results]
            rows[name][metric] = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    show(f"Time to quality on 100k, one thread, {given.seeds} seeds", rows)


if __name__ == "__main__":
    main()
