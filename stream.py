"""The test part as a stream: predicted slot by slot, and learned from once the labels are known.

A model as it was trained, or one that goes on with a pass over each slot (IncCTR: Wang et al., arXiv 2009.02147), each
with and without a memory of errors. Shapes: m rows, n rows of a slot.
"""

import argparse
import logging
import math
from collections import defaultdict
from itertools import product

import pandas as pd
import torch
from tqdm import tqdm

from auc import click_metrics
from clicks import Rows
from errors import Diverged, UserError
from figures import Series, save_figure
from ignored import MEMORY
from registry import MEMORIES, find
from reloop2 import corrected, recalled
from sampler import Impressions
from utils import load_checkpoint, on_terminal, save_checkpoint, write_csv

log = logging.getLogger("onebp")

FILE = "stream.pt"
FLAGS = ("memory", *MEMORY.split(), "incremental", "incremental_lr", "slots")  # that decide the stream
TUNED = ("memory_key", "memory_k", "memory_tau", "memory_lambda")  # flags that --memory_tune chooses, from these
KEYS, COUNTS = ("hidden", "embedding"), {"knn": (25, 50, 100, 200), "lsh": (16, 32, 64, 128)}
STRENGTHS, TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0), (0.03, 0.1, 0.3)
TUNED_ROWS = 200_000  # the latest validation rows, at most


class Learner:
    """A model that predicts the slots one after the other, the memory of its errors, and how it learns from a slot."""

    def __init__(self, model, state, args, incremental):
        """model: a ClickModel; state: its checkpoint's; args: with the settings of the memory; incremental: whether the
        model goes on learning, or only its memory does.
        """
        self.args, self.incremental = args, incremental
        self.model = model
        if incremental:  # a model of its own, that steps as it was trained to; for so few steps nothing is compiled
            self.model = type(model)(model.data, argparse.Namespace(**{**vars(args), "compile": "off"}), model.device)
            self.model.start_training(state)
        self.start, self.width, self.memory = None, None, None

    def look(self, rows):
        """Yield (chances (m,), what the memory has of Similar examples, or None) of a slot, block by block."""
        self.start = rows.start if self.start is None else self.start
        self.seen = []
        for ids, labels in rows.blocks():
            chances, keys = self.model.examine(ids, self.args.memory_key)
            similar = None
            if self.args.memory != "none":
                self.remember(keys.shape[1])
                address = self.memory.address(keys)
                similar = self.memory.read(address)
                self.seen.append((address, labels, chances))
            yield chances, similar

    def remember(self, width):
        """Have a memory, of nothing if there was none, for keys of `width` numbers."""
        self.width = width
        self.memory = self.memory or find(MEMORIES, self.args.memory)(width, self.args, self.model.device)

    def learn(self, rows):
        """Learn from a slot that was looked at."""
        if self.incremental:
            self.update(rows)
            if self.memory:
                self.refill(rows.stop)
        elif self.memory:
            for example in self.seen:
                self.write(*example)
        self.seen = []

    def update(self, rows):
        """One pass of training over the slot."""
        self.model.train_on(Impressions(rows.data, (rows.start, rows.stop), self.args, self.model.generator))
        lr = self.args.incremental_lr or self.args.lr
        if not math.isfinite(loss := self.model.train_epoch(lr, lambda: None)):
            raise Diverged(f"the loss is {loss} in rows {rows.start} to {rows.stop}; lower --incremental_lr ({lr:g})")

    def refill(self, stop):
        """The keys of a model that was updated are others: remember the latest examples anew, as it sees them now."""
        self.memory = None
        self.remember(self.width)
        latest = Rows(self.model.data, max(self.start, stop - self.args.memory_size), stop, self.model.device)
        for ids, labels in latest.blocks():
            chances, keys = self.model.examine(ids, self.args.memory_key)
            self.write(self.memory.address(keys), labels, chances)

    def write(self, address, labels, chances):
        """Remember the examples whose error is above --memory_sigma."""
        kept = (labels - chances).abs() > self.args.memory_sigma
        self.memory.write(address[kept], labels[kept], chances[kept])

    def state_dict(self):
        """All that decides the rest of the stream."""
        return {
            "start": self.start,
            "width": self.width,
            "memory": self.memory.state_dict() if self.memory else None,
            "model": self.model.state_dict() if self.incremental else None,
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        self.start, self.width = state["start"], state["width"]
        if self.incremental:
            self.model.load_state_dict(state["model"])
        if state["memory"]:
            self.remember(self.width)
            self.memory.load_state_dict(state["memory"])


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
        own = {name: getattr(self.args, name) for name in TUNED} if self.args.memory != "none" else {}
        self.settings = dict.fromkeys(["base", "incremental"][: 1 + self.args.incremental], own)
        self.chances = {}  # of every slot done, (n,), by name

    def run(self):
        """Stream, then measure: `results` has a row of metrics for each slot, and one for all, of each name."""
        state = self.resumed()
        done = state["done"] if state else 0
        if state:
            self.settings = state["settings"]
            self.chances = {name: chances.to(self.model.device) for name, chances in state["chances"].items()}
        elif self.args.memory_tune:
            self.settings = {kind: self.tuned(kind) for kind in self.settings}
        learners = {kind: self.learner(kind, own) for kind, own in self.settings.items()}
        if state:
            for kind, learner in learners.items():
                learner.load_state_dict(state["learners"][kind])
        slots = self.model.rows_of("test").parts(self.args.slots)
        with progress_bar("streaming", len(slots), done) as bar:
            for number, rows in enumerate(slots[done:], done + 1):
                for kind, learner in learners.items():
                    for name, chances in self.predicted(kind, learner, rows).items():
                        self.chances[name] = torch.cat([self.chances.get(name, chances[:0]), chances])
                    learner.learn(rows)
                self.keep(number, learners)
                bar.update()
        self.results = self.measured(slots)
        log.info("\n%s\n", self.table())

    def learner(self, kind, own):
        """The Learner of a kind, with settings of its own."""
        args = argparse.Namespace(**{**vars(self.args), **own})
        return Learner(self.model, self.saved["model"], args, kind == "incremental")

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
        rows = Rows(self.model.data, max(start, stop - TUNED_ROWS), stop, self.model.device)
        counts, chances, best = COUNTS[self.args.memory], defaultdict(list), None
        slots = rows.parts(self.args.slots)
        with progress_bar(f"tuning {kind}", len(KEYS) * len(slots)) as bar:
            for key in KEYS:
                learner = self.learner(kind, {"memory_key": key, "memory_k": max(counts)})
                for slot in slots:
                    for base, similar in learner.look(slot):
                        for count, tau in product(counts, TAUS):
                            recall = recalled(similar.first(count), tau)
                            for strength in STRENGTHS:
                                corrections = corrected(base, *recall, strength, self.args.memory_gamma)
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
        log.info("%s: of %d settings the validation part, streamed, chose %s", kind, len(chances), said)
        return chosen

    def measured(self, slots):
        """A table with columns name, slot (from 1, or `all`), rows and the metrics."""
        whole = self.model.rows_of("test")
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

    def leave(self, folder):
        """Write stream.csv and stream.png. Returns their paths."""
        files = folder / "stream.csv", folder / "stream.png"
        write_csv(files[0], self.results)
        slots = self.results[self.results["slot"] != "all"]
        panels = []
        for metric in self.model.evaluator.headline:
            lines = [(name, own[metric].tolist()) for name, own in slots.groupby("name", sort=False)]
            panels.append(Series(lines, "slot of the test part", metric, from_zero=False))
        save_figure(files[1], f"{folder.name}: the test part as a stream", panels)
        return {"stream": files}

    def keep(self, done, learners):
        """Write all that decides the rest of the stream after `done` slots."""
        if self.file:
            learned = {kind: learner.state_dict() for kind, learner in learners.items()}
            state = {"done": done, "settings": self.settings, "chances": self.chances, "learners": learned}
            save_checkpoint(self.file, {"identity": self.identity(), **state})

    def identity(self):
        """What a file must have in common with this stream to be taken over."""
        return {"epoch": self.saved["epoch"], "flags": self.saved["flags"], "run": self.saved["identity"]} | {
            "stream": stream_flags(self.args)
        }

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
            raise UserError(f"--slots {args.slots} is more than the {stop - start} rows of the {name} part; give fewer")


def stream_flags(args):
    """The flags that decide the stream, by name."""
    return {name: getattr(args, name) for name in FLAGS}


def is_done(file, args):
    """Whether the stream that the flags ask for is in the file, whole."""
    state = kept(file)
    return bool(state) and state["done"] == args.slots and state["identity"]["stream"] == stream_flags(args)


def kept(file):
    """The state in the file; None where it is absent or damaged, for a stream can be made again."""
    try:
        return load_checkpoint(file)
    except UserError:
        return None


def progress_bar(what, total, initial=0):
    """Of slots, on a terminal."""
    return tqdm(desc=what, total=total, initial=initial, unit="slot", leave=False, disable=not on_terminal())
