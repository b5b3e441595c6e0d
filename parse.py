"""Flags: where their values come from, which have an effect, what contradicts what.

The flags of every run are declared in cli/shared_flags.py, those of a family in its family.py.
Loads without torch.
"""

import argparse
import sys
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import families
from cli import launch
from cli.flags import Flag, Parser, one_of
from cli.shared_flags import DATA, DATASETS, EVALUATION, FOR_UPDATE, RUN, TRAINING, UPDATE
from inference import flags as inference
from regularizers.flags import HELD_OUT

MODEL = Flag(
    "model", "OneBP", one_of(*families.models()), "model to train, see the end of this help"
)
# The flags that --mode describe uses, beside those that decide which data are loaded.
DESCRIBING = {"mode", "model", "run_name", "log_root", "no_download"}
EVALUATING = {"train", "evaluate", "describe"}
SECTIONS = {"run": [MODEL, *RUN], "data": DATA, "training": TRAINING, "evaluation": EVALUATION}


class Flags(argparse.Namespace):
    """The values of all flags, by name; vars() of it is {flag: value}.

    A flag of another family has its default.

    origin: {flag: where its value comes from}: "command line", "preset <name>",
        "suggested for ...", "default", or what `replace` was told
    refit_epochs: under a refit, the number of epochs that the validation split chose; else None
    data_digest: of the loaded data, set by studies; else None
    """

    __slots__ = ("data_digest", "origin", "refit_epochs")

    def __init__(self, values, origin, refit_epochs=None, data_digest=None):
        super().__init__(**values)
        self.origin, self.refit_epochs, self.data_digest = origin, refit_epochs, data_digest

    def replace(self, origin=None, refit_epochs=None, data_digest=None, **values):
        """A copy with other values. origin: where they come from; None: as before."""
        return Flags(
            vars(self) | values,
            self.origin | (dict.fromkeys(values, origin) if origin else {}),
            refit_epochs or self.refit_epochs,
            data_digest or self.data_digest,
        )

    def given(self, flag):
        """Whether the command line gives the flag."""
        return self.origin.get(flag) == "command line"

    def has(self, trait):
        """Whether the model has a trait, see cli.family.Model."""
        return trait in families.models()[self.model].has

    @property
    def last_epoch(self):
        """The epoch after which training ends, unless it stops early."""
        return self.refit_epochs or self.epochs

    @property
    def validates(self):
        """Whether a validation split is held back, to choose the epoch or to tune strengths on."""
        tunes = self.regularizer == "lambdaopt"
        return self.select == "valid" or tunes or bool(self.refit_epochs)

    @property
    def default_run_name(self):
        """<dataset>-u<fold>-<model>-<encoder>, without what does not apply."""
        fold = [f"u{self.fold}"] if self.fold else []
        named_after = families.models()[self.model].named_after
        variants = [getattr(self, flag) for flag in named_after]
        return "-".join([self.dataset, *fold, self.model, *variants])

    def ignored(self):
        """The names of the flags that have no effect."""
        return {name for name in flags_of(self.model) if self.why_ignored(name)}

    def why_ignored(self, flag):
        """(choice, its values under which `flag` has an effect) if it has none now, else None."""
        if not serves(flag, self.model):
            return "model", [name for name in families.models() if serves(flag, name)]
        declared = flags_of(self.model)
        if self.mode == "describe" and not declared[flag].loads and flag not in DESCRIBING:
            return "mode", [mode for mode in declared["mode"].convert.choices if mode != self.mode]
        for choice, values in declared[flag].only.items():
            in_effect = choice != "model" and serves(choice, self.model)
            if in_effect and getattr(self, choice) not in values:
                return choice, [name for name in declared[choice].convert.choices if name in values]
        return None

    def deciding(self, *what):
        """{flag: value} of the flags that decide one of `what`, see Flag.decides."""
        declared = flags_of(self.model)
        return {flag: value for flag, value in vars(self).items() if declared[flag].decides in what}

    def training_flags(self):
        """{flag: value} of all that decides the weights, or the best epoch; checkpoints hold it."""
        flags = self.deciding("training", "evaluation") | {"refit_epochs": self.refit_epochs}
        if self.lr_schedule == "cosine":
            flags["epochs"] = self.epochs  # the decay is spread over them
        return flags

    def default(self, flag):
        """The declared default of a flag."""
        return flags_of(self.model)[flag].default

    def loading_flags(self):
        """{flag: value} of all that decides which data are loaded, and how they are split."""
        declared = flags_of(self.model)
        return {flag: value for flag, value in vars(self).items() if declared[flag].loads}

    def common_flags(self):
        """{flag: value} of all that the processes of a run must have in common."""
        declared = flags_of(self.model)
        common = {flag: value for flag, value in vars(self).items() if not declared[flag].local}
        return common | {"refit_epochs": self.refit_epochs}


def flags_of(model):
    """Declarations of all flags, {name: Flag}. The model's family wins if two have one name."""
    return _flags_of(families.FAMILIES, families.family_of(model))


@cache
def _flags_of(known, own):
    declared = {
        flag.name: flag for flags in (*SECTIONS.values(), inference.FLAGS) for flag in flags
    }
    for family in (*reversed(known), own):
        declared |= family.flags()
    return declared


def serves(flag, model):
    """Whether a flag can have an effect with a model."""
    declared = flags_of(model)[flag]
    family = families.family_of(model)
    if any(flag in other.flags() for other in families.FAMILIES):
        return flag in family.flags() and model in declared.only.get("model", family.models)
    return declared.needs is None or declared.needs in family.models[model].has


def parse_args(argv=None):
    """Flags of the command line -> Flags: their values and where these come from.

    Later sources win: default, suggested for the data set, for the model, preset, suggested by
    other flags, command line. Exits with status 2 and one line for a flag that is unknown, out of
    range, or contradicts another.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    model = model_named(words)
    parser, family = build_parser(model), families.family_of(model)
    given = vars(parser.parse_args(words))
    defaults = {name: flag.default for name, flag in flags_of(model).items()}

    # The data set: a folder as it is spelled, or a named one in any case; and its preset.
    dataset = given.get("dataset", defaults["dataset"])
    named = DATASETS | {
        name: values for other in families.FAMILIES for name, values in other.datasets.items()
    }
    if not (Path(given.get("data_dir", defaults["data_dir"])) / dataset).is_dir():
        dataset = next((name for name in named if name.lower() == dataset.lower()), dataset)
    preset = given.get("preset", "paper") if serves("preset", model) else "paper"
    if preset != "paper" and dataset not in family.presets[preset]:
        known = " and ".join(family.presets[preset])
        parser.error(f"there is no --preset {preset} for {dataset}, only for {known}")

    suggested = family.suggested.get(model, {})
    sources = [
        ("default", defaults),
        (f"suggested for {dataset}", named.get(dataset, {})),
        (f"suggested for {model}", suggested.get("", {}) | suggested.get(dataset, {})),
        (f"preset {preset}", family.presets[preset].get(dataset, {})),
        *family.suggest(given),
        ("suggested for l2_grid", HELD_OUT if "l2_grid" in given else {}),
        (FOR_UPDATE, UPDATE if given.get("train_mode") == "update" else {}),
        ("command line", given),
    ]
    values, origin = {}, {}
    for source, flags in sources:
        values |= flags
        origin |= dict.fromkeys(flags, source)
    values["dataset"] = dataset
    args = Flags(values, origin)
    for mistake in contradictions(args, given):
        parser.error(mistake)
    return args


def model_named(words):
    """The model that the words of a command line name, or OneBP if none or an unknown one."""
    spelled = {name.lower(): name for name in families.models()}
    named = [after for word, after in pairwise(words) if word == "--model"]
    named += [word.removeprefix("--model=") for word in words if word.startswith("--model=")]
    return next(
        (spelled[name.lower()] for name in reversed(named) if name.lower() in spelled), "OneBP"
    )


def build_parser(model="OneBP"):
    """The parser of main.py. It takes every flag; --help shows those that the model uses."""
    family = families.family_of(model)
    others = [other for other in families.FAMILIES if other is not family]
    width = max(len(", ".join(other.models)) for other in others)
    lines = [f"  {', '.join(other.models):{width}}  {other.title}" for other in others]
    parser = Parser(
        prog="main.py",
        description=f"Train and evaluate a recommendation model. Flags of --model {model}:",
        epilog="Other models (python main.py --model NAME --help shows their flags):\n"
        + "\n".join(lines)
        + "\n\nA named data set and a model bring other values for some flags. The log of a run\n"
        "says which value came from where.",
        formatter_class=HelpFormatter,
        help_command=f"python main.py --model {model} --help",
    )
    # In the help, what the model suggests takes the place of a default.
    suggested = family.suggested.get(model, {}).get("", {})
    datasets = ", ".join(["demo", *family.datasets] if family.datasets else DATASETS)
    declared = {
        name: replace(flag, default=suggested.get(name, flag.default))
        for name, flag in flags_of(model).items()
    }
    declared["dataset"] = replace(
        declared["dataset"], help=f"{datasets}, or the name of a folder in --data_dir; any case"
    )
    hidden = {name for name in declared if not serves(name, model)}
    shown = SECTIONS | family.sections | {inference.TITLE: inference.FLAGS}
    for title, flags in shown.items():
        parser.add_flags(title, [declared.pop(flag.name) for flag in flags], hidden)
    parser.add_flags(None, declared.values(), declared.keys())  # flags of other families, hidden
    return parser


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog; leaves the usage, which would list every flag, out."""

    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage("%(prog)s [flags]", [], [], prefix)


def contradictions(args, given):
    """Yield lines about flags that contradict each other. given: {flag: value} as typed."""
    family = families.family_of(args.model)
    yield from launch.mistakes()
    for flag in given:
        if ignored := args.why_ignored(flag):
            choice, values = ignored
            yield (
                f"--{flag} does nothing with --{choice} {getattr(args, choice)}, "
                f"only with {' or '.join(values)}"
            )
    if args.train_mode == "update" and not args.has("updates"):
        yield f"--model {args.model} has no --train_mode update: train it anew"
    if args.mode in ("recommend", "export") and not args.has("lists"):
        yield f"--model {args.model} recommends no items: there is only --mode train and evaluate"
    yield from wrong_dataset(args, family)
    if launch.world_size() > 1:
        for choice in one_process(args, family):
            yield f"{choice} runs in one process; start it without torchrun"
    yield from shared_contradictions(args, given)
    yield from inference.contradictions(args, given)
    yield from family.contradictions(args, given)


def wrong_dataset(args, family):
    """Yield a line if the named data set is not for the model."""
    for other in families.FAMILIES:
        if other is not family and args.dataset in other.datasets:
            models = " or ".join(other.models)
            yield f"{args.dataset} is for --model {models}, not {args.model}"
    if family.datasets and args.dataset in DATASETS.keys() - {"demo"}:
        known = " and ".join(family.datasets)
        yield f"{args.dataset} is not for --model {args.model}; demo, {known} are"


def one_process(args, family):
    """Yield the choices that need all users, and so one process, as they are spelled."""
    if args.mode != "train":
        yield f"--mode {args.mode}"
    if family.one_process is None:
        yield f"--model {args.model}"
    else:
        yield from family.one_process(args)
    yield from (f"--{flag}" for flag in ("refit", "l2_grid") if getattr(args, flag))
    if args.train_mode == "update":
        yield "--train_mode update"


def shared_contradictions(args, given):
    """Yield lines about flags of every run that contradict each other."""
    if args.fold is not None and args.test_ratio is not None:
        yield "--fold names a split that is made already: leave --test_ratio out"
    if args.train_mode == "update" and (args.refit or args.l2_grid):
        yield "--train_mode update trains once: leave --refit and --l2_grid out"
    if args.l2_grid:
        if len({float(f"{strength:g}") for strength in args.l2_grid}) < len(args.l2_grid):
            yield "--l2_grid has a strength twice (six digits count)"
        if "l2" in given:
            yield "--l2 is one of --l2_grid: leave --l2 out"
        if args.select != "valid":
            yield f"--l2_grid chooses on the validation split: leave --select {args.select} out"
        if args.refit:
            yield "--refit does nothing with --l2_grid; train the chosen strength with it, by --l2"
    for name, flag in flags_of(args.model).items():
        if not getattr(flag.convert, "takes_auto", False) or getattr(args, name) != "auto":
            continue
        if args.select != "valid":
            what = f"--{name} auto chooses on the validation split"
            yield f"{what}: add --select valid, or give a number"
        elif args.mode not in EVALUATING:
            yield f"--{name} auto needs --mode train or evaluate; give a number"
    if args.split == "last":
        for flag in given.keys() & {"test_ratio", "valid_ratio"}:
            yield f"--{flag} does nothing with --split last; --test_last says how many are held out"
    if args.test_from is not None and args.test_ratio is not None:
        yield "--test_from says which interactions are the test split: leave --test_ratio out"
    if args.repeats == "all" and args.split == "random" and args.overlap == "refuse":
        yield "--repeats all may put a pair into both splits: say --overlap drop"
    if args.valid_ratio is not None and not args.validates:
        yield "--valid_ratio needs --select valid"
    if args.refit and args.select != "valid":
        yield "--refit needs --select valid, which chooses the number of epochs"
    if args.lr_schedule == "cosine" and (args.lr_dc != 1 or args.lr_dc_epoch):
        origin = args.origin["lr_schedule"]
        yield f"--lr_dc and --lr_dc_epoch need --lr_schedule step; here it is cosine ({origin})"
    if args.lr_dc != 1 and not args.lr_dc_epoch:
        yield "--lr_dc needs --lr_dc_epoch, the epochs after which to decay"
    if args.lr_dc_epoch and "lr_dc" not in given:
        yield "--lr_dc_epoch needs --lr_dc, the factor"
