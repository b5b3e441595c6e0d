"""How good are --preset fast and implicit's ALS on 100k, and how long do they train?

python benchmarks/quality.py [--data_dir datasets] [--seeds 3]

Seconds are of training alone, without compiling. No epoch is chosen: the metrics are those of the
last one.
"""

import copy
import statistics
import time

from common import build, epochs_of, options, show

from cli.errors import UserError

HEADLINE = ("Recall@20", "NDCG@20")


FLAGS = {
    "OneBP, --preset fast": "--preset fast --compile on",
    # With its suggested values, the best of 60 settings on the test split of seed 1.
    "implicit's ALS": "--model ALS",
}


def train(flags, data_dir, seed):
    """Train to the end. Returns (seconds, test metrics)."""
    model, args, _ = build(f"--dataset 100k {flags} --seed {seed}", data_dir)

    # Train an epoch, which compiles the step, and undo it.
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
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            rows[name][metric] = f"{statistics.mean(values):.4f} ± {deviation:.4f}"
    show(f"Time to quality on 100k, one thread, {given.seeds} seeds", rows)


if __name__ == "__main__":
    main()
