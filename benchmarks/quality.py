"""How good, how soon, on 100k: --preset fast, and implicit's ALS?

python benchmarks/quality.py [--data_dir datasets] [--seeds 3]

Seconds are of training alone, compilation not counted. No epoch is chosen: the metrics are those of the last one.
"""

import copy
import statistics
import time

from common import build, epochs_of, options, show

from cli.errors import UserError

HEADLINE = ("Recall@20", "NDCG@20")


FLAGS = {
    "OneBP, --preset fast": "--preset fast --compile on",
    "implicit's ALS": "--model ALS",  # with its suggested values, the best of 60 settings on the test part of seed 1
}


def train(flags, data_dir, seed):
    """(seconds, metrics) of a run; an epoch that is then undone has compiled the step."""
    model, args, _ = build(f"--dataset 100k {flags} --seed {seed}", data_dir)
    start = copy.deepcopy(model.state_dict())
    epochs_of(model, args)()
    model.load_state_dict(start)
    begin = time.perf_counter()
    epochs_of(model, args, args.epochs)()
    return time.perf_counter() - begin, model.evaluate("test")


def main():
    given = options(__doc__, seeds=3)
    rows = {}
    for name, flags in FLAGS.items():
        try:
            results = [train(flags, given.data_dir, seed) for seed in range(1, given.seeds + 1)]
        except UserError:
            continue  # implicit is not installed
        rows[name] = {"training, s": f"{statistics.median(seconds for seconds, _ in results):.2f}"}
        for metric in HEADLINE:
            values = [metrics[metric] for _, metrics in results]
            rows[name][metric] = (
                f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if values[1:] else 0:.4f}"
            )
    show(f"Time to quality on 100k, one thread, {given.seeds} seeds", rows)


if __name__ == "__main__":
    main()
