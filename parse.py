"""Every flag, in groups, with its default; where its value comes from; what contradicts what."""

import argparse
import os

from cli import launch
from cli.flags import Parser, folder_name, number, one_of, positive, share, text, whole
from cli.registry import (
    CLICK_MODELS,
    ENCODERS,
    LOSSES,
    MEMORIES,
    MODELS,
    RANKINGS,
    REGULARIZERS,
    SAMPLERS,
    WITHOUT_NEGATIVES,
)
from ignored import CHOICES, IGNORED, ignoring
from regularizers.flags import GRANULARITIES
from suggested import (
    CLICK_DATASETS,
    HELD_OUT,
    PRESETS,
    SUGGESTED,
    SUGGESTED_FOR,
    SUGGESTED_FOR_MEMORY,
)

RUN_FILES = (
    "metrics.csv",
    "summary.json",
    "log.txt",
    "curves.png",
    "stream.csv",
    "stream.png",
    "tensorboard",
)


def parse_args(argv=None):
    """Flags -> Namespace: what the user gave, else the preset's, what model or data set suggest, else the default.

    `args.origin` maps each flag to "command line", "preset <name>", "suggested for <model or data set>" or "default".
    Exits with status 2 and one line for a flag that is unknown, out of range, or contradicts another.
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    dataset = given.get("dataset", parser.defaults["dataset"])
    dataset = next((name for name in SUGGESTED if name.lower() == dataset.lower()), dataset)
    preset = given.get("preset", parser.defaults["preset"])
    if preset != "paper" and dataset not in PRESETS[preset]:
        parser.error(
            f"there is no --preset {preset} for {dataset}, only for {' and '.join(PRESETS[preset])}"
        )
    model, loss = (given.get(name, parser.defaults[name]) for name in ("model", "loss"))
    special = SUGGESTED_FOR.get(model, {})
    sources = {
        "default": parser.defaults | ({"sampler": "none"} if loss in WITHOUT_NEGATIVES else {}),
        f"suggested for {dataset}": SUGGESTED.get(dataset, {}),
        f"suggested for {model}": {**special.get("", {}), **special.get(dataset, {})},
        f"suggested for {given.get('memory')}": SUGGESTED_FOR_MEMORY.get(given.get("memory"), {}),
        f"preset {preset}": PRESETS[preset].get(dataset, {}),
        "suggested for lambdaopt": HELD_OUT if given.get("regularizer") == "lambdaopt" else {},
        "suggested for l2_grid": HELD_OUT if "l2_grid" in given else {},
        "command line": given,
    }
    values, origin = {}, {}
    for source, flags in sources.items():
        values |= flags
        origin |= dict.fromkeys(flags, source)
    values["dataset"] = dataset
    args = argparse.Namespace(**values, origin=origin, refit_epochs=None)  # train.refit sets them
    for mistake in contradictions(args, given):
        parser.error(mistake)
    return args


def default_run_name(args):
    """<dataset>-u<fold>-<model>-<encoder>, less what there is not."""
    fold = [f"u{args.fold}"] if args.fold else []
    return "-".join(
        [args.dataset, *fold, args.model] + [args.encoder] * (args.model in ("OneBP", "TwoBP"))
    )


def last_epoch(args):
    """The epoch after which training ends, unless it stops early."""
    return args.refit_epochs or args.epochs


def validates(args):
    """Whether a validation part is held back from training."""
    return args.select == "valid" or args.regularizer == "lambdaopt" or bool(args.refit_epochs)


def contradictions(args, given):
    """Yield what is wrong with the flags together, a line each; given: those of the command line, by name."""
    yield from launch.mistakes()
    for choice, flags in ignoring(args):
        for flag in flags:
            if flag in given:
                others = [
                    name
                    for name in CHOICES[choice]
                    if flag not in IGNORED[choice].get(name, "").split()
                ]
                yield f"--{flag} does nothing with --{choice} {getattr(args, choice)}, only with {' or '.join(others)}"
    if args.model in CLICK_MODELS and args.dataset in SUGGESTED.keys() - {"demo", *CLICK_DATASETS}:
        yield f"{args.dataset} has no impressions for --model {args.model}; demo, {' and '.join(CLICK_DATASETS)} have"
    if args.model not in CLICK_MODELS and args.dataset in CLICK_DATASETS:
        yield f"{args.dataset} is of clicks, for --model {' or '.join(CLICK_MODELS)}, not {args.model}"
    if launch.world_size() > 1:
        yield from (
            f"{choice} runs in one process; start it without torchrun" for choice in undivided(args)
        )
    if args.sampler == "none" and args.loss not in WITHOUT_NEGATIVES:
        yield f"--loss {args.loss} needs negatives: give another --sampler than none"
    if args.loss in WITHOUT_NEGATIVES and args.sampler != "none":
        yield f"--loss {args.loss} has no negatives: leave --sampler {args.sampler} out"
    if args.sampler == "inbatch" and args.loss in ("BPR", "BCE"):
        yield f"--sampler inbatch corrects a softmax, which --loss {args.loss} is not; take InfoNCE or BSL"
    if args.sampler == "dns" and args.candidates < args.N:
        yield f"--sampler dns keeps --N {args.N} of the candidates, so --candidates {args.candidates} is too few"
    if args.reg == 0 and args.model in ("EASE", "ALS"):
        yield f"--reg 0 leaves {args.model} without a solution; give more"
    if args.fold is not None and args.test_ratio is not None:
        yield "--fold names a split that is made already: leave --test_ratio out"
    if args.l2_grid:
        if len({float(f"{strength:g}") for strength in args.l2_grid}) < len(args.l2_grid):
            yield "--l2_grid has a strength twice (six digits count)"
        if "l2" in given:
            yield "--l2 is one of --l2_grid: leave --l2 out"
        if args.select != "valid":
            yield f"--l2_grid chooses on the validation part: leave --select {args.select} out"
        if args.refit:
            yield "--refit does nothing with --l2_grid; train the chosen strength with it, by --l2"
    if args.valid_ratio is not None and not validates(args):
        yield "--valid_ratio needs --select valid"
    if (
        args.regularizer == "lambdaopt"
        and args.lambda_grad == "full"
        and args.encoder == "LightGCN"
    ):
        yield "--lambda_grad full differentiates gradients, which sparse products have no way for; take truncated"
    if args.regularizer == "l2" and not {"l2", "l2_grid"} & given.keys():
        yield "--regularizer l2 needs its strength, --l2, or several to try, --l2_grid"
    if args.refit and args.regularizer == "lambdaopt":
        yield "--refit leaves --regularizer lambdaopt no validation part to tune its strengths on"
    if args.refit and args.select != "valid":
        yield "--refit needs --select valid, which chooses the number of epochs"
    if args.memory_tune:
        if args.select != "valid":
            yield f"--memory_tune tries settings on the validation part: leave --select {args.select} out"
        tuned = [
            flag
            for flag in ("memory_key", "memory_k", "memory_tau", "memory_lambda")
            if flag in given
        ]
        if tuned:
            yield f"--{tuned[0]} is what --memory_tune chooses; leave one of them out"
    if "memory_size" in given and args.memory == "lsh" and not args.incremental:
        yield "--memory_size does nothing with --memory lsh, of one size, unless the model goes on (--incremental)"
    for flag, other in (("eval_file_name", "loss_file_name"), ("loss_file_name", "eval_file_name")):
        if (name := given.get(flag)) in (*RUN_FILES, getattr(args, other)) and name:
            yield f"--{flag} {name} is another file of the run; take another name"
    if "incremental_lr" in given and not args.incremental:
        yield "--incremental_lr needs --incremental"
    if args.lr_schedule == "cosine" and (args.lr_dc != 1 or args.lr_dc_epoch):
        yield f"--lr_dc and --lr_dc_epoch need --lr_schedule step; here it is cosine ({args.origin['lr_schedule']})"
    if args.lr_dc != 1 and not args.lr_dc_epoch:
        yield "--lr_dc needs --lr_dc_epoch, the epochs after which to decay"
    if args.lr_dc_epoch and "lr_dc" not in given:
        yield "--lr_dc_epoch needs --lr_dc, the factor"
    if args.mode != "train":
        yield from (
            f"--{flag} does nothing with --mode {args.mode}"
            for flag in ("train_mode", "refit", "l2_grid")
            if flag in given
        )
    if args.mode == "recommend" and (args.users is None) == (args.history is None):
        yield "--mode recommend needs --users (ids, or all), or --history (a file), and not both"
    if "passes" in given and args.users:
        yield "--passes belongs to --history; --users have their encodings from training"
    if args.mode == "export" and args.output is None:
        yield "--mode export needs --output, the folder to write to"


def undivided(args):
    """Yield the flags, with their values, that cannot be divided among ranks: they look at all users together."""
    whole = {
        "mode": ("evaluate", "recommend", "export"),
        "model": MODELS.keys() - {"OneBP", "TwoBP"},
        "encoder": ("LightGCN",),
        "loss": ("DirectAU",),
        "regularizer": ("lambdaopt",),
    }
    yield from (
        f"--{flag} {getattr(args, flag)}"
        for flag, values in whole.items()
        if getattr(args, flag) in values
    )
    yield from (f"--{flag}" for flag in ("refit", "l2_grid") if getattr(args, flag))


def build_parser():
    """The parser of main.py. Its `defaults` hold the value of each flag that neither user nor data set sets."""
    parser = Parser(
        prog="main.py",
        description="Train and evaluate two-tower recommendation models, and models of ratings.",
        epilog="A named data set and a model other than OneBP bring other values for some flags; the log of a run says "
        "which value came from where.",
    )
    group, flag = parser.start_group, parser.add_flag

    group("run")
    flag(
        "mode",
        "train",
        one_of(*CHOICES["mode"]),
        "train a model, or use the checkpoint of one, see below",
    )
    mode = one_of("new", "continue", new_train="new", continue_train="continue")
    flag("train_mode", "new", mode, "start afresh, or go on from the last checkpoint")
    flag(
        "run_name",
        None,
        folder_name,
        "name of the run's folders (default: <dataset>[-u<fold>]-<model>-<encoder>)",
    )
    flag("seed", 2022, whole(0), "seed of initialisation, order and negatives")
    flag("device", "auto", str, "auto (the GPU when there is one), cpu, cuda, or cuda:<number>")
    threads_help = "CPU threads of a training step; evaluation takes all, or OMP_NUM_THREADS"
    flag("threads", 1, number(1, os.cpu_count(), kind=int), threads_help)
    compile_help = (
        "translate the training step to machine code; auto: when the run is long enough to repay it"
    )
    flag("compile", "auto", one_of("auto", "on", "off"), compile_help)
    timeout_help = "torchrun: seconds to wait for another rank, which may be writing a checkpoint"
    flag("timeout", 300, number(above=0, high=1e6), timeout_help)
    flag(
        "log",
        "files",
        one_of("files", "tensorboard"),
        "the files of a run, or curves for TensorBoard beside them",
    )
    flag("log_root", "runs", str, "folder of logs, metrics and plots")
    flag("checkpoint_dir", "checkpoints", str, "folder of checkpoints")
    flag(
        "save_every",
        None,
        whole(1),
        "epochs between checkpoints (default: so that they cost under 5 %% of the time)",
    )

    group("data")
    flag(
        "dataset",
        "demo",
        str,
        f"{', '.join(SUGGESTED)}, or the name of a folder in --data_dir; any case",
    )
    flag("data_dir", "datasets", str, "folder of the data sets")
    flag("no_download", False, None, "never fetch a data set that is absent")
    flag(
        "fold",
        None,
        number(1, 5, kind=int),
        "take the split u1, ..., u5 that comes with the data set, as ml-100k's",
    )
    tested = "share to test on, for one-file data sets (default: 0.2 of a user's interactions; 0.1 of ratings, of clicks)"
    flag("test_ratio", None, share, tested)
    flag(
        "valid_ratio",
        None,
        share,
        "share of the training part (of clicks: of all) to validate on (default: 0.1)",
    )
    flag("split_seed", 0, whole(0), "seed of these two random splits")

    flag(
        "threshold",
        1,
        whole(1),
        "clicks: values rarer than that in the training part share an id with unseen ones",
    )
    flag(
        "label",
        None,
        text,
        "clicks, of a table: column of 0 and 1 (default: label, click, clicked or target)",
    )
    columns = (
        "clicks, of a table: columns to take as they are (default: all that no other flag names)"
    )
    flag("categorical", None, text, columns, nargs="+")
    logs = "clicks, of a table: columns of numbers, x > 2 taken as floor(log(x)^2)"
    flag("numeric", None, text, logs, nargs="+")
    flag(
        "skip_bad_lines",
        False,
        None,
        "clicks: count broken lines and leave them out, instead of stopping",
    )

    group("model")
    rules = (
        "users moved by aggregation; both towers by backpropagation; baselines without gradients; metric learning; "
        "predicted ratings (SVD, SVDpp) and clicks (from LR on)"
    )
    flag("model", "OneBP", one_of(*MODELS), rules)
    flag(
        "encoder",
        "MF",
        one_of(*ENCODERS),
        "towers: tables of encodings, graph convolution, or layers over tables",
    )
    flag(
        "layers",
        2,
        whole(1),
        "LightGCN: propagations; MLP: linear layers of a tower; DCNv2: cross layers",
    )
    flag("hidden", [64, 64, 64], whole(1), "DeepFM, DCNv2: sizes of the hidden layers", nargs="+")
    flag("dim", 64, whole(1), "numbers per encoding")
    flag(
        "similarity",
        "dot",
        one_of("dot", "cosine"),
        "inner product of two encodings, or of their directions",
    )
    flag("beta", 0.99, number(0, 1), "OneBP: how much of a user's encoding stays in a move")
    repeats = "OneBP, for a user's repeats in a batch: one move to their mean, one after the other, or only the last"
    flag("aggregation", "mean", one_of("mean", "sequential", "last"), repeats)
    flag(
        "reg",
        1.0,
        number(0),
        "EASE, ALS: weight of the squared weights; SVD, SVDpp: of those of a rating",
    )
    flag(
        "margin",
        0.5,
        positive,
        "CML: how much nearer a positive shall be than a negative, in squared distance",
    )
    flag(
        "confidence",
        1.0,
        positive,
        "ALS: weight of a training interaction beside 1 of any other pair",
    )

    group("training")
    flag(
        "preset",
        "paper",
        one_of(*PRESETS),
        "values for all flags not given: the paper's, quicker or better ones; x4_001: BARS's for all of Criteo",
    )
    flag(
        "epochs",
        100,
        whole(1),
        "sweeps over the training interactions, those before a continuation included",
    )
    flag("batch_size", 1024, whole(1), "interactions per step")
    drawn = "negatives: uniform, by popularity, the hardest of some, the batch's other positives, or none"
    flag("sampler", "uniform", one_of(*SAMPLERS), drawn)
    flag("N", 5, whole(1), "negatives per interaction")
    flag(
        "alpha", 0.75, number(0, 10), "sampler popularity: power of an item's training interactions"
    )
    flag(
        "candidates",
        32,
        whole(1),
        "sampler dns: uniform items of which the N with the highest scores are kept",
    )
    flag("loss", "InfoNCE", one_of(*LOSSES), "what is made small")
    flag(
        "gamma", 1.0, number(0), "weight of the second term: BSL's negatives, DirectAU's uniformity"
    )
    flag("temperature", 1.0, positive, "what scores are divided by in the loss")
    flag("optimizer", "Adam", one_of("Adam", "SGD"), "how a gradient moves the weights")
    flag("lr", 1e-3, positive, "its learning rate")
    flag("l2", 0.0, number(0), "strength of --regularizer decay or l2")
    grid_help = "train once for each of these values of l2; the validation part chooses one"
    flag("l2_grid", None, number(0), grid_help, nargs="+")
    flag(
        "lr_schedule",
        "step",
        one_of("step", "cosine"),
        "decay by --lr_dc at --lr_dc_epoch, or to 0 along a cosine",
    )
    flag("lr_dc", 1.0, positive, "factor on the learning rate at each of --lr_dc_epoch")
    flag("lr_dc_epoch", [], whole(1), "epochs after which to decay, say 20 60 80", nargs="*")

    group("regularisation")
    kinds = "weight decay; the squares of the rows that a batch touches; these with strengths that tune themselves"
    flag("regularizer", "decay", one_of(*REGULARIZERS), kinds)
    own = "lambdaopt: what has strengths of its own, say dui for dimension+user+item"
    flag(
        "granularity", "dimension+user+item", one_of(*GRANULARITIES.values(), **GRANULARITIES), own
    )
    flag("lambda_lr", 1e-3, positive, "lambdaopt: learning rate of the strengths")
    flag(
        "lambda_interval",
        4,
        whole(1),
        "lambdaopt: training steps, from an epoch's first, per step of the strengths",
    )
    grad = "lambdaopt: take the gradient of the loss as a constant, or differentiate the whole step"
    flag("lambda_grad", "truncated", one_of("truncated", "full"), grad)
    flag("lambda_clip", 100.0, positive, "lambdaopt: largest norm of the gradient by the strengths")

    group("evaluation")
    flag(
        "select",
        "test",
        one_of("test", "valid"),
        "part that chooses the best epoch; the paper's protocol is test",
    )
    ranked = "of what: each user's list; pairs: also each (user, item) of the part, for the AUC, HR, NDCG of lambdaOpt"
    flag("ranking", "users", one_of(*RANKINGS), ranked)
    flag("eval_every", 1, whole(1), "epochs between evaluations")
    patience = "stop after so many evaluations without a better Recall@20 (pairs: NDCG@100), or RMSE (default: never)"
    flag("patience", None, whole(1), patience)
    refit = "then train anew on training and validation part, for as many epochs as the validation part chose"
    flag("refit", False, None, refit)

    group("stream of clicks (the test part, slot by slot, each learned from once it was predicted)")
    flag("slots", 10, whole(1), "parts of equal size that follow each other")
    flag("incremental", False, None, "also train the model on, one pass over each slot")
    flag("incremental_lr", None, positive, "its learning rate (default: --lr)")
    kept = "also correct predictions by the errors on similar examples: the nearest ones, or sums over hash buckets"
    flag("memory", "none", one_of(*MEMORIES), kept)
    flag(
        "memory_tune",
        False,
        None,
        "choose memory_key, _k, _tau and _lambda on the validation part, streamed likewise",
    )
    keys = "what makes examples similar: the embeddings of the fields' values, or the last hidden layer"
    flag("memory_key", "embedding", one_of("embedding", "hidden"), keys)
    flag("memory_k", 100, whole(1), "knn: nearest examples (100); lsh: arrays of buckets (32)")
    flag("memory_lambda", 0.3, number(0), "weight of the correction")
    flag("memory_tau", 0.1, positive, "temperature of the softmax over similarities")
    flag(
        "memory_gamma",
        1.0,
        number(0, 1),
        "1: the correction is towards the labels; 0: by the errors of similar ones",
    )
    flag("memory_bits", 12, number(1, 20, kind=int), "lsh: bits of a bucket's number")
    recent = (
        "latest examples that knn keeps, and that are remembered anew when the model was trained on"
    )
    flag("memory_size", 100_000, whole(1), recent)
    flag("memory_sigma", 0.0, number(0, 1), "remember only examples with a larger error")
    flag(
        "eval_file_name",
        None,
        folder_name,
        "file in the run's folder for a line per evaluation (clicks: auc.log)",
    )
    flag("loss_file_name", None, folder_name, "the same for the loss (clicks: loss.log)")

    group(
        "using a trained model (--mode evaluate, recommend, export; its flags come from its checkpoint)"
    )
    flag("checkpoint", "best", one_of("best", "last"), "the epoch to use")
    flag("users", None, text, "recommend: ids of users, separated by commas, or all")
    flag(
        "history",
        None,
        text,
        "recommend: a file of interactions of new users, in the order in which they happened",
    )
    flag(
        "passes",
        5,
        whole(1),
        "recommend: how often to go through --history, as training does once an epoch",
    )
    flag("topk", 10, whole(1), "recommend: items per user")
    flag(
        "keep_seen",
        False,
        None,
        "recommend: also items of the user's training interactions or history",
    )
    flag(
        "output",
        None,
        text,
        "recommend: file to write (default: the terminal); export: folder to write",
    )
    return parser
