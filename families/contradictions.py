"""What contradicts what among the flags of a command. Loads without torch."""

import families
from cli import launch, metrics, shared_flags
from cli.shared_flags import DATASETS
from inference import flags as inference

# The flags that --recommendations uses, beside those that decide which data are loaded.
OF_LISTS = {"mode", "model", "recommendations", "run_name", "log_root", "no_download", "device"}
OF_LISTS |= {"ranking", *(flag.name for flag in metrics.FLAGS)}
EVALUATING = {"train", "evaluate", "describe"}


def contradictions(args, given):
    """Yield lines about flags that contradict each other. given: {flag: value} as typed."""
    family = families.family_of(args.model)
    yield from launch.mistakes()
    if args.mode == "split" and not args.has("pairs"):
        yield f"--mode split writes pairs of user and item; --model {args.model} takes none"
    for flag in given:
        if ignored := args.why_ignored(flag):
            choice, values = ignored
            of_run = args.mode in ("evaluate", "recommend", "export") and "model" not in given
            advice = "; give the --model of the run" if choice == "model" and of_run else ""
            yield (
                f"--{flag} does nothing with --{choice} {getattr(args, choice)}, "
                f"only with {' or '.join(values)}{advice}"
            )
    presets = family.presets.get(given.get("preset", "paper"), {})
    if given.get("preset", "paper") != "paper" and args.dataset not in presets:
        known = " and ".join(presets)
        yield f"there is no --preset {given['preset']} for {args.dataset}, only for {known}"
    if args.train_mode == "update" and not args.has("updates"):
        yield f"--model {args.model} has no --train_mode update: train it anew"
    if args.mode in ("recommend", "export") and not args.has("lists"):
        yield f"--model {args.model} recommends no items: there is only --mode train and evaluate"
    for flag in given if args.recommendations else ():
        if flag not in args.loading_flags().keys() | OF_LISTS:
            yield f"--{flag} does nothing with --recommendations, which are made already"
    yield from wrong_dataset(args, family)
    if launch.world_size() > 1:
        for choice in one_process(args, family):
            yield f"{choice} runs in one process; start it without torchrun"
    yield from wrong_auto(args)
    yield from shared_flags.contradictions(args, given)
    yield from inference.contradictions(args, given)
    yield from metrics.contradictions(args)
    yield from family.contradictions(args, given)


def wrong_dataset(args, family):
    """Yield a line if the named data set is not for the model."""
    for other in families.FAMILIES:
        if other is not family and args.dataset in other.datasets:
            models = " or ".join(other.models)
            yield f"{args.dataset} is for --model {models}, not {args.model}"
    if family.datasets and args.dataset in DATASETS.keys() - {"demo"}:
        known = ", ".join(["demo", *family.datasets])
        yield f"{args.dataset} is not for --model {args.model}, only {known}"


def one_process(args, family):
    """Yield the choices that need all users, and so one process, as they are spelled."""
    if args.mode != "train":
        yield f"--mode {args.mode}"
    if family.one_process is None:
        yield f"--model {args.model}"
    else:
        yield from family.one_process(args)
    yield from (f"--{flag}" for flag in ("refit", "l2_grid") if getattr(args, flag))
    if args.train_mode == "update":
        yield "--train_mode update"


def wrong_auto(args):
    """Yield a line for each flag `auto` where nothing can choose its value."""
    for name in args.auto_flags():
        if args.select != "valid":
            what = f"--{name} auto chooses on the validation split"
            yield f"{what}: add --select valid, or give a number"
        elif args.mode not in EVALUATING:
            yield f"--{name} auto needs --mode train or evaluate; give a number"
