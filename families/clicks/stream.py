"""The test part as a stream: predicted slot by slot, and learned from once the labels are known.

A model as it was trained, or one that goes on with a pass over each slot (IncCTR: Wang et al., arXiv 2009.02147), each
with and without a memory of errors. Shapes: m rows, n rows of a slot.
"""

import logging
from collections import defaultdict
from itertools import product

import pandas as pd
import torch

from checkpointing.files import load_checkpoint, save_checkpoint
from cli.errors import UserError
from families.clicks.dataset import RowRange
from families.clicks.learner import StreamLearner
from families.clicks.memory import corrected, recalled
from families.clicks.metrics import click_metrics
from families.clicks.tuning import COUNTS, KEYS, STRENGTHS, TAUS, TUNED, TUNED_ROWS
from reports.figures import Series, save_figure
from utils import progress_bar, write_csv

log = logging.getLogger("onebp")


FILE = "stream.pt"


class Stream:
    """The test part in --slots slots, predicted by every kind of Learner that the flags ask for.

    It can go on where it was cut off: after each slot all that decides the rest is in a file.
    """

    def __init__(self, model, saved, file):
        """model: a ClickModel; saved: the checkpoint of the epoch to examine; file: where to keep the state, or None.

        The weights of `model` become those of the checkpoint.
        """
        self.model, self.args, self.saved, self.file = model, model.args, saved, file
        model.load_weights(saved["model"])
        own = (
            {name: getattr(self.args, name) for name in TUNED} if self.args.memory != "none" else {}
        )
        self.settings = dict.fromkeys(["base", "incremental"][: 1 + self.args.incremental], own)
        self.chances = {}  # of every slot done, (n,), by name

    def run(self):
        """Stream, then measure: `results` has a row of metrics for each slot, and one for all, of each name."""
        state = self.resumed()
        done = state["done"] if state else 0
        if state:
            self.settings = state["settings"]
            self.chances = {
                name: chances.to(self.model.device) for name, chances in state["chances"].items()
            }
        elif self.args.memory_tune:
            self.settings = {kind: self.tuned(kind) for kind in self.settings}
        learners = {kind: self.learner(kind, own) for kind, own in self.settings.items()}
        if state:
            for kind, learner in learners.items():
                learner.load_state_dict(state["learners"][kind])
        slots = self.model.split_rows("test").parts(self.args.slots)
        with progress_bar("streaming", len(slots), "slot", done) as bar:
            for number, rows in enumerate(slots[done:], done + 1):
                for kind, learner in learners.items():
                    for name, chances in self.predicted(kind, learner, rows).items():
                        self.chances[name] = torch.cat(
                            [self.chances.get(name, chances[:0]), chances]
                        )
                    learner.learn(rows)
                self.keep(number, learners)
                bar.update()
        self.results = self.measured(slots)
        log.info("\n%s\n", self.table())

    def learner(self, kind, own):
        """The Learner of a kind, with settings of its own."""
        args = self.args.replace(**own)
        return StreamLearner(self.model, self.saved["model"], args, kind == "incremental")

    def predicted(self, kind, learner, rows):
        """{name: chances (n,)} of a slot: the model's, and where there is a memory, those that it corrects."""
        args, found = learner.args, []
        for chances, similar in learner.look(rows):
            found.append([chances])
            if similar is not None:
                recall = recalled(similar, args.memory_tau)
                found[-1].append(corrected(chances, *recall, args.memory_lambda, args.memory_gamma))
        columns = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return dict(zip((kind, f"{kind} + {args.memory}"), columns, strict=False))

    def tuned(self, kind):
        """The settings of the memory with which a kind of Learner predicts the streamed validation part best.

        Best by AUC, or by the mean of AUC and gAUC where users are known. All it takes is what was read for most
        examples: fewer are the first of them.
        """
        start, stop = self.model.data.parts["valid"]
        rows = RowRange(self.model.data, max(start, stop - TUNED_ROWS), stop, self.model.device)
        counts, chances, best = COUNTS[self.args.memory], defaultdict(list), None
        slots = rows.parts(self.args.slots)
        with progress_bar(f"tuning {kind}", len(KEYS) * len(slots), "slot") as bar:
            for key in KEYS:
                learner = self.learner(kind, {"memory_key": key, "memory_k": max(counts)})
                for slot in slots:
                    for base, similar in learner.look(slot):
                        for count, tau in product(counts, TAUS):
                            recall = recalled(similar.first(count), tau)
                            for strength in STRENGTHS:
                                corrections = corrected(
                                    base, *recall, strength, self.args.memory_gamma
                                )
                                chances[key, count, tau, strength].append(corrections)
                    learner.learn(slot)
                    bar.update()
        labels, users = rows.labels(), self.users(rows)
        for values, parts in chances.items():
            metrics = click_metrics(labels, torch.cat(parts), users)
            quality = (metrics["AUC"] + metrics.get("gAUC", metrics["AUC"])) / 2
            if best is None or quality > best[0]:
                best = quality, values, metrics
        chosen = dict(zip(TUNED, best[1], strict=True))
        said = ", ".join(f"--{name} {value}" for name, value in chosen.items())
        log.info(
            "%s: of %d settings the validation part, streamed, chose %s", kind, len(chances), said
        )
        return chosen

    def measured(self, slots):
        """A table with columns name, slot (from 1, or `all`), rows and the metrics."""
        whole = self.model.split_rows("test")
        table = []
        for name, chances in self.chances.items():
            for slot, rows in (*enumerate(slots, 1), ("all", whole)):
                own = chances[rows.start - whole.start : rows.stop - whole.start]
                metrics = click_metrics(rows.labels(), own, self.users(rows))
                table.append({"name": name, "slot": slot, "rows": len(rows), **metrics})
        return pd.DataFrame(table)

    def users(self, rows):
        """The users of rows, where gAUC is among the model's metrics."""
        return rows.users() if "gAUC" in self.model.evaluator.metrics else None

    def overall(self):
        """The metrics of all slots together, a row by name."""
        whole = self.results[self.results["slot"] == "all"]
        return whole.set_index("name")[list(self.model.evaluator.metrics)]

    def table(self):
        """The lines that show the metrics of all slots together."""
        head = f"The test part as a stream of {self.args.slots} slots, each learned from once it was predicted:"
        return f"{head}\n\n{self.overall().rename_axis(None).to_string(float_format='%.4f')}"

    def summary(self):
        """What summary.json says of it."""
        metrics = self.overall().to_dict("index")
        return {"slots": self.args.slots, "settings": self.settings, "test": metrics}

    def write_outputs(self, folder):
        """Write stream.csv and stream.png. Returns their paths."""
        files = folder / "stream.csv", folder / "stream.png"
        write_csv(files[0], self.results)
        slots = self.results[self.results["slot"] != "all"]
        panels = []
        for metric in self.model.evaluator.headline:
            lines = [
                (name, own[metric].tolist()) for name, own in slots.groupby("name", sort=False)
            ]
            panels.append(Series(lines, "slot of the test part", metric, from_zero=False))
        save_figure(files[1], f"{folder.name}: the test part as a stream", panels)
        return {"stream": files}

    def keep(self, done, learners):
        """Write all that decides the rest of the stream after `done` slots."""
        if self.file:
            learned = {kind: learner.state_dict() for kind, learner in learners.items()}
            state = {
                "done": done,
                "settings": self.settings,
                "chances": self.chances,
                "learners": learned,
            }
            save_checkpoint(self.file, {"identity": self.identity(), **state})

    def identity(self):
        """What a file must have in common with this stream to be taken over."""
        return {
            "epoch": self.saved["epoch"],
            "flags": self.saved["flags"],
            "run": self.saved["identity"],
        } | {"stream": self.args.deciding("stream")}

    def resumed(self):
        """The state in the file, if it is one of this stream."""
        state = self.file and kept(self.file)
        if not state or state["identity"] != self.identity():
            return None
        log.info("the stream goes on after slot %d", state["done"])
        return state


def check_slots(data, args):
    """Raise UserError where a slot would be empty. data: clicks.Clicks."""
    for part, name in (("test", "test"), ("valid", "validation"))[: 1 + args.memory_tune]:
        start, stop = data.parts[part]
        if args.slots > stop - start:
            raise UserError(
                f"--slots {args.slots} is more than the {stop - start} rows of the {name} part; give fewer"
            )


def is_done(file, args):
    """Whether the stream that the flags ask for is in the file, whole."""
    state = kept(file)
    return (
        bool(state)
        and state["done"] == args.slots
        and state["identity"]["stream"] == args.deciding("stream")
    )


def kept(file):
    """The state in the file; None where it is absent or damaged, for a stream can be made again."""
    try:
        return load_checkpoint(file)
    except UserError:
        return None
