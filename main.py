"""Train and evaluate a recommendation model: `python main.py --help` lists the flags."""

import os
import sys

from errors import explain, interrupts_held_back
from parse import parse_args


def main(argv=None):
    """Returns the exit status: 0; 2 after a mistake of the user, with one line on stderr; 130 after Ctrl-C."""
    args = parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print("main.py: error:", " ".join(line.split("\n")), file=sys.stderr)
        return 2
    return 0


def run(args):
    """Load the data set, build the model, fit it."""
    # Threads that wait for each other spin, and take the core from those that have work: on a machine that does other
    # work too, an epoch would take ten times as long. 1000 turns are OpenMP's own limit where threads outnumber cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded
    # Imported here, so that --help and a wrong flag are answered before torch is loaded.
    with interrupts_held_back():
        from dataloader import load_dataset
        from model import MODELS
        from train import fit
        from utils import choose_device, log_to_console

    log_to_console()
    device = choose_device(args.device)
    data = load_dataset(
        args.dataset,
        args.data_dir,
        test_ratio=args.test_ratio,
        validate=args.select == "valid",
        valid_ratio=args.valid_ratio,
        split_seed=args.split_seed,
        download=not args.no_download,
    )
    args.dataset = data.name  # as the folder spells it
    args.run_name = args.run_name or f"{data.name}-{args.model}-{args.encoder}"
    fit(MODELS[args.model](data, args, device), data, args)


if __name__ == "__main__":
    sys.exit(main())
