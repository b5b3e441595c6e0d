"""The flags of every run, and the data sets with suggested values. Loads without torch."""

import os

from cli.flags import Flag, folder_name, number, one_of, positive, share, whole
from cli.registry import RANKINGS

# Data sets with suggested values. 100k to Yelp2018: from the README of the paper's repository,
# epochs from its example commands. Those of demo are this project's.
DATASETS = {
    "demo": {
        "batch_size": 1024,
        "l2": 3e-5,
        "lr": 5e-3,
        "dim": 32,
        "beta": 0.99,
        "N": 5,
        "epochs": 40,
    },
    "100k": {
        "batch_size": 1024,
        "l2": 1e-5,
        "lr": 5e-4,
        "dim": 32,
        "beta": 0.99,
        "N": 5,
        "epochs": 2000,
    },
    "1M": {
        "batch_size": 1024,
        "l2": 1e-6,
        "lr": 1e-3,
        "dim": 128,
        "beta": 0.99,
        "N": 5,
        "epochs": 200,
    },
    "Gowalla": {"batch_size": 1024, "l2": 0.0, "lr": 5e-4, "dim": 1024, "beta": 0.999, "N": 5},
    "Yelp2018": {"batch_size": 1024, "l2": 0.0, "lr": 5e-5, "dim": 2048, "beta": 0.999, "N": 5},
    "ml-100k": {},
    "ml-1m": {},
}

RUN = [
    Flag(
        "mode",
        "train",
        one_of("train", "evaluate", "recommend", "export"),
        "train a model, or use the checkpoint of one, see below",
        decides="nothing",
    ),
    Flag(
        "train_mode",
        "new",
        one_of("new", "continue", new_train="new", continue_train="continue"),
        "start afresh, or go on from the last checkpoint",
        decides="nothing",
    ),
    Flag(
        "run_name",
        None,
        folder_name,
        "name of the run's folders (default: <dataset>[-u<fold>]-<model>[-<encoder>])",
        decides="nothing",
    ),
    Flag("seed", 2022, whole(0), "seed of initialisation, order and negatives"),
    Flag(
        "device",
        "auto",
        str,
        "auto (the GPU when there is one), cpu, cuda, or cuda:<number>",
        decides="run",
        local=True,
    ),
    Flag(
        "threads",
        1,
        number(1, os.cpu_count(), kind=int),
        "CPU threads of a training step; evaluation takes all, or OMP_NUM_THREADS",
        needs="epochs",
        decides="run",
        local=True,
    ),
    Flag(
        "compile",
        "auto",
        one_of("auto", "on", "off"),
        "translate the training step to machine code; auto: if the run is long enough to repay it",
        needs="gradients",
    ),
    Flag(
        "timeout",
        300,
        number(above=0, high=1e6),
        "torchrun: seconds to wait for another process, which may be writing a checkpoint",
        decides="nothing",
        local=True,
    ),
    Flag(
        "log",
        "files",
        one_of("files", "tensorboard"),
        "the files of a run, or curves for TensorBoard beside them",
        decides="nothing",
    ),
    Flag(
        "log_root", "runs", str, "folder of logs, metrics and plots", decides="nothing", local=True
    ),
    Flag(
        "checkpoint_dir", "checkpoints", str, "folder of checkpoints", decides="nothing", local=True
    ),
    Flag(
        "save_every",
        None,
        whole(1),
        "epochs between checkpoints (default: so that they cost under 5 %% of the time)",
        decides="nothing",
    ),
]
DATA = [
    Flag(
        "dataset",
        "demo",
        str,
        f"{', '.join(DATASETS)}, or the name of a folder in --data_dir; any case",
        loads=True,
    ),
    Flag(
        "data_dir",
        "datasets",
        str,
        "folder of the data sets",
        decides="nothing",
        loads=True,
        local=True,
    ),
    Flag(
        "no_download",
        False,
        None,
        "never fetch a data set that is absent",
        decides="nothing",
        local=True,
    ),
    Flag(
        "fold",
        None,
        number(1, 5, kind=int),
        "take the split u1, ..., u5 that comes with the data set, as ml-100k's",
        needs="pairs",
        loads=True,
    ),
    Flag(
        "test_ratio",
        None,
        share,
        "share to test on, for data sets of one file "
        "(default: 0.2 of a user's interactions; 0.1 of ratings, of clicks)",
        loads=True,
    ),
    Flag(
        "valid_ratio",
        None,
        share,
        "share of the training split (of clicks: of all) to validate on (default: 0.1)",
        loads=True,
    ),
    Flag("split_seed", 0, whole(0), "seed of these two random splits", needs="pairs", loads=True),
]
TRAINING = [
    Flag("dim", 64, whole(1), "numbers per encoding", needs="dim"),
    Flag(
        "epochs",
        100,
        whole(1),
        "sweeps over the training interactions, those before a continuation included",
        needs="epochs",
        decides="run",
    ),
    Flag("batch_size", 1024, whole(1), "interactions per step", needs="gradients"),
    Flag("optimizer", "Adam", one_of("Adam", "SGD"), "optimizer of the weights", needs="gradients"),
    Flag("lr", 1e-3, positive, "learning rate", needs="gradients"),
    Flag(
        "l2",
        0.0,
        number(0),
        "strength of the weight decay, or of the L2 penalty",
        needs="gradients",
        only={"regularizer": ("decay", "l2")},
    ),
    Flag(
        "l2_grid",
        None,
        number(0),
        "train once for each of these values of l2; the validation split chooses one",
        needs="gradients",
        only={"regularizer": ("decay", "l2")},
        decides="nothing",
        nargs="+",
    ),
    Flag(
        "lr_schedule",
        "step",
        one_of("step", "cosine"),
        "decay by --lr_dc at --lr_dc_epoch, or to 0 along a cosine",
        needs="gradients",
    ),
    Flag(
        "lr_dc",
        1.0,
        positive,
        "factor on the learning rate at each of --lr_dc_epoch",
        needs="gradients",
    ),
    Flag(
        "lr_dc_epoch",
        [],
        whole(1),
        "epochs after which to decay, say 20 60 80",
        needs="gradients",
        nargs="*",
    ),
]
EVALUATION = [
    Flag(
        "select",
        "test",
        one_of("test", "valid"),
        "split that chooses the best epoch; the paper's protocol is test",
        loads=True,
    ),
    Flag(
        "ranking",
        "users",
        one_of(*RANKINGS),
        "metrics of each user's list; pairs: also of each (user, item) pair, as lambdaOpt's paper",
        needs="ranking",
        only={"mode": ("train", "evaluate")},
    ),
    Flag("eval_every", 1, whole(1), "epochs between evaluations", decides="run"),
    Flag(
        "patience",
        None,
        whole(1),
        "stop after this many evaluations without a better result (default: never)",
        decides="run",
    ),
    Flag(
        "refit",
        False,
        None,
        "then train anew on training and validation split, for as many epochs as validation chose",
        needs="pairs",
        decides="nothing",
    ),
]
