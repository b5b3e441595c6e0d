"""What does a training step of lambdaOpt cost beside one of plain BPR, on 1M at dim 128?

python benchmarks/lambdaopt.py [--data_dir datasets] [--rounds 5]

Epochs are timed in turns, and divided by their number of steps; drawing the negatives is included.
Peak memory is that of another process, which trains an epoch and compiles nothing.
"""

import statistics
import subprocess
import sys
from pathlib import Path

from common import build, epochs_of, in_turns, options, show, spread

BPR = "--model TwoBP --loss BPR --dataset 1M --N 1 --l2 0 --select valid --valid_ratio 0.25"
LAMBDAOPT = "--model TwoBP --loss BPR --dataset 1M --N 1 --regularizer lambdaopt"
FLAGS = {
    "plain BPR": BPR,
    "truncated": f"{LAMBDAOPT} --lambda_interval 1",
    "full": f"{LAMBDAOPT} --lambda_interval 1 --lambda_grad full",
    "truncated, every 4th step": LAMBDAOPT,
}
ONE_EPOCH = """
import sys
from common import build, epochs_of
from utils import peak_memory_mb
model, args, _ = build(sys.argv[1] + " --compile off", sys.argv[2])
epochs_of(model, args)()
print(peak_memory_mb(model.device))
"""


def peak_memory(flags, data_dir):
    """Peak memory in MB of a new process that trains an epoch."""
    command = [sys.executable, "-c", ONE_EPOCH, flags, data_dir]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main():
    given = options(__doc__, rounds=5)
    data_dir = Path(given.data_dir).resolve()
    built = {name: build(f"{flags} --compile on", data_dir)[:2] for name, flags in FLAGS.items()}
    seconds = in_turns({name: epochs_of(*model) for name, model in built.items()}, given.rounds)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rows = {
        name: {
            "ms a step": f"{1000 * median[name] / model.steps_per_epoch:.2f}",
            "spread": spread(seconds[name])["spread"],
            "x plain BPR": f"{median[name] / median['plain BPR']:.2f}",
            "x truncated": f"{median[name] / median['truncated']:.2f}",
            "peak memory, MB": f"{peak_memory(FLAGS[name], data_dir):.0f}",
        }
        for name, (model, _) in built.items()
    }
    show(f"Training steps on 1M, dim 128, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
