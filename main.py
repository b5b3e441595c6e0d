"""One run: parse the flags, load the data, build the model, then train it or use its checkpoint.

`python main.py --help` lists the flags.
"""

import os
import sys
from pathlib import Path

from cli.signals import defer_interrupts, end_silently

if __name__ == "__main__":
    end_silently()

import families
from cli.errors import UserError, status_of
from parse import contradictions, parse_args


def main(argv=None):
    """Run the command. Returns the exit status.

    0: success; 2: a mistake of the user, with one line on stderr; 130: Ctrl-C;
    143, 129, 138: SIGTERM, SIGHUP, SIGUSR1, see cli.signals.
    """
    args = parse_args(argv)
    return status_of("main.py", run, args)


def run(args):
    """Do what --mode says, in this process or as one of those that torchrun started."""
    # Waiting OpenMP threads spin, and take the core from those that have work: on a busy machine an
    # epoch would take ten times as long. 1000 turns are OpenMP's limit if threads outnumber cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded
    # implicit asks for this one; read when numpy is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imported here, so that --help and a wrong flag are answered before torch is loaded.
    with defer_interrupts():
        from distributed.group import process_group
        from utils import choose_device, keep_freed_memory, log_to_console

    keep_freed_memory()
    log_to_console()
    if args.mode in ("describe", "split"):
        return describe_data(args) if args.mode == "describe" else split_data(args)
    device = choose_device(args.device)
    with process_group(device, args.timeout):
        if args.mode == "train":
            train_model(args, device)
        else:
            use_model(args, device)


def describe_data(args):
    """Load the data set and describe it, without a model."""
    data = families.load_data(args)
    fold = f"-u{args.fold}" if args.fold else ""
    name = args.run_name or f"{data.name}{fold}-description"
    families.describe(args, data).write(Path(args.log_root) / name, data)


def split_data(args):
    """Load the data set and write its splits for other programs."""
    from sources.split_files import write_splits

    write_splits(families.load_data(args), Path(args.output))


def train_model(args, device):
    """Load the data, build the model and fit it; --l2_grid and --refit fit more than one."""
    with defer_interrupts():
        from checkpointing.resume import keep_suggested
        from checkpointing.update import begin_update
        from distributed.agreement import raise_on_all_ranks
        from distributed.collectives import first_rank_says
        from distributed.group import restarted_run
        from distributed.schedule import own_batch_size
        from sweeps.l2_grid import fit_grid
        from train import Progress, fit, refit

    if args.train_mode == "update":
        args = begin_update(
            args, device, Progress(), check_flags, families.load_data, families.model_class
        )
    data, args = load_data(args, device)
    last_file = Path(args.checkpoint_dir) / args.run_name / "last.pt"
    if restarted_run() and first_rank_says(last_file.exists()):
        args = args.replace(train_mode="continue")
    if args.train_mode == "continue":
        by_size = families.family_of(args.model).flags_by_size(args.model, args.dataset)
        args = keep_suggested(args, last_file, by_size)
    model_class = families.model_class(args)
    own = args.replace(batch_size=own_batch_size(args.batch_size))
    with raise_on_all_ranks():
        families.check_memory(args, data, device)
    if args.l2_grid:
        return fit_grid(model_class, device, data, args)
    model = model_class(data, own, device)
    epochs = fit(model, data, args)
    if args.refit:
        del model  # makes room for the next one
        refit(model_class, device, data, args, epochs)


def use_model(args, device):
    """Evaluate a trained model, recommend with it, or export it, with its checkpoint's flags."""
    with defer_interrupts():
        from checkpointing.resume import explain_mismatch
        from inference.blend import Blend
        from inference.use import (
            adopt_trained_flags,
            checkpoint_file,
            evaluate,
            flags_of_blend,
            run_mode,
            take_trained_weights,
        )

    if args.recommendations:
        from inference.lists import Lists

        data, args = load_data(args, device)
        return evaluate(Lists(data, args, device), data, args)

    def trained(args, state, data):
        families.check_memory(args, data, device)
        with explain_mismatch(checkpoint_file(args)):
            model = families.model_class(args)(data, args, device)
        take_trained_weights(model, args, state)
        return model

    own, state = adopt_trained_flags(args)
    data, own = load_data(own, device)
    model = trained(own, state, data)
    if args.blend:
        other = trained(*adopt_trained_flags(flags_of_blend(args)), data)
        model = Blend(model, other, args.blend_weight)
    run_mode(model, data, own, state)


def load_data(args, device):
    """Load the data set. Returns it, and the flags with the name of its folder and of the run."""
    from checkpointing.update import continued_update
    from distributed.agreement import check_equal_on_ranks

    if update := continued_update(args):
        return update
    spelled = {f"--{flag}": value for flag, value in args.common_flags().items()}
    check_equal_on_ranks({**spelled, "a device of type": device.type})
    data = families.load_data(args)
    args = args.replace(dataset=data.name)
    return data, args.replace(run_name=args.run_name or args.default_run_name)


def check_flags(args):
    """Raise UserError if flags that a run takes over contradict --train_mode."""
    for mistake in contradictions(args, given={}):
        raise UserError(mistake)


if __name__ == "__main__":
    sys.exit(main())
