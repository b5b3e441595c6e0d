"""Train and evaluate a recommendation model: `python main.py --help` lists the flags."""

import os
import sys
from pathlib import Path

from cli.errors import defer_interrupts, status_of
from dataloader import load_data
from parse import default_run_name, parse_args


def main(argv=None):
    """Returns the exit status: 0; 2 after a mistake of the user, with one line on stderr; 130 after Ctrl-C."""
    args = parse_args(argv)
    return status_of("main.py", run, args)


def run(args):
    """Load the data set, build the model, then fit it or use its checkpoint."""
    # Threads that wait for each other spin, and take the core from those that have work: on a machine that does other
    # work too, an epoch would take ten times as long. 1000 turns are OpenMP's own limit where threads outnumber cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # as implicit asks for; read when numpy is loaded
    # Imported here, so that --help and a wrong flag are answered before torch is loaded.
    with defer_interrupts():
        from distributed.group import process_group
        from utils import choose_device, keep_freed_memory, log_to_console

    keep_freed_memory()
    log_to_console()
    device = choose_device(args.device)
    with process_group(device, args.timeout):
        work(device, args)


def work(device, args):
    """What `run` does on the device, in one process or as one of several ranks."""
    with defer_interrupts():
        from cli.registry import MODELS, find
        from distributed.agreement import check_equal_on_ranks, common_flags, own_flags
        from distributed.collectives import first_rank_says
        from distributed.group import restarted_run
        from inference.use import adopt_trained_flags, run_mode
        from sweeps.l2_grid import fit_grid
        from train import fit, refit

    if args.mode != "train":
        state = adopt_trained_flags(args)
    check_equal_on_ranks({**common_flags(args), "a device of type": device.type})
    data = load_data(args)
    args.run_name = args.run_name or default_run_name(args)
    if restarted_run() and first_rank_says(
        (Path(args.checkpoint_dir) / args.run_name / "last.pt").exists()
    ):
        args.train_mode = "continue"
    model_class = find(MODELS, args.model)
    if args.l2_grid:
        return fit_grid(model_class, device, data, args)
    model = model_class(data, own_flags(args), device)
    if args.mode == "train":
        epochs = fit(model, data, args)
        if args.refit:
            del model  # room for the next one
            refit(model_class, device, data, args, epochs)
    else:
        run_mode(model, data, args, state)


if __name__ == "__main__":
    sys.exit(main())
