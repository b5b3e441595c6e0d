"""The flags of --mode evaluate, recommend and export, and what contradicts what among them.

Loads without torch.
"""

from cli.flags import Flag, number, one_of, or_auto, plain_name, text, whole

BLEND = {"mode": ("evaluate", "recommend")}
RECOMMEND = {"mode": ("recommend",)}
TITLE = (
    "using a trained model (--mode evaluate, recommend, export; "
    "its training flags are read from its checkpoint)"
)
# fmt: off
FLAGS = [
    Flag("checkpoint", "best", one_of("best", "last"),
         only={"mode": ("evaluate", "recommend", "export")}, decides="nothing",
         help="the epoch to use"),
    Flag("blend", None, plain_name, needs="lists", only=BLEND, decides="nothing",
         help="a second trained run on the same data, whose scores are added"),
    Flag("blend_weight", 1.0, or_auto(number(0)), needs="lists", only=BLEND, decides="nothing",
         help="weight of its scores, after both have mean 0 and deviation 1 for each user; auto: "
              "the best on the validation split"),
    Flag("recommendations", None, text,
         needs="ranking", only={"mode": ("evaluate",)}, decides="nothing",
         help="evaluate: a CSV file of lists that another program made: user,item[,rank or score]"),
    Flag("users", None, text, needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: ids of users, separated by commas (in quotes if they have commas), @FILE "
              "with an id in each line, or all"),
    Flag("history", None, text, needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: a file of interactions of new users, in the order of time"),
    Flag("passes", 5, whole(1), needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: passes through --history; training makes one per epoch"),
    Flag("topk", 10, whole(1), needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: items per user"),
    Flag("keep_seen", False, None, needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: also items of the user's training interactions or history"),
    Flag("output", None, text,
         needs="pairs", only={"mode": ("recommend", "export", "split")}, decides="nothing",
         help="recommend: file to write (default: the terminal); export, split: folder to write"),
    Flag("safe_csv", False, None, needs="lists", only=RECOMMEND, decides="nothing",
         help="recommend: put ' before texts in --output that a spreadsheet takes for formulas"),
]
# fmt: on


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.mode != "train":
        for flag in ("train_mode", "refit", "l2_grid"):
            if flag in given:
                yield f"--{flag} does nothing with --mode {args.mode}"
    if args.mode == "recommend" and (args.users is None) == (args.history is None):
        yield "--mode recommend needs --users (ids, @FILE, all) or --history (a file), and not both"
    if "blend_weight" in given and args.blend is None:
        yield "--blend_weight needs --blend, the run to add"
    if args.blend and args.history:
        yield "--history: new users have no blend; leave --blend out"
    if args.safe_csv and args.output is None:
        yield "--safe_csv is for the file --output; name one"
    if "passes" in given and args.users:
        yield "--passes belongs to --history; --users have their encodings from training"
    if args.blend and args.popularity_weight == "auto":
        yield "--popularity_weight auto chooses for one run: give a number, or leave --blend out"
    if args.mode in ("export", "split") and args.output is None:
        yield f"--mode {args.mode} needs --output, the folder to write to"
