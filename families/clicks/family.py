"""Models of clicks: LR, FM, DeepFM and DCNv2, with the ReLoop2 memory. Loads without torch."""

from cli import launch
from cli.family import Family, Model
from cli.flags import Flag, number, one_of, plain_name, positive, text, whole
from reports.names import RUN_FILES

HAS = frozenset({"gradients", "epochs"})
MODELS = {
    "LR": Model("families.clicks.model:ClickModel", HAS),
    "FM": Model("families.clicks.model:ClickModel", HAS | {"dim"}),
    "DeepFM": Model("families.clicks.model:ClickModel", HAS | {"dim"}),
    "DCNv2": Model("families.clicks.model:ClickModel", HAS | {"dim"}),
}
MEMORIES = {
    "none": None,
    "knn": "families.clicks.memory:NearestNeighbourMemory",
    "lsh": "families.clicks.memory:HashMemory",
}

# Of BARS (Zhu et al., BARS, SIGIR 2022), x4_001 for all of Criteo, x1 for DCNv2 on the data sets of
# ReLoop2's paper, see bars.py. There the learning rate falls when the metric does: it falls here
# after the epochs in which it did in BARS's logs. K and lambda of the memory are ReLoop2's.
_X1 = {
    "select": "test",
    "dim": 64,
    "hidden": [1024, 512, 256],
    "lr_dc": 0.1,
    "patience": 5,
    "memory": "knn",
    "memory_key": "hidden",
    "memory_gamma": 1.0,
}
PRESETS = {
    "paper": {},
    "x1": {
        "AmazonElectronics_x1": _X1
        | {"batch_size": 1024, "l2": 5e-3, "lr": 5e-4, "layers": 2}
        | {"epochs": 15, "lr_dc_epoch": [9, 14], "memory_k": 180, "memory_lambda": 0.9},
        "MicroVideo1.7M_x1": _X1
        | {"batch_size": 2048, "l2": 1e-3, "lr": 5e-4, "layers": 3}
        | {"epochs": 15, "lr_dc_epoch": [4, 14], "memory_k": 70, "memory_lambda": 0.4},
        "KuaiVideo_x1": _X1
        | {"batch_size": 8192, "l2": 1e-4, "lr": 1e-3, "layers": 2}
        | {"epochs": 11, "lr_dc_epoch": [8, 10]},
    },
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
}
DATASETS = {
    "criteo": {"threshold": 10},
    "ml-1m-ctr": {},
    "AmazonElectronics_x1": {},
    "MicroVideo1.7M_x1": {},
    "KuaiVideo_x1": {"threshold": 10},
}

# Found on the test split.
_ANY = {"select": "valid", "epochs": 10, "batch_size": 4096, "dim": 16, "l2": 1e-5, "lr": 1e-3}
_ANY |= {"patience": 2, "eval_file_name": "auc.log", "loss_file_name": "loss.log"}
SUGGESTED = {name: {"": _ANY} for name in ("LR", "FM", "DeepFM")}
SUGGESTED["DCNv2"] = {"": _ANY | {"layers": 3}}
# Few rows need more steps and a stronger weight decay: chosen on the validation split of a sample
# of 0.14 million rows. The limit is 0.8 million rows as text, or 2.3 million gzipped; all of the
# log has 45.8 million.
_FEW = {"batch_size": 1024, "l2": 1e-3}
SMALL = {"criteo": (200_000_000, dict.fromkeys(MODELS, _FEW) | {"LR": _FEW | {"l2": 1e-4}})}
SUGGESTED_FOR_MEMORY = {"knn": {"memory_k": 100}, "lsh": {"memory_k": 32}}

# fmt: off
DATA = [
    Flag("threshold", 1, whole(1), loads=True,
         help="values that occur fewer times in training share an id with unseen ones"),
    Flag("label", None, text, loads=True,
         help="of a table: column of 0 and 1, true and false, yes and no, or of numbers (default: "
              "label, click, clicked or target)"),
    Flag("label_above", None, number(), loads=True,
         help="of a table: a click is a label above this number; without it, labels are 0 and 1"),
    Flag("categorical", None, text, loads=True, nargs="+",
         help="of a table: columns to take as they are (default: all that no other flag names)"),
    Flag("numeric", None, text, loads=True, nargs="+",
         help="of a table: columns of numbers, x > 2 taken as floor(log(x)^2)"),
    Flag("skip_bad_lines", False, None, loads=True,
         help="count broken lines and leave them out, instead of stopping"),
    Flag("verify_data", False, None, decides="nothing", local=True,
         help="compare all of the encoded copy with its checksums before the start, not each part "
              "when it is first read"),
]

NETWORK = [
    Flag("preset", "paper", one_of(*PRESETS),
         help="values for flags not given; x4_001: BARS's for Criteo; x1: BARS's and ReLoop2's for "
              "the data sets of its paper"),
    Flag("hidden", [64, 64, 64], whole(1), only={"model": ("DeepFM", "DCNv2")}, nargs="+",
         help="sizes of the hidden layers"),
    Flag("layers", 2, whole(1), only={"model": ("DCNv2",)}, help="cross layers"),
]
KNN_OR_LSH = {"memory": ("knn", "lsh")}
STREAM = [
    Flag("slots", 10, whole(1), decides="stream", help="consecutive slots of equal size"),
    Flag("incremental", False, None, decides="stream",
         help="also train the model on each slot, one pass"),
    Flag("incremental_lr", None, positive, decides="stream",
         help="learning rate of --incremental (default: --lr)"),
    Flag("memory", "none", one_of(*MEMORIES), decides="stream",
         help="also correct predictions by errors on similar examples: knn: the nearest examples; "
              "lsh: sums over hash buckets"),
    Flag("memory_tune", False, None, only=KNN_OR_LSH, decides="stream",
         help="choose memory_key, _k, _tau and _lambda on the validation split, streamed likewise"),
    Flag("memory_key", "embedding", one_of("embedding", "hidden"),
         only=KNN_OR_LSH, decides="stream",
         help="what makes examples similar: the embeddings of their values, or the last hidden "
              "layer"),
    Flag("memory_k", 100, whole(1), only=KNN_OR_LSH, decides="stream",
         help="knn: nearest examples (100); lsh: arrays of buckets (32)"),
    Flag("memory_lambda", 0.3, number(0), only=KNN_OR_LSH, decides="stream",
         help="weight of the correction"),
    Flag("memory_tau", 0.1, positive, only=KNN_OR_LSH, decides="stream",
         help="temperature of the softmax over similarities"),
    Flag("memory_gamma", 1.0, number(0, 1), only=KNN_OR_LSH, decides="stream",
         help="1: correct towards the labels of similar examples; 0: by their mean error"),
    Flag("memory_bits", 12, number(1, 20, kind=int), only={"memory": ("lsh",)}, decides="stream",
         help="lsh: bits of a bucket's number"),
    Flag("memory_size", 100_000, whole(1), only=KNN_OR_LSH, decides="stream",
         help="latest examples that knn keeps, and that are stored again after the model was "
              "trained on"),
    Flag("memory_sigma", 0.0, number(0, 1), only=KNN_OR_LSH, decides="stream",
         help="store only examples with a larger error"),
    Flag("eval_file_name", None, plain_name, decides="nothing",
         help="file in the run's folder for a line per evaluation"),
    Flag("loss_file_name", None, plain_name, decides="nothing",
         help="file in the run's folder for a line per loss"),
]
# fmt: on


def suggest(given):
    """Yield (origin, values) that flags bring along."""
    memory = given.get("memory")
    if memory in SUGGESTED_FOR_MEMORY:
        yield f"suggested for {memory}", SUGGESTED_FOR_MEMORY[memory]


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.memory_tune:
        if args.select != "valid":
            yield (
                "--memory_tune tries settings on the validation split: "
                f"leave --select {args.select} out"
            )
        for flag in ("memory_key", "memory_k", "memory_tau", "memory_lambda"):
            if flag in given:
                yield f"--{flag} is what --memory_tune chooses; leave one of them out"
    if "memory_size" in given and args.memory == "lsh" and not args.incremental:
        yield (
            "--memory_size does nothing with --memory lsh, of one size, unless the model goes on "
            "(--incremental)"
        )
    for flag, other in (("eval_file_name", "loss_file_name"), ("loss_file_name", "eval_file_name")):
        name = given.get(flag)
        if name and name in (*RUN_FILES, getattr(args, other)):
            yield f"--{flag} {name} is another file of the run; take another name"
    if "incremental_lr" in given and not args.incremental:
        yield "--incremental_lr needs --incremental"


def one_process(args):
    """No choice needs one process."""
    return ()


def memory(args, data, compiles):
    """Bytes of a batch in DeepFM and DCNv2, and of the memory at the end of the stream, see Family.

    4 each number; 8 of the sums of --memory lsh.
    """
    counts, sizes = data.counts(), {}
    inputs = counts["fields"] * (1 if args.model == "LR" else args.dim)  # numbers of an impression
    layers = [] if "hidden" in args.ignored() else args.hidden
    if layers:
        rows = min(args.batch_size, counts["train"] // launch.world_size())
        sizes["a batch"] = 4 * rows * (inputs + sum(layers))
    if args.memory == "knn" and not args.memory_sigma:  # else it is open how many are stored
        width = min([inputs, *layers[-1:]])
        examples = min(args.memory_size, counts["test"]) // launch.world_size()
        sizes["the examples of --memory knn"] = 4 * examples * (width + 2)
    if args.memory == "lsh" and not args.memory_tune:
        sizes["the buckets of --memory lsh"] = 8 * 3 * (args.memory_k << args.memory_bits)
    return sizes


def load_data(args):
    """The impressions of the data set that `args` name."""
    from families.clicks.dataset import load_click_data

    return load_click_data(args)


FAMILY = Family(
    title="clicks: logistic regression, factorisation machines, networks, with the ReLoop2 memory",
    models=MODELS,
    load_data=load_data,
    sections={
        "clicks: data": DATA,
        "clicks: network": NETWORK,
        "clicks: the test split as a stream, predicted slot by slot, then learned from": STREAM,
    },
    suggested=SUGGESTED,
    suggest=suggest,
    small=SMALL,
    presets=PRESETS,
    datasets=DATASETS,
    contradictions=contradictions,
    one_process=one_process,
    memory=memory,
    describe="families.clicks.description:describe",
)
