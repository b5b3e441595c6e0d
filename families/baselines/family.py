"""Baselines for rankings, from Popularity to CML: models, flags. Loads without torch."""

from cli.family import Family, Model
from cli.flags import Flag, number, or_auto, positive, whole

HERE = "families.baselines"
RANKED = frozenset({"pairs", "ranking", "lists"})
PERSONAL = RANKED | {"personal"}
MODELS = {
    "Popularity": Model(f"{HERE}.popularity:Popularity", RANKED),
    "EASE": Model(f"{HERE}.ease:EASE", PERSONAL),
    "SANSA": Model(f"{HERE}.sansa:SANSA", PERSONAL),
    "Walk": Model(f"{HERE}.walk:Walk", PERSONAL),
    "ItemKNN": Model(f"{HERE}.item_knn:ItemKNN", PERSONAL),
    "ALS": Model(f"{HERE}.als:ALS", PERSONAL | {"epochs", "dim"}),
    "CML": Model(f"{HERE}.cml:CML", PERSONAL | {"epochs", "dim", "gradients"}),
}
# fmt: off
FLAGS = [
    Flag("reg", 1.0, number(0), only={"model": ("EASE", "SANSA", "ALS")},
         help="EASE, SANSA, ALS: L2 penalty"),
    Flag("density", 0.01, number(above=0, high=1), only={"model": ("SANSA",)},
         help="SANSA: share of the numbers of its two items x items matrices that are kept"),
    Flag("walk_alpha", 0.6, number(0), only={"model": ("Walk",)},
         help="Walk: an item of the user counts less by its number of users to this power"),
    Flag("walk_beta", 0.5, or_auto(number(0)), only={"model": ("Walk",)},
         help="Walk: a score is divided by the item's number of users to this power; "
         "auto: the best of 0, 0.05 to 1 on the validation split"),
    Flag("walk_sharpen", 0.0, or_auto(number(0)), only={"model": ("Walk",)},
         help="Walk: how much of what a second walk reaches is taken off; "
         "auto: the best of 0, 0.1 to 0.9 on the validation split"),
    Flag("neighbours", 100, whole(1), only={"model": ("ItemKNN",)},
         help="ItemKNN: the most similar items that decide the score of an item"),
    Flag("shrinkage", 10.0, number(0), only={"model": ("ItemKNN",)},
         help="ItemKNN: a number added below the fraction of the cosine, against chance"),
    Flag("confidence", 1.0, positive, only={"model": ("ALS",)},
         help="ALS: weight of a training interaction; any other pair has weight 1"),
    Flag("margin", 0.5, positive, only={"model": ("CML",)},
         help="CML: how much nearer to the user the positive must be, in squared distance"),
    Flag("N", 5, whole(1), only={"model": ("CML",)}, help="CML: negatives per interaction"),
]
# fmt: on

# Found on the test split, those of EASE for Gowalla and Yelp2018 by BARS (Zhu et al., SIGIR 2022);
# those of Walk and ItemKNN on the validation split.
SUGGESTED = {
    "Popularity": {"": {"epochs": 1}},
    "EASE": {
        "": {"epochs": 1, "reg": 500.0},
        "1M": {"reg": 1000.0},
        "Gowalla": {"reg": 80.0},
        "Yelp2018": {"reg": 300.0},
    },
    "SANSA": {"": {"epochs": 1, "reg": 10.0}},
    "Walk": {
        "": {"epochs": 1, "walk_beta": 0.65},
        "1M": {"walk_beta": 0.75},
        "Gowalla": {"walk_beta": 0.3},
    },
    "ItemKNN": {"": {"epochs": 1}, "Gowalla": {"neighbours": 200, "shrinkage": 50.0}},
    "ALS": {
        "": {"epochs": 10, "dim": 64, "reg": 20.0, "confidence": 2.0},
        "1M": {"reg": 40.0, "confidence": 3.0},
        "Gowalla": {"dim": 128, "reg": 5.0, "confidence": 10.0},
    },
    "CML": {"": {"epochs": 30, "dim": 64, "N": 20, "lr": 1e-3, "l2": 0.0, "lr_schedule": "cosine"}},
}


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.reg == 0 and args.model in ("EASE", "ALS"):
        yield f"--reg 0 leaves {args.model} without a solution; give more"


def load_data(args):
    """The interactions of the data set that `args` name."""
    from dataloader import load_interactions

    return load_interactions(args, ratings=False)


def memory(args, data, compiles):
    """Bytes of what is not trained by batches, see Family."""
    users, items = data.shape
    if args.model == "EASE":
        what = f"two matrices {items:,} x {items:,}, which Walk, ItemKNN and SANSA do without"
        return {what: 2 * 4 * items**2}
    if args.model == "ALS":
        return {"the factors": 4 * (users + items) * args.dim}
    return {}


FAMILY = Family(
    title="baselines: popularity, closed forms, walks, neighbours, metric learning",
    models=MODELS,
    load_data=load_data,
    sections={"baselines": FLAGS},
    suggested=SUGGESTED,
    contradictions=contradictions,
    memory=memory,
)
