"""Two-tower models, OneBP and TwoBP: their flags. The models themselves are in model.py."""

import regularizers.flags
from cli import launch
from cli.family import Family, Model
from cli.flags import Flag, number, one_of, positive, whole
from cli.registry import ENCODERS, LOSSES, OF_ALL_ITEMS, SAMPLERS, WITHOUT_NEGATIVES

HAS = frozenset({"gradients", "epochs", "dim", "pairs", "ranking", "personal", "lists", "updates"})

# The paper's values are in cli/shared_flags.py. docs/results.md says on which split those of the
# other presets were found.
# fast, best: on dense data against all items; on sparse data the many negatives that a batch has
# anyway, a sharp softmax over cosines, and popularity in the scores.
# cosine: large steps that shrink along a cosine need fewer epochs.
ALL_ITEMS = {"batch_size": 256, "lr": 0.05, "lr_schedule": "cosine", "dim": 256, "epochs": 60}
ALL_ITEMS |= {"l2": 0.0, "beta": 0.0}
_ELSA = {"loss": "ELSA", "sampler": "none", **ALL_ITEMS, "matmul_precision": "medium"}
_DENSE = {
    "100k": _ELSA | {"dim": 384, "dropout": 0.45},
    "1M": _ELSA | {"dim": 512, "dropout": 0.2, "epochs": 20},
}
_SPARSE = {"sampler": "inbatch", "similarity": "cosine", "beta": 0.99}
_SPARSE |= {"lr": 5e-3, "lr_schedule": "cosine"}
_SMALL = _SPARSE | {"dim": 64, "epochs": 10}
_LARGE = _SPARSE | {"dim": 256, "epochs": 15}
PRESETS = {
    "paper": {},
    "fast": {
        **_DENSE,
        "Gowalla": _SMALL | {"temperature": 0.07, "popularity_weight": 0.04},
        "Yelp2018": _SMALL | {"temperature": 0.1},
    },
    "best": {
        **_DENSE,
        "Gowalla": _LARGE | {"temperature": 0.06, "popularity_weight": 0.0258},
        "Yelp2018": _LARGE | {"temperature": 0.08},
    },
    "cosine": {"100k": {"lr": 2e-2, "lr_schedule": "cosine", "epochs": 50}},
}

# fmt: off
FLAGS = [
    Flag("preset", "paper", one_of(*PRESETS),
         help="values for flags not given: the paper's, or better ones"),
    Flag("encoder", "MF", one_of(*ENCODERS),
         help="towers: tables of encodings, graph convolution, or linear layers over tables"),
    Flag("layers", 2, whole(1), only={"encoder": ("LightGCN", "MLP")},
         help="LightGCN: propagations; MLP: linear layers of a tower"),
    Flag("similarity", "dot", one_of("dot", "cosine"),
         help="score of two encodings: inner product, or inner product of their directions"),
    Flag("beta", 0.99, number(0, 1),
         help="OneBP: weight of the old encoding in the moving aggregation"),
    Flag("aggregation", "mean", one_of("mean", "sequential", "last"),
         help="OneBP, for several items of a user in a batch: move towards their mean, towards one "
              "after the other, or towards the last only"),
    Flag("sampler", "uniform", one_of(*SAMPLERS),
         help="negatives: uniform, by popularity, the hardest of some, the batch's positives, or "
              "none"),
    Flag("N", 5, whole(1), only={"sampler": ("uniform", "popularity", "dns")},
         help="negatives per interaction"),
    Flag("alpha", 0.75, number(0, 10), only={"sampler": ("popularity",)},
         help="sampler popularity: exponent of an item's training interactions"),
    Flag("candidates", 32, whole(1), only={"sampler": ("dns",)},
         help="sampler dns: uniform items, of which the N with the highest scores are negatives"),
    Flag("loss", "InfoNCE", one_of(*LOSSES), help="training loss"),
    Flag("dropout", 0.5, number(0, 0.99), only={"loss": tuple(OF_ALL_ITEMS)},
         help="ELSA: share of a user's items that a step leaves out of the user's encoding"),
    Flag("matmul_precision", "highest", one_of("highest", "high", "medium"),
         only={"loss": tuple(OF_ALL_ITEMS)},
         help="ELSA: of the dense products; highest: float32; high: TF32 on a GPU; medium: "
              "bfloat16 where the machine has such products, several times faster there"),
    Flag("gamma", 1.0, number(0), only={"loss": ("BSL", "DirectAU")},
         help="weight of the second term of the loss: BSL's negatives, DirectAU's uniformity"),
    Flag("temperature", 1.0, positive, only={"loss": ("InfoNCE", "BPR", "BCE", "BSL")},
         help="softmax temperature: the loss divides scores by it"),
]
# fmt: on


def suggest(given):
    """Yield (origin, values) that flags bring along."""
    if given.get("loss") in WITHOUT_NEGATIVES:
        yield "default", {"sampler": "none"}
    if given.get("loss") in OF_ALL_ITEMS:
        yield f"suggested for {given['loss']}", ALL_ITEMS
    yield from regularizers.flags.suggest(given)


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.sampler == "none" and args.loss not in WITHOUT_NEGATIVES:
        yield f"--loss {args.loss} needs negatives: give another --sampler than none"
    if args.loss in WITHOUT_NEGATIVES and args.sampler != "none":
        yield f"--loss {args.loss} has no negatives: leave --sampler {args.sampler} out"
    if args.loss in OF_ALL_ITEMS:
        yield from contradictions_of_all_items(args, given)
    if args.sampler == "inbatch" and args.loss in ("BPR", "BCE"):
        yield (
            f"--sampler inbatch corrects a softmax, which --loss {args.loss} is not; "
            "take InfoNCE or BSL"
        )
    if args.sampler == "dns" and args.candidates < args.N:
        yield (
            f"--sampler dns keeps --N {args.N} of the candidates, "
            f"so --candidates {args.candidates} is too few"
        )
    if args.train_mode == "update":
        for flag, only in {"encoder": ("MF",), "regularizer": ("decay", "l2")}.items():
            if getattr(args, flag) not in only:
                yield (
                    f"--train_mode update is for --{flag} {' or '.join(only)}: train anew with "
                    f"--{flag} {getattr(args, flag)}"
                )
    yield from regularizers.flags.contradictions(args, given)


def contradictions_of_all_items(args, given):
    """Yield lines about flags that do nothing, or make no sense, for a loss over all items."""
    loss = f"--loss {args.loss}"
    moved = ("similarity", "aggregation", *(["beta"] if args.model == "TwoBP" else []))
    for flag in moved:
        if flag in given:
            yield f"{loss} makes users of the sums of their items: leave --{flag} out"
    if args.encoder != "MF":
        yield f"{loss} is for --encoder MF: leave --encoder {args.encoder} out"
    if args.regularizer != "decay":
        yield f"{loss} moves all items in a step: take --l2, not --regularizer {args.regularizer}"


def one_process(args):
    """Yield the choices that cannot be divided among processes: they look at all users together."""
    whole_only = {
        "encoder": ["LightGCN"],
        "loss": ["DirectAU"],
        "regularizer": ["lambdaopt"],
    }
    for flag, values in whole_only.items():
        if getattr(args, flag) in values:
            yield f"--{flag} {getattr(args, flag)}"


def load_data(args):
    """The interactions of the data set that `args` name."""
    from dataloader import load_interactions

    return load_interactions(args, ratings=False)


# Items that a sampler draws for each interaction: the flag that says how many.
DRAWN = {"uniform": "N", "popularity": "N", "dns": "candidates"}


def memory(args, data, compiles):
    """Bytes of a batch, see Family: of its encodings (4 each number), of the items drawn (8)."""
    if args.loss in OF_ALL_ITEMS:
        users, items = data.shape
        sums = 2 * min(args.batch_size, users)  # of the items kept, of the others; their gradients
        own = items // launch.world_size()
        return {"a batch": 8 * sums * args.dim, "rows of length 1": 4 * own * args.dim}
    size = min(args.batch_size, (data.update.new if data.update else data.train).nnz)
    drawn = getattr(args, DRAWN[args.sampler]) if args.sampler in DRAWN else 0
    # The encodings of all items, and their products with the users'.
    encodings = 0 if compiles else 8 * size * (1 + drawn) * args.dim
    # In-batch, the score of each item for each user, and its offset.
    scores = 8 * size**2 if args.sampler == "inbatch" else 0
    return {"a batch": 8 * size * drawn + encodings + scores}


FAMILY = Family(
    title="two-tower models: OneBP moves the users, TwoBP trains both towers",
    models={
        name: Model(
            f"model:{name}",
            HAS,
            named_after=("encoder",),
            instead={"loss": dict.fromkeys(OF_ALL_ITEMS, f"families.all_items:{name}")},
        )
        for name in ("OneBP", "TwoBP")
    },
    load_data=load_data,
    sections={"two-tower models": FLAGS, "regularization": regularizers.flags.FLAGS},
    suggest=suggest,
    presets=PRESETS,
    contradictions=contradictions,
    one_process=one_process,
    memory=memory,
)
