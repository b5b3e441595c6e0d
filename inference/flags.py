"""The flags of --mode evaluate, recommend and export, and what contradicts what among them.

Loads without torch.
"""

from cli.flags import Flag, one_of, text, whole

RECOMMEND = {"mode": ("recommend",)}
TITLE = (
    "using a trained model (--mode evaluate, recommend, export; its flags come from its checkpoint)"
)
FLAGS = [
    Flag(
        "checkpoint",
        "best",
        one_of("best", "last"),
        "the epoch to use",
        only={"mode": ("evaluate", "recommend", "export")},
        decides="nothing",
    ),
    Flag(
        "users",
        None,
        text,
        "recommend: ids of users, separated by commas, or all",
        only=RECOMMEND,
        decides="nothing",
    ),
    Flag(
        "history",
        None,
        text,
        "recommend: a file of interactions of new users, in the order of time",
        only=RECOMMEND,
        decides="nothing",
    ),
    Flag(
        "passes",
        5,
        whole(1),
        "recommend: passes through --history; training makes one per epoch",
        only=RECOMMEND,
        decides="nothing",
    ),
    Flag("topk", 10, whole(1), "recommend: items per user", only=RECOMMEND, decides="nothing"),
    Flag(
        "keep_seen",
        False,
        None,
        "recommend: also items of the user's training interactions or history",
        only=RECOMMEND,
        decides="nothing",
    ),
    Flag(
        "output",
        None,
        text,
        "recommend: file to write (default: the terminal); export: folder to write",
        only={"mode": ("recommend", "export")},
        decides="nothing",
    ),
]


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.mode != "train":
        for flag in ("train_mode", "refit", "l2_grid"):
            if flag in given:
                yield f"--{flag} does nothing with --mode {args.mode}"
    if args.mode == "recommend" and (args.users is None) == (args.history is None):
        yield "--mode recommend needs --users (ids, or all), or --history (a file), and not both"
    if "passes" in given and args.users:
        yield "--passes belongs to --history; --users have their encodings from training"
    if args.mode == "export" and args.output is None:
        yield "--mode export needs --output, the folder to write to"
