"""Train and evaluate a recommendation model: `python main.py --help` lists the flags."""

import os
import sys
from pathlib import Path

import launch
from errors import OfAll, explain, interrupts_held_back, tells
from parse import default_run_name, parse_args, validates
from suggested import TUNED


def main(argv=None):
    """Returns the exit status: 0; 2 after a mistake of the user, with one line on stderr; 130 after Ctrl-C."""
    args = parse_args(argv)
    return status_of("main.py", run, args)


def status_of(program, action, *arguments):
    """Call `action` for `program`. Returns the exit status, see main."""
    rank = launch.number()  # of several processes
    try:
        action(*arguments)
    except KeyboardInterrupt as interrupt:
        if not rank:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        if tells(error):
            print(f"[rank {rank}] " * bool(rank) + f"{program}: error:", " ".join(line.split("\n")), file=sys.stderr)
        return 2
    return 0


def run(args):
    """Load the data set, build the model, then fit it or use its checkpoint."""
    # Threads that wait for each other spin, and take the core from those that have work: on a machine that does other
    # work too, an epoch would take ten times as long. 1000 turns are OpenMP's own limit where threads outnumber cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as implicit asks for; read when numpy is loaded
    # Imported here, so that --help and a wrong flag are answered before torch is loaded.
    with interrupts_held_back():
        from ranks import joined
        from utils import choose_device, keep_freed_memory, log_to_console

    keep_freed_memory()
    log_to_console()
    device = choose_device(args.device)
    with joined(device, args.timeout):
        work(device, args)


def work(device, args):
    """What `run` does on the device, in one process or as one of several ranks."""
    with interrupts_held_back():
        from grid import fit_grid
        from ranks import begun, check_alike, of_first
        from recommend import take_flags_over, use
        from registry import MODELS, find
        from shards import common_flags, own_flags
        from train import fit, refit

    if args.mode != "train":
        state = take_flags_over(args)
    check_alike({**common_flags(args), "a device of type": device.type})
    data = load_data(args)
    args.run_name = args.run_name or default_run_name(args)
    if begun() and of_first((Path(args.checkpoint_dir) / args.run_name / "last.pt").exists()):
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
        use(model, data, args, state)


def load_data(args):
    """The data set that the flags name; from here on they spell it like its folder."""
    from registry import MODELS, find

    if find(MODELS, args.model).clicks:
        return load_click_data(args)
    from dataloader import load_dataset
    from mapped import find_mapped
    from ranks import check_alike, together
    from shards import own_share

    with together():
        folder = find_mapped(args.dataset, Path(args.data_dir))
    check_alike({"a data set of arrays": folder is not None})
    if folder:
        data = load_arrays(folder, args)
    else:
        ratio = "valid_ratio" if args.origin["valid_ratio"] == "command line" else "suggested_ratio"
        with together():
            data = load_dataset(
                args.dataset,
                args.data_dir,
                ratings=find(MODELS, args.model).ratings,
                fold=args.fold,
                test_ratio=args.test_ratio,
                validate=validates(args),
                **{ratio: args.valid_ratio},
                split_seed=args.split_seed,
                download=not args.no_download,
            )
        check_alike({"data with digest": data.digest})
        data = own_share(data)
    args.dataset = data.name
    if args.regularizer == "lambdaopt":
        return data.with_tuning_part(1 if args.select == "test" else TUNED, args.split_seed)
    return data.with_valid_in_train() if args.refit_epochs else data


def load_arrays(folder, args):
    """The data set of arrays in a folder. Raises UserError for flags that it has no use for."""
    from mapped import load_mapped
    from registry import MODELS, find

    for flag in ("fold", "test_ratio", "valid_ratio"):
        if args.origin[flag] == "command line":
            raise OfAll(f"--{flag} does not apply: {folder} has its parts; leave the flag out")
    if find(MODELS, args.model).ratings or args.regularizer == "lambdaopt":
        raise OfAll(f"{folder} has no ratings and no part to tune on; take another --model and --regularizer")
    return load_mapped(folder, validates(args))


def load_click_data(args):
    """Like load_data, for models of clicks."""
    from clicks import load_clicks

    data = load_clicks(
        args.dataset,
        args.data_dir,
        threshold=args.threshold,
        label=args.label,
        categorical=args.categorical,
        numeric=args.numeric,
        validate=validates(args),
        valid_ratio=args.valid_ratio,
        test_ratio=args.test_ratio,
        skip_bad_lines=args.skip_bad_lines,
        download=not args.no_download,
    )
    args.dataset = data.name
    return data


if __name__ == "__main__":
    sys.exit(main())
