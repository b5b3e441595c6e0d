"""The flags of every run, and the data sets with suggested values. Loads without torch."""

import os

from cli.flags import (
    Flag,
    moment,
    number,
    one_of,
    or_auto,
    plain_name,
    positive,
    share,
    text,
    whole,
)
from cli.registry import FORMATS, RANKINGS, SEPARATORS

# Separators may also be given as signs.
SIGNS = {sign: word for word, sign in SEPARATORS.items()} | {"\\t": "tab"}

# Data sets with suggested values. 100k to Yelp2018: from the README of the paper's repository,
# epochs from its example commands. Those of demo are this project's.
# fmt: off
DATASETS = {
    "demo": {"batch_size": 1024, "l2": 3e-5, "lr": 5e-3, "dim": 32, "beta": 0.99, "N": 5,
             "epochs": 40},
    "100k": {"batch_size": 1024, "l2": 1e-5, "lr": 5e-4, "dim": 32, "beta": 0.99, "N": 5,
             "epochs": 2000},
    "1M": {"batch_size": 1024, "l2": 1e-6, "lr": 1e-3, "dim": 128, "beta": 0.99, "N": 5,
           "epochs": 200},
    "Gowalla": {"batch_size": 1024, "l2": 0.0, "lr": 5e-4, "dim": 1024, "beta": 0.999, "N": 5},
    "Yelp2018": {"batch_size": 1024, "l2": 0.0, "lr": 5e-5, "dim": 2048, "beta": 0.999, "N": 5},
    "ml-100k": {},
    "ml-1m": {},
    "ml-10m": {},
    "ml-20m": {},
    "ml-25m": {},
    "ml-32m": {},
    "ml-latest-small": {},
}

# Of --train_mode update, see docs/training.md.
UPDATE = {"epochs": 10, "lr_schedule": "step", "lr_dc": 1.0, "lr_dc_epoch": []}
FOR_UPDATE = "suggested for an update"

WITH_FILE = {"mode": ("train", "describe", "split")}  # of flags
RUN = [
    Flag("mode", "train", one_of("train", "describe", "split", "evaluate", "recommend", "export"),
         decides="nothing",
         help="train a model; describe the data, or write their splits for other programs; or use "
              "the checkpoint of a model, see below"),
    Flag("train_mode", "new",
         one_of("new", "continue", "update", new_train="new", continue_train="continue"),
         decides="nothing",
         help="start afresh; go on from the last checkpoint; or learn, in a run of its own, what "
              "the data set of a trained run has gained"),
    Flag("update_from", None, text, needs="updates", only={"train_mode": ("update",)},
         decides="nothing", nargs="+",
         help="update: files of new interactions; without it the data set's own files have grown"),
    Flag("replay", 0.2, number(0), needs="updates", only={"train_mode": ("update", "continue")},
         help="update: old interactions in each batch, for each new one"),
    Flag("run_name", None, plain_name, decides="nothing",
         help="name of the run's folders (default: <dataset>[-u<fold>]-<model>[-<encoder>])"),
    Flag("config", None, text, only=WITH_FILE, decides="nothing", local=True,
         help="a file of flags, as flags.toml of a run; the command line wins"),
    Flag("like", None, text, only=WITH_FILE, decides="nothing", local=True,
         help="a run whose flags to take: its name in --log_root, or its folder with a slash"),
    Flag("seed", 2022, whole(0), help="seed of initialization, order and negatives"),
    Flag("device", "auto", str, decides="run", local=True,
         help="auto (the GPU when there is one), cpu, cuda, or cuda:<number>"),
    Flag("threads", 1, number(1, os.cpu_count(), kind=int),
         needs="epochs", decides="run", local=True,
         help="CPU threads of a training step; evaluation takes all, or OMP_NUM_THREADS"),
    Flag("compile", "auto", one_of("auto", "on", "off"), needs="gradients",
         help="translate the training step to machine code; auto: if the run is long enough to "
              "repay it"),
    Flag("timeout", 300, number(above=0, high=1e6), decides="nothing", local=True,
         help="torchrun: seconds to wait for another process, which may be writing a checkpoint"),
    Flag("log", "files", one_of("files", "tensorboard", "wandb", "mlflow"), decides="nothing",
         help="the files of a run; or also curves, flags and figures for such a program"),
    Flag("log_root", "runs", str, decides="nothing", local=True,
         help="folder of logs, metrics and plots"),
    Flag("checkpoint_dir", "checkpoints", str, decides="nothing", local=True,
         help="folder of checkpoints"),
    Flag("save_every", None, whole(1), decides="nothing",
         help="epochs between checkpoints (default: so that they cost under 5 %% of the time)"),
]

DATA = [
    Flag("dataset", "demo", str, loads=True, help="name of a data set"),
    Flag("data_dir", "datasets", str, decides="nothing", loads=True, local=True,
         help="folder of the data sets"),
    Flag("no_download", False, None, decides="nothing", local=True,
         help="never fetch a data set that is absent"),
    Flag("format", None, one_of(*FORMATS), loads=True,
         help="what files are, if their content can be read in two ways: csv: quotation marks "
              "enclose fields; table: they are letters; json: an object a line; lightgcn: lines of "
              "a user and its items; counted: lines of a number of items and these items"),
    Flag("separator", None, one_of(*SEPARATORS, **SIGNS), loads=True,
         help="between two fields of a table (default: recognised)"),
    Flag("user_column", None, text, loads=True,
         help="column of users: its name, or its number from 1 (default: recognised)"),
    Flag("item_column", None, text, needs="pairs", loads=True, help="column of items, likewise"),
    Flag("rating_column", None, text, needs="pairs", loads=True,
         help="column of ratings, likewise"),
    Flag("time_column", None, text, needs="pairs", loads=True, help="column of times, likewise"),
    Flag("min_rating", None, number(), needs="ranking", loads=True,
         help="a positive is a rating of at least this (default: every row is one)"),
    Flag("min_user_interactions", 1, whole(1), needs="pairs", loads=True,
         help="leave out users with fewer, until all users and items have enough (k-core)"),
    Flag("min_item_interactions", 1, whole(1), needs="pairs", loads=True,
         help="leave out items with fewer, likewise"),
    Flag("repeats", "last", one_of("last", "first", "all"), needs="pairs", loads=True,
         help="of a pair that occurs more than once, keep the last or the first by time (by the "
              "file's order without times), or all, which the split may divide"),
    Flag("overlap", "refuse", one_of("refuse", "drop"), needs="pairs", loads=True,
         help="pairs in both train and test: refuse the data, or leave them out of test"),
    Flag("split", "random", one_of("random", "last", "time"), needs="pairs", loads=True,
         help="hold out interactions at random, the last of each user, or all from a time on"),
    Flag("test_last", 1, whole(1), needs="pairs", only={"split": ("last",)}, loads=True,
         help="split last: interactions of each user to test on, and to validate on"),
    Flag("test_from", None, moment, needs="pairs", only={"split": ("time",)}, loads=True,
         help="split time: test on all from this time on (default: the latest --test_ratio)"),
    Flag("cold_users", "keep", one_of("keep", "drop"), needs="pairs", loads=True,
         help="users that training does not know: keep them, or leave them out"),
    Flag("cold_items", "keep", one_of("keep", "drop"), needs="pairs", loads=True,
         help="items that training does not know: keep them as candidates, or leave them out"),
    Flag("fold", None, number(1, 5, kind=int), needs="pairs", loads=True,
         help="take the split u1, ..., u5 that comes with the data set, as ml-100k's"),
    Flag("test_ratio", None, share, loads=True,
         help="share to test on, for data sets of one file "
              "(default: 0.2 of a user's interactions, or of all by time; 0.1 of ratings, of "
              "clicks)"),
    Flag("valid_ratio", None, share, loads=True,
         help="share of the training split (of clicks: of all) to validate on (default: 0.1)"),
    Flag("split_seed", 0, whole(0), needs="pairs", loads=True,
         help="seed of these two random splits"),
]

TRAINING = [
    Flag("dim", 64, whole(1), needs="dim", help="numbers per encoding"),
    Flag("epochs", 100, whole(1), needs="epochs", decides="run",
         help="sweeps over the training interactions, those before a continuation included"),
    Flag("batch_size", 1024, whole(1), needs="gradients", help="interactions per step"),
    Flag("optimizer", "Adam", one_of("Adam", "SGD"), needs="gradients",
         help="optimizer of the weights"),
    Flag("lr", 1e-3, positive, needs="gradients", help="learning rate"),
    Flag("l2", 0.0, number(0), needs="gradients", only={"regularizer": ("decay", "l2")},
         help="strength of the weight decay, or of the L2 penalty"),
    Flag("l2_grid", None, number(0),
         needs="gradients", only={"regularizer": ("decay", "l2")}, decides="nothing", nargs="+",
         help="train once for each of these values of l2; the validation split chooses one"),
    Flag("lr_schedule", "step", one_of("step", "cosine"), needs="gradients",
         help="decay by --lr_dc at --lr_dc_epoch, or to 0 along a cosine"),
    Flag("lr_dc", 1.0, positive, needs="gradients",
         help="factor on the learning rate at each of --lr_dc_epoch"),
    Flag("lr_dc_epoch", [], whole(1), needs="gradients", nargs="*",
         help="epochs after which to decay, say 20 60 80"),
]

EVALUATION = [
    Flag("select", "test", one_of("test", "valid"), loads=True,
         help="split that chooses the best epoch; the paper's protocol is test"),
    Flag("ranking", "users", one_of(*RANKINGS),
         needs="ranking", only={"mode": ("train", "evaluate")}, decides="evaluation",
         help="metrics of each user's list; pairs: also of each (user, item) pair, as "
              "lambdaOpt's paper"),
    Flag("popularity_weight", 0.0, or_auto(number()), needs="personal", decides="evaluation",
         help="k: add k log n to a score, n the item's training interactions; auto: the best on "
              "the validation split, for each epoch"),
    Flag("eval_every", 1, whole(1), decides="run", help="epochs between evaluations"),
    Flag("patience", None, whole(1), needs="epochs", decides="run",
         help="stop after this many evaluations without a better result (default: never)"),
    Flag("refit", False, None, needs="pairs", decides="nothing",
         help="then train anew on training and validation split, for as many epochs as "
              "validation chose"),
]
# fmt: on


def contradictions(args, given):
    """Yield lines about flags of every run that contradict each other."""
    if args.fold is not None and args.test_ratio is not None:
        yield "--fold names a split that is made already: leave --test_ratio out"
    if args.train_mode == "update" and (args.refit or args.l2_grid):
        yield "--train_mode update trains once: leave --refit and --l2_grid out"
    if args.l2_grid:
        if len({float(f"{strength:g}") for strength in args.l2_grid}) < len(args.l2_grid):
            yield "--l2_grid has a strength twice (six digits count)"
        if "l2" in given:
            yield "--l2 is one of --l2_grid: leave --l2 out"
        if args.select != "valid":
            yield f"--l2_grid chooses on the validation split: leave --select {args.select} out"
        if args.refit:
            yield "--refit does nothing with --l2_grid; train the chosen strength with it, by --l2"
    if args.split == "last":
        for flag in given.keys() & {"test_ratio", "valid_ratio"}:
            yield f"--{flag} does nothing with --split last; --test_last says how many are held out"
    if args.test_from is not None and args.test_ratio is not None:
        yield "--test_from says which interactions are the test split: leave --test_ratio out"
    if args.repeats == "all" and args.split == "random" and args.overlap == "refuse":
        yield "--repeats all may put a pair into both splits: say --overlap drop"
    if args.valid_ratio is not None and not args.validates:
        yield "--valid_ratio needs --select valid"
    if args.refit and args.select != "valid":
        yield "--refit needs --select valid, which chooses the number of epochs"
    if args.lr_schedule == "cosine" and (args.lr_dc != 1 or args.lr_dc_epoch):
        origin = args.origin["lr_schedule"]
        yield f"--lr_dc and --lr_dc_epoch need --lr_schedule step; here it is cosine ({origin})"
    if args.lr_dc != 1 and not args.lr_dc_epoch:
        yield "--lr_dc needs --lr_dc_epoch, the epochs after which to decay"
    if args.lr_dc_epoch and args.lr_dc == 1 and "lr_dc" not in given:
        yield "--lr_dc_epoch needs --lr_dc, the factor"
