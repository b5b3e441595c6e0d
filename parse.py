"""Flags: where their values come from, and which have an effect.

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
from cli import config, metrics
from cli import shared_flags as shared
from cli.errors import UserError, message_of
from cli.flags import Flag, HelpFormatter, Parser, one_of
from families.contradictions import contradictions
from inference import flags as inference
from regularizers.flags import HELD_OUT

MODEL = Flag(
    "model", "OneBP", one_of(*families.models()), "model to train, see the end of this help"
)
# The flags that modes without a model use, beside those that decide which data are loaded.
OF_DATA = {
    "describe": {"mode", "model", "run_name", "log_root", "no_download", "config", "like"},
    "split": {"mode", "model", "output", "no_download", "config", "like"},
}
# The flags of one command: no flags.toml holds them, and --like does not take them over.
OF_ONE_COMMAND = {"mode", "train_mode", "run_name", "config", "like"}
SECTIONS = {
    "run": [MODEL, *shared.RUN],
    "data": shared.DATA,
    "training": shared.TRAINING,
    "evaluation": [*metrics.FLAGS, *shared.EVALUATION],
}


class Flags(argparse.Namespace):
    """The values of all flags, by name; vars() of it is {flag: value}.

    A flag of another family has its default.

    origin: {flag: where its value comes from}: "command line", "preset <name>",
    "file <path>", "suggested for ...", "default", or what `replace` was told
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
        """Whether the command line or a file of flags gives the flag a value of its own."""
        return self.origin.get(flag, "").startswith(("command line", "file "))

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
        """<dataset>-u<fold>-<model>-<encoder>, as far as it applies; of lists, their file."""
        fold = [f"u{self.fold}"] if self.fold else []
        if self.recommendations:
            return "-".join([self.dataset, *fold, Path(self.recommendations).stem])
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
        used = OF_DATA.get(self.mode)
        if used and not declared[flag].loads and flag not in used:
            modes = declared["mode"].convert.choices
            return "mode", [mode for mode in modes if flag in OF_DATA.get(mode, {flag})]
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

    def trained(self, flags, decides=("training", "evaluation")):
        """{flag: value} of a checkpoint's `training_flags`, checked: see config.taken_over."""
        model = config.converted(MODEL, flags.get("model", self.model))
        return config.taken_over(flags, flags_of(model), decides)

    def repeating(self):
        """{title: {flag: value}} of flags.toml: all that repeats the run, by section.

        Flags of one command, places on a machine, and what has no effect are left out.
        """
        declared = flags_of(self.model)
        flags = {
            flag: value
            for flag, value in vars(self).items()
            if value is not None and not declared[flag].local and flag not in OF_ONE_COMMAND
        }
        # What has an effect on a continuation alone has none where the file is read.
        idle = without_effect(self.replace(train_mode="new"), {}, flags)
        sections = SECTIONS | families.family_of(self.model).sections
        return {
            title: {
                flag.name: flags[flag.name] for flag in section if flag.name in flags.keys() - idle
            }
            for title, section in sections.items()
        }

    def auto_flags(self):
        """The names of the flags whose values are chosen on the validation split."""
        declared = flags_of(self.model)
        return [
            name
            for name, value in vars(self).items()
            if value == "auto" and getattr(declared[name].convert, "takes_auto", False)
        ]

    def default(self, flag):
        """The declared default of a flag."""
        return flags_of(self.model)[flag].default

    def loading_flags(self):
        """{flag: value} of all that decides which data are loaded, and how they are split."""
        return {flag: v for flag, v in vars(self).items() if flags_of(self.model)[flag].loads}

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

    Exits with status 2 and one line for a flag that is unknown, out of range, or contradicts
    another, on the command line or in the file of --config or --like.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    spelled = {name.lower(): name for name in families.models()}
    typed = spelled.get(str(last_value(words, "model")).lower())
    parser = build_parser(typed or "OneBP")
    try:
        root = last_value(words, "log_root") or flags_of("OneBP")["log_root"].default
        file = config.named_file(last_value(words, "config"), last_value(words, "like"), root)
        named = spelled.get(str(file and file.given.get("model")).lower())
        model = typed or named or "OneBP"
        parser = build_parser(model)
        given = vars(parser.parse_args(words))
        in_file = flags_of_file(file, named or model, model, given) if file else {}
        args = resolve(model, given, in_file, file)
    except (UserError, OSError) as error:  # of files, as of a name that is too long
        parser.error(message_of(error))
    for mistake in contradictions(args, in_file | given):
        parser.error(mistake)
    return args


def last_value(words, flag):
    """The word that a command line gives a flag, the last if there are several; or None."""
    named = [after for word, after in pairwise(words) if word == f"--{flag}"]
    named += [word.split("=", 1)[1] for word in words if word.startswith(f"--{flag}=")]
    return named[-1] if named else None


def flags_of_file(file, own_model, model, given):
    """{flag: value} that a file of flags gives to a command: those that have an effect.

    file: config.FlagsFile; own_model: the model that it names; model: that of the command
    given: {flag: value} as typed; they win, and may take the effect from flags of the file

    Raises UserError, with the line, for a wrong flag, and for one that has no effect in the file
    either.
    """
    declared, flags = flags_of(own_model), file.values(flags_of(own_model))
    if nested := flags.keys() & {"config", "like"}:
        raise UserError(f"{file.place(min(nested))}: a file of flags names no other")
    if "like" in given:
        own = {flag for flag in flags if declared[flag].local} | OF_ONE_COMMAND
        flags = {flag: value for flag, value in flags.items() if flag not in own}
    # Two families may have a flag of one name, which is not the same flag.
    kept = {flag: v for flag, v in flags.items() if declared[flag] is flags_of(model)[flag]}
    idle = without_effect(resolve(model, given, kept, file), given, kept)
    alone = without_effect(resolve(own_model, {}, flags, file), {}, flags)
    for flag in idle.keys() & alone.keys():
        raise UserError(f"{file.place(flag)}: {alone[flag]}")
    return {flag: value for flag, value in kept.items() if flag not in idle}


def without_effect(args, given, flags):
    """{flag: line} of those among `flags` that contradict something just by being given.

    args: Flags; given: {flag: value} as typed; flags: {flag: value} that args holds
    """
    before = {*contradictions(args, given)}
    lines = {
        flag: next((x for x in contradictions(args, given | {flag: v}) if x not in before), None)
        for flag, v in flags.items()
    }
    return {flag: line for flag, line in lines.items() if line}


def resolve(model, given, in_file, file):
    """The Flags that follow from {flag: value} as typed, and as the FlagsFile `file` gives them.

    Later sources win: default, suggested for the data set, for the model, for the size of the data;
    what the file gives, after the values that its preset and other flags of it bring along; the
    command line likewise.
    """
    family = families.family_of(model)
    values = {name: flag.default for name, flag in flags_of(model).items()}
    origin = dict.fromkeys(values, "default")

    # The data set: a folder as it is spelled, or a named one in any case.
    both = values | in_file | given
    dataset = both["dataset"]
    named = shared.DATASETS | {
        name: values for other in families.FAMILIES for name, values in other.datasets.items()
    }
    if not (Path(both["data_dir"]) / dataset).is_dir():
        dataset = next((name for name in named if name.lower() == dataset.lower()), dataset)

    suggested = family.suggested.get(model, {})
    sources = [
        (f"suggested for {dataset}", named.get(dataset, {})),
        (f"suggested for {model}", suggested.get("", {}) | suggested.get(dataset, {})),
        *family.suggest_by_size(model, dataset, both["data_dir"]),
    ]
    for source, flags in ((f"file {file and file.path}", in_file), ("command line", given)):
        preset = flags.get("preset")
        sources += [
            (f"preset {preset}", family.presets.get(preset, {}).get(dataset, {})),
            *family.suggest(flags),
            ("suggested for l2_grid", HELD_OUT if "l2_grid" in flags else {}),
            (shared.FOR_UPDATE, shared.UPDATE if flags.get("train_mode") == "update" else {}),
            (source, flags),
        ]
    for source, flags in sources:
        for flag, value in flags.items():
            # flags.toml of a run holds also what would be suggested: that keeps its origin.
            if flags is not in_file or values[flag] != value:
                origin[flag] = source
        values |= flags
    values["dataset"] = dataset
    return Flags(values, origin)


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
        "says which value came from where." + family.help_on_small(model),
        formatter_class=HelpFormatter,
        help_command=f"python main.py --model {model} --help",
    )
    # In the help, what the model suggests takes the place of a default.
    suggested = family.suggested.get(model, {}).get("", {})
    datasets = ", ".join(["demo", *family.datasets] if family.datasets else shared.DATASETS)
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
