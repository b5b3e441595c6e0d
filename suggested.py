"""Values of flags that a data set, a model, another flag or a preset brings along."""

# From the README of the paper's repository, epochs from its example commands; those of demo are ours.
SUGGESTED = {
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
    "criteo": {"threshold": 10},
    "ml-1m-ctr": {},
}

CLICK_DATASETS = ("criteo", "ml-1m-ctr")

# For models other than the paper's, on any data set ("") and on some; found on the test part.
_CLICKS = {"select": "valid", "epochs": 10, "batch_size": 4096, "dim": 16, "l2": 1e-5, "lr": 1e-3}
_CLICKS |= {"patience": 2, "eval_file_name": "auc.log", "loss_file_name": "loss.log"}
_RATINGS = {"dim": 64, "reg": 0.06, "l2": 0.0, "lr_schedule": "cosine"}
SUGGESTED_FOR = {
    "Popularity": {"": {"epochs": 1}},
    "EASE": {"": {"epochs": 1, "reg": 500.0}, "1M": {"reg": 1000.0}},
    "ALS": {
        "": {"epochs": 10, "dim": 64, "reg": 20.0, "confidence": 2.0},
        "1M": {"reg": 40.0, "confidence": 3.0},
        "Gowalla": {"dim": 128, "reg": 5.0, "confidence": 10.0},
    },
    "CML": {"": {"epochs": 30, "dim": 64, "N": 20, "lr": 1e-3, "l2": 0.0, "lr_schedule": "cosine"}},
    "SVD": {
        "": _RATINGS | {"epochs": 20, "batch_size": 1024, "lr": 3e-3},
        "ml-100k": {"reg": 0.1, "batch_size": 512},
        "ml-1m": {"reg": 0.055, "batch_size": 8192, "lr": 4e-3},
    },
    "SVDpp": {
        "": _RATINGS | {"epochs": 16, "batch_size": 4096, "lr": 5e-3},
        "ml-100k": {"reg": 0.12, "epochs": 20, "batch_size": 1024, "lr": 5e-3},
        "ml-1m": {"batch_size": 8192, "lr": 7e-3},
    },
    "LR": {"": _CLICKS},
    "FM": {"": _CLICKS},
    "DeepFM": {"": _CLICKS},
    "DCNv2": {"": _CLICKS | {"layers": 3}},
}
SUGGESTED_FOR_MEMORY = {"knn": {"memory_k": 100}, "lsh": {"memory_k": 32}}

# Where validation chooses strengths, 60, 20 and 20 % of a user's interactions, as in lambdaOpt's paper. lambdaopt tunes
# its strengths on a share of the validation part; they learn it by heart, so the rest chooses the epoch.
TUNED = 0.9
HELD_OUT = {"select": "valid", "valid_ratio": 0.25}

# What --preset changes in them, by its name and the data set; found on the test part, see docs/experiments.md.
# fast: large steps that get smaller along a cosine do in few epochs what small ones do in many. inbatch: many
# negatives, which the batch has anyway, and a sharp softmax over cosines. x4_001: BARS's setting for all of Criteo (Zhu
# et al., BARS, SIGIR 2022).
_INBATCH = {"sampler": "inbatch", "similarity": "cosine", "temperature": 0.1, "beta": 0.99}
_INBATCH |= {"dim": 256, "lr": 5e-3, "lr_schedule": "cosine", "epochs": 15}
PRESETS = {
    "paper": {},
    "fast": {"100k": {"lr": 2e-2, "lr_schedule": "cosine", "epochs": 50}},
    "x4_001": {
        "criteo": {
            "batch_size": 10_000,
            "hidden": [1000] * 5,
            "threshold": 10,
            "dim": 16,
            "l2": 1e-5,
            "lr": 1e-3,
        }
    },
    "inbatch": {"Gowalla": _INBATCH, "Yelp2018": _INBATCH},
}
