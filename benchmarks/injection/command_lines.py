"""Command lines of random flags with random values: the program does it, or refuses in one line."""

import contextlib
import io
import random

import families
from parse import flags_of, parse_args, serves

from .places import ALWAYS, TRAIN, Found, Places, end_of, left_behind
from .processes import run, spelled

TIME = 3  # seconds after which a command is asked to end: many epochs are no mistake
# fmt: off
NUMBERS = [
    "0", "1", "2", "3", "7", "-1", "0.5", "0.1", "-0.0", "1e-320", "1e308", "1e999", "nan", "inf",
    "2147483647", "2147483648", "9223372036854775808", "100000", "5000000", "1_0", "٣", "0x10",
    "1e3", " 4", "+2", "4.0", ".5", "1,5", "True",
]
WORDS = [
    "", " ", "x", "auto", "none", "all", "-", "--", "--dim", "@", "@absent", "@datasets", "a,b",
    '"', "'", "\\", "a" * 300, "ü", "\N{BEETLE}", "\udcff", "\n", "\t", "\x1b]0;a\x07", "%s", "{}",
    "nan", "1970-01-01", "20030131", "2003-02-31", "99999999999999999999", "1", "0", "userId",
    "movieId", "rating", "timestamp", "label", "user", "movie", "hour", "cpu", "cuda", "cuda:9",
    "meta", "Recall@20", "demo", "shop", "SHOP", "ads", "grid", "one", "deep", "absent",
]
PATHS = [
    "datasets", "datasets/shop", "datasets/shop/ratings.csv", "runs", "runs/one", "checkpoints",
    "runs/one/flags.toml", "runs/one/summary.json", "checkpoints/one/last.pt", "lists.csv",
    "out", "out/deep/er", ".", "./", "..//work", "absent/..", "/dev/null", "/dev/full", "/dev/zero",
    "/proc/absent/x", "/proc/self/mem", "a" * 300, "a/" * 2000, "datasets/more.csv/x", "loop",
]
# fmt: on
CLICKS = families.family_of("DeepFM").models
MODES = ("train", "train", "train", "evaluate", "recommend", "export", "describe", "split")
NEEDED = {"recommend": {"users": ["all"]}, "export": {"output": ["out"]}}
NEEDED["split"] = NEEDED["export"]
LEFT_OUT = {"log", "compile"}  # they need other programs
SMALL = {"compile": ["off"], "epochs": ["2"], "dim": ["4"], "save_every": ["1"]}
TRAINED = {
    "one": ("--dataset", "shop"),
    "svd": ("--model", "SVD", "--dataset", "shop"),
    "deep": ("--model", "DeepFM", "--dataset", "ads", "--hidden", "8"),
}


class CommandLines:
    """A folder with data sets and trained runs, in which the command lines are run."""

    def __init__(self, seed):
        self.seed = seed
        trained = [[*words, *TRAIN, "--run_name", name] for name, words in TRAINED.items()]
        lists = ("--mode", "recommend", "--users", "all", "--topk", "3", "--run_name", "one")
        self.places = Places([*trained, [*lists, "--output", "lists.csv"]])
        (self.places.model / "loop").symlink_to("loop")

    def make(self, number):
        """Run a random command line. Returns what was Found."""
        rng = random.Random(f"{self.seed}:command_lines:{number}")
        folder = self.places.fresh()
        model, words = command_line(rng)
        ended = run(folder, words, seconds=TIME)
        fault = None if ended.out_of_memory else ended.fault() or left_behind(folder)
        family = families.family_of(model).title.split(":")[0]
        return Found(family, end_of(ended), fault, spelled(words))


def command_line(rng):
    """(model, words): a command that would work, with one to four other flags."""
    model, mode = rng.choice(list(families.models())), rng.choice(MODES)
    given = {"model": [model], "dataset": ["ads" if model in CLICKS else "shop"]}
    if mode == "train":
        given |= {flag: words for flag, words in SMALL.items() if serves(flag, model)}
    elif mode in ("describe", "split"):
        given["mode"] = [mode]
    else:
        given = {"run_name": [rng.choice(list(TRAINED))], "mode": [mode]}
    given |= NEEDED.get(mode, {})
    declared = flags_of(model)
    useful = with_effect(given) or list(declared)
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        flag = rng.choice(useful if rng.random() < 0.9 else list(declared))
        if flag in LEFT_OUT:
            continue
        given[flag] = values(declared[flag], rng)
        if getattr(declared[flag].convert, "choices", None):  # gives others an effect
            useful = with_effect(given) or useful
    words = [*words_of(given), *ALWAYS]
    if rng.random() < 0.05:
        words.insert(rng.randrange(len(words)), rng.choice(WORDS + PATHS))
    return model, words


def words_of(given):
    """The words of a command line. given: {flag: its words}"""
    return [word for flag, words in given.items() for word in (f"--{flag}", *words)]


def with_effect(given):
    """The flags that have an effect beside those given; None if these are refused."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            args = parse_args(words_of(given))
        except SystemExit:
            return None
    ignored = args.ignored()
    return [flag for flag in vars(args) if flag not in ignored]


def values(flag, rng):
    """Words that a command line gives a flag: often of its kind, sometimes any."""
    if flag.convert is None:
        return [] if rng.random() < 0.9 else [rng.choice(WORDS)]
    count = rng.choice((1, 1, 2, 3, 0)) if flag.nargs else 1
    return [value(flag, rng) for _ in range(count)]


def value(flag, rng):
    """A word for a flag."""
    choices = getattr(flag.convert, "choices", None)
    if rng.random() < 0.15:
        return rng.choice(NUMBERS + WORDS + PATHS)
    if choices:
        return rng.choice(choices)
    if getattr(flag.convert, "metavar", "").startswith(("N", "X")):
        return rng.choice(NUMBERS)
    return rng.choice(WORDS + PATHS)
