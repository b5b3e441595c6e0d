"""Model and Family: what a model family declares of itself, before torch is loaded.

A family is a folder in families/ with a family.py that defines `FAMILY = Family(...)`, and a line
in families/__init__.py. parse.py, the loop, checkpoints and studies take the rest from there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cli.flags import Flag


@dataclass(frozen=True)
class Model:
    """A value of --model.

    where: "module:Class" of a recommender.Recommender
    has: traits. A flag that `needs` a trait has no effect on a model without it:
        gradients: trained by gradients, batch by batch
        epochs: trained in several epochs
        dim: encodings (or embeddings) of --dim numbers
        pairs: learns from user-item pairs (interactions or ratings), split at random or by fold
        ranking: evaluated by ranking all items
        personal: scores items differently for each user, for rankings
        lists: recommends items: has --mode recommend and export
        updates: has --train_mode update
    named_after: flags whose values are part of the default run name
    instead: {flag: {value: "module:Class"}}: classes that replace `where` for a value of a flag
    """

    where: str
    has: frozenset = frozenset()
    named_after: tuple = ()
    instead: dict = field(default_factory=dict)


def no_contradictions(args, given):
    """Contradictions of a family without any."""
    return ()


def no_suggestions(given):
    """Suggestions of a family without any."""
    return ()


def no_memory(args, data, compiles):
    """What a family needs of the memory, if it is only tables of weights."""
    return {}


@dataclass(frozen=True, eq=False)
class Family:
    """Models that share flags and a kind of data.

    title: a line for --help
    models: {value of --model: Model}
    load_data: function(args) -> the data set that `args` name. It has name, digest, protocol,
        counts() and describe(); for the default evaluators also the splits and seen(), as
        sources.interactions.Interactions
    sections: {title in --help: [Flag]}, the family's own flags
    suggested: {model: {data set: {flag: value}}}; data set "" is any. They replace defaults.
    suggest: function(given) -> pairs (origin, {flag: value}): values that other flags bring along.
        given: {flag: value} of the command line
    small: {data set: (bytes, {model: {flag: value}})}: values that replace these if the files in
        the data set's folder have fewer bytes in all
    presets: {value of --preset: {data set: {flag: value}}}
    datasets: {name: {flag: value}}: named data sets that only this family reads, with suggested
        values. If there are any, the family reads no other named data set but demo.
    contradictions: function(args, given) -> lines about flags that contradict each other
    one_process: function(args) -> choices, as spelled, that cannot run in several processes.
        None: the family runs in one process only.
    memory: function(args, data, compiles) -> {what: bytes} that training holds, at least, beside
        the weights of a model trained by batches, their moments and gradients; see
        families/memory.py. compiles: whether a step may be compiled, and so hold less
    describe: "module:function" of --mode describe: function(data) ->
        reports.description.Description
    """

    title: str
    models: dict[str, Model]
    load_data: Callable
    sections: dict[str, list[Flag]] = field(default_factory=dict)
    suggested: dict = field(default_factory=dict)
    suggest: Callable = no_suggestions
    small: dict = field(default_factory=dict)
    presets: dict = field(default_factory=lambda: {"paper": {}})
    datasets: dict = field(default_factory=dict)
    contradictions: Callable = no_contradictions
    one_process: Callable | None = None
    memory: Callable = no_memory
    describe: str = "sources.description:describe"

    def suggest_by_size(self, model, dataset, data_dir):
        """Pairs (origin, {flag: value}) that follow from the size of a data set, see `small`.

        Its files are looked at before they are read. Without a file nothing is suggested.
        """
        if dataset not in self.small:
            return []
        files = (Path(data_dir) / dataset).glob("*")
        size = sum(path.stat().st_size for path in files if path.is_file())
        limit, values = self.small[dataset]
        return [(self.origin_of_small(dataset), values[model])] if 0 < size < limit else []

    def flags_by_size(self, model, dataset):
        """Names of the flags whose suggested value depends on the size of a data set."""
        return {*self.small[dataset][1][model]} if dataset in self.small else set()

    def origin_of_small(self, dataset):
        """In words: where the values of `small` come from."""
        return f"suggested for {dataset} under {self.small[dataset][0] / 1e6:.0f} MB"

    def help_on_small(self, model):
        """Lines for --help, each after a line break: the values of `small`."""
        return "".join(
            f"\nFlags, {self.origin_of_small(dataset)}: "
            + " ".join(f"{flag}={value}" for flag, value in values[model].items())
            for dataset, (_, values) in self.small.items()
        )

    def flags(self):
        """Its own flags, by name."""
        return {flag.name: flag for flags in self.sections.values() for flag in flags}
