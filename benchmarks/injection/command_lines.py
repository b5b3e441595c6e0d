"""Command lines of random flags with random values: the program does it, or refuses in one line."""

import argparse
import contextlib
import io
import random
import signal

import families
from parse import flags_of, parse_args, serves

from .places import ALWAYS, RUNS, Found, end_of, left_behind
from .processes import run, spelled

TIME = 5  # seconds after which a command is asked to end: many epochs are no mistake
# fmt: off
NUMBERS = [
    "0", "1", "2", "3", "7", "-1", "0.5", "0.1", "-0.0", "1e-320", "1e308", "1e999", "nan", "inf",
    "2147483647", "2147483648", "9223372036854775808", "100000", "5000000", "1_0", "٣", "0x10",
    "1e3", " 4", "+2", "4.0", ".5", "1,5", "True",
]
# Values with which flags of texts have something to do.
USEFUL = {
    "dataset": ["shop", "ads", "grid"], "user_column": ["userId", "1", "movieId"],
    "item_column": ["movieId", "2", "timestamp"], "rating_column": ["rating", "3", "userId"],
    "time_column": ["timestamp", "4", "rating"], "categorical": ["movie", "hour"],
    "numeric": ["hour"], "label": ["label", "hour"], "users": ["0,1", "all", "0", "@lists.csv"],
    "history": ["datasets/more.csv"], "recommendations": ["lists.csv"],
    "update_from": ["datasets/more.csv"], "config": ["runs/one/flags.toml"],
    "like": ["one", "svd", "runs/deep"], "blend": ["one", "svd"], "run_name": [*RUNS, "new"],
    "monitor": ["NDCG@10", "Recall@20"], "test_from": ["2001-09-09", "1000000000.0"],
}
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


class CommandLines:
    """Runs random command lines in copies of `places`."""

    def __init__(self, places, seed):
        self.places, self.seed = places, seed

    def make(self, number):
        """Run a random command line. Returns what was Found."""
        rng = random.Random(f"{self.seed}:command_lines:{number}")
        folder = self.places.fresh()
        (folder / "loop").symlink_to("loop")
        model, words = command_line(rng)
        ended = run(folder, words, end=(signal.SIGTERM, TIME))
        fault = None if ended.out_of_memory else ended.fault() or left_behind(folder)
        family = families.family_of(model).title.split(":")[0]
        return Found(family, end_of(ended), fault, spelled(words))


def command_line(rng):
    """(model, words): a command that would work, with one to four other flags."""
    family, mode = rng.choice(families.FAMILIES), rng.choice(MODES)
    model = rng.choice(list(family.models))
    given = {"model": [model], "dataset": ["ads" if model in CLICKS else "shop"]}
    if mode == "train":
        given |= {flag: words for flag, words in SMALL.items() if serves(flag, model)}
    elif mode in ("describe", "split"):
        given["mode"] = [mode]
    else:
        given = {"run_name": [rng.choice(list(RUNS))], "mode": [mode]}
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
    ignored, declared = args.ignored(), flags_of(args.model)
    used = args.mode in ("evaluate", "recommend", "export")  # a checkpoint, with its own flags
    useful = [flag for flag in vars(args) if flag not in ignored]
    if used:
        useful = [flag for flag in useful if declared[flag].decides in ("evaluation", "nothing")]
    return useful


def values(flag, rng):
    """Words that a command line gives a flag: often of its kind, sometimes any."""
    if flag.convert is None:
        return [] if rng.random() < 0.9 else [rng.choice(WORDS)]
    count = rng.choice((1, 1, 2, 3, 0)) if flag.nargs else 1
    return [value(flag, rng) for _ in range(count)]


def value(flag, rng):
    """A word for a flag: four of five times one that its converter takes."""
    words = NUMBERS + WORDS + PATHS
    if rng.random() < 0.2:
        return rng.choice(words)
    if flag.name in USEFUL and rng.random() < 0.7:
        return rng.choice(USEFUL[flag.name])
    choices = getattr(flag.convert, "choices", ())
    return rng.choice([word for word in choices or words if takes(flag, word)])


def takes(flag, word):
    """Whether the converter of a flag takes a word."""
    try:
        flag.convert(word)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True
