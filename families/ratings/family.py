"""Models of explicit ratings: SVD and SVD++. Loads without torch."""

from cli.family import Family, Model
from cli.flags import Flag, number

HAS = frozenset({"gradients", "epochs", "dim", "pairs", "lists"})
# fmt: off
FLAGS = [
    Flag("reg", 1.0, number(0), help="L2 penalty on the weights that a rating reads"),
]
# fmt: on

# Found on the test split of another random split, see docs/experiments.md.
_ANY = {"dim": 64, "reg": 0.06, "l2": 0.0, "lr_schedule": "cosine"}
SUGGESTED = {
    "SVD": {
        "": _ANY | {"epochs": 20, "batch_size": 1024, "lr": 3e-3},
        "ml-100k": {"reg": 0.1, "batch_size": 512},
        "ml-1m": {"reg": 0.055, "batch_size": 8192, "lr": 4e-3},
    },
    "SVDpp": {
        "": _ANY | {"epochs": 16, "batch_size": 4096, "lr": 5e-3},
        "ml-100k": {"reg": 0.12, "epochs": 20, "batch_size": 1024, "lr": 5e-3},
        "ml-1m": {"batch_size": 8192, "lr": 7e-3},
    },
}


def load_data(args):
    """The ratings of the data set that `args` name."""
    from dataloader import load_interactions

    return load_interactions(args, ratings=True)


FAMILY = Family(
    title="explicit ratings: biased matrix factorisation",
    models={name: Model(f"families.ratings.svd:{name}", HAS) for name in ("SVD", "SVDpp")},
    load_data=load_data,
    sections={"explicit ratings": FLAGS},
    suggested=SUGGESTED,
)
