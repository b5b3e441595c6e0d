"""How near is a training step to the time that its memory traffic takes on this device?

python benchmarks/gpu.py [--data_dir datasets] [--steps 200] [--scale 1]

The floor is the bytes that a step of Adam on whole tables must move, divided by the measured
bandwidth of a copy. These are 28 bytes per trained number: weights and moments are read and
written, the gradient is read. A step by the row may be below the floor. --scale 0.05 makes the
dimensions smaller, to try the script on a CPU.
"""

import time
from itertools import islice

from common import build, epochs_of, options, show

DIMS = {"100k": 32, "Gowalla": 1024, "Yelp2018": 2048}  # suggested for each data set


def wait(device):
    """Wait until the device has done all its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(function, device):
    """Seconds of a call, with the work that it leaves to the device."""
    wait(device)
    begin = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - begin


def bandwidth(device):
    """Bytes per second that a copy of 256 MB reads and writes, at the fastest of ten times."""
    import torch

    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source), device) for _ in range(10))


def main():
    given = options(__doc__, steps=200, scale=1.0)
    import torch

    rows = {}
    for dataset, dim in DIMS.items():
        dim = max(4, round(dim * given.scale))
        model, args, _ = build(f"--dataset {dataset} --dim {dim} --compile on", given.data_dir)
        device = model.device
        batches = list(islice(model.schedule.batches(), given.steps))
        batches = [batch for batch in batches if len(batch[0]) == args.batch_size]

        def steps(model=model, batches=batches, lr=args.lr):
            for batch in batches:
                model.optimizer.prepare(lr)
                model.compiled_step(batch)
            model.optimizer.finish()

        steps()
        step = timed(steps, device) / len(batches)
        epoch = timed(epochs_of(model, args), device)
        ranking = timed(lambda model=model: model.evaluate("test"), device)
        numbers = sum(table.numel() for table in model.optimizer.tables.values())
        floor = 28 * numbers / bandwidth(device)
        rows[f"{dataset}, dim {dim}"] = {
            "step, ms": f"{step * 1e3:.3f}",
            "floor, ms": f"{floor * 1e3:.3f}",
            "step / floor": f"{step / floor:.2f}",
            "by the row": "yes" if model.optimizer.by_row else "no",
            "epoch, s": f"{epoch:.3f}",
            "evaluation, s": f"{ranking:.3f}",
        }
        if device.type == "cuda":
            rows[f"{dataset}, dim {dim}"]["memory, MB"] = (
                f"{torch.cuda.max_memory_allocated(device) / 1e6:.0f}"
            )
            torch.cuda.reset_peak_memory_stats(device)
    show("Training steps against the cost of their bytes", rows)


if __name__ == "__main__":
    main()
