"""The flags that choose the metrics of rankings, and their contradictions. Loads without torch."""

from cli.flags import Flag, one_of, whole
from cli.registry import METRICS, SMALLER_IS_BETTER

CHOSEN, CUTOFFS = ["Recall", "NDCG", "Precision", "F1"], [5, 10, 20]  # the defaults
# --ranking pairs adds these, see evaluate.PairRanking.
PAIR_CUTOFFS = (50, 100)
PAIR_METRICS = ("AUC", *(f"{name}@{k}" for name in ("HR", "NDCG") for k in PAIR_CUTOFFS))
BEST_BY = {"users": "Recall@20", "pairs": "NDCG@100"}  # {value of --ranking: default of --monitor}


def name_at_cutoff(text):
    """A converter for a flag: a metric at a cut-off, "Recall@20", in any case."""
    name, at, cutoff = text.partition("@")
    spelled = {known.lower(): known for known in (*METRICS, "AUC")}
    return f"{spelled.get(name.lower(), name)}{at}{cutoff}"


name_at_cutoff.metavar = "METRIC@K"

# fmt: off
RANKED = {"needs": "ranking", "only": {"mode": ("train", "evaluate")}, "decides": "evaluation"}
FLAGS = [
    Flag("metrics", CHOSEN, one_of(*METRICS), **RANKED, nargs="+",
         help="metrics of the recommended lists"),
    Flag("cutoffs", CUTOFFS, whole(1), **RANKED, nargs="+",
         help="list lengths k of the metrics"),
    Flag("monitor", None, name_at_cutoff, **RANKED,
         help="metric that chooses the best epoch (default: Recall@20, with --ranking pairs "
              "NDCG@100; if it is not among the metrics, the first one at its largest cut-off)"),
]
# fmt: on


def names_of(metrics, cutoffs, ranking="users"):
    """The metrics by name, a tuple like ("Recall@5", "Recall@10", ...).

    metrics, cutoffs, ranking: values of these flags
    """
    names = tuple(f"{name}@{k}" for name in metrics for k in cutoffs)
    return names + PAIR_METRICS if ranking == "pairs" else names


def monitor_of(args):
    """The metric that chooses the best epoch: --monitor, or its default. args: parse.Flags"""
    default, names = BEST_BY[args.ranking], names_of(args.metrics, args.cutoffs, args.ranking)
    first = f"{args.metrics[0]}@{max(args.cutoffs)}"
    return args.monitor or (default if default in names else first)


def larger_is_better(name):
    """Whether a larger value of the metric, as in "Recall@20", is better."""
    return name.split("@")[0] not in SMALLER_IS_BETTER


def headline_of(monitor, chosen, names):
    """The two metrics to show: `monitor`, and NDCG or else another one at the same cut-off.

    chosen: value of --metrics; names: from `names_of`
    """
    k = monitor.partition("@")[2]
    # Over the pairs, HR is shown before NDCG.
    first = [f"HR@{k}"] if monitor in PAIR_METRICS else []
    wanted = [*first, monitor, f"NDCG@{k}", *(f"{name}@{k}" for name in chosen), *names]
    return tuple(dict.fromkeys(name for name in wanted if name in names))[:2]


def cutoff_of(monitor, cutoffs):
    """The cut-off of the monitored metric, or the largest if it is none of `cutoffs`."""
    k = monitor.partition("@")[2]
    return next((cutoff for cutoff in cutoffs if str(cutoff) == k), max(cutoffs))


def contradictions(args):
    """Yield lines about values of these flags that contradict each other.

    With --mode evaluate some are read from the checkpoint, and evaluate.Ranking.choose checks them.
    """
    if args.mode == "train":
        yield from mistakes(args.metrics, args.cutoffs, args.ranking, monitor_of(args))


def mistakes(metrics, cutoffs, ranking, monitor):
    """Yield lines about values of the flags with these names that contradict each other."""
    for flag, values in {"metrics": metrics, "cutoffs": cutoffs}.items():
        if twice := [value for value in values if values.count(value) > 1]:
            yield f"--{flag} has {twice[0]} twice"
    names = names_of(metrics, cutoffs, ranking)
    if monitor not in names:
        yield f"--monitor {monitor} is not among the metrics: {', '.join(names)}"
    if double := [name for name in PAIR_METRICS if names.count(name) > 1]:
        name, k = double[0].split("@")
        yield (
            f"--ranking pairs has {double[0]} of its own, over the pairs: "
            f"leave {name} out of --metrics, or {k} out of --cutoffs"
        )
