"""The test split as a stream of slots: each is predicted, then learned from.

Compares a model that stays as it was trained ("base") with one that is trained on each slot
("incremental", IncCTR: Wang et al., arXiv 2009.02147), each with and without a memory of errors.
Shapes: n rows of a slot, m rows of a block.
"""

import logging
from functools import partial

import pandas as pd
import torch

from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.resume import explain_mismatch
from cli.config import taken_over
from cli.errors import UserError
from cli.text import Multiline
from distributed import collectives
from engine.tables import overwrite
from families.clicks.family import STREAM as FLAGS
from families.clicks.learner import StreamLearner
from families.clicks.memory import correct, recall
from families.clicks.metrics import click_metrics
from families.clicks.tuning import TUNED, choose_settings, tuning_rows
from reports.figures import Series, save_figure
from reports.names import STREAM, STREAM_CURVES
from utils import progress_bar, write_csv

log = logging.getLogger("onebp")


FILE = "stream.pt"
STARTS_ANEW = "the stream starts anew"


class Stream:
    """The test split in --slots slots, predicted by each kind of StreamLearner.

    The kinds are "base" and, with --incremental, "incremental". After each slot the state is saved,
    so an interrupted stream can continue.
    """

    def __init__(self, model, saved, file):
        """Prepare the stream.

        model: ClickModel; its weights become those of the checkpoint
        saved: content of the checkpoint of the epoch to evaluate
        file: where to save the state after each slot, or None
        """
        self.model, self.args, self.saved, self.file = model, model.args, saved, file
        model.load_weights(saved["model"])
        has_memory = self.args.memory != "none"
        settings = {name: getattr(self.args, name) for name in TUNED} if has_memory else {}
        kinds = ["base", "incremental"] if self.args.incremental else ["base"]
        self.settings = dict.fromkeys(kinds, settings)  # {kind: settings of its memory}
        self.probabilities = {}  # {name of a prediction: (rows of the slots so far,)}

    def run(self):
        """Predict all slots. Then `results` is the table of metrics, see metrics_by_slot."""
        # Continue from the file, or start: the settings are chosen before the first slot.
        slots = self.model.split_rows("test").divide(self.args.slots)
        state = self.load_state()
        done = state["done"] if state else 0
        if state:
            with explain_mismatch(self.file, f"remove it, and {STARTS_ANEW}"):
                self.take_over(state, slots)
        elif self.args.memory_tune:
            self.settings = {kind: self.tune(kind) for kind in self.settings}
        learners = {kind: self.make_learner(kind, values) for kind, values in self.settings.items()}
        if state:
            with explain_mismatch(self.file, f"remove it, and {STARTS_ANEW}"):
                for kind, learner in learners.items():
                    learner.load_state_dict(state["learners"][kind])

        # Predict each slot, then learn from it.
        with progress_bar("streaming", len(slots), "slot", done) as bar:
            for number, rows in enumerate(slots[done:], done + 1):
                for kind, learner in learners.items():
                    for name, column in self.predict(kind, learner, rows).items():
                        before = self.probabilities.get(name, column[:0])
                        self.probabilities[name] = torch.cat([before, column])
                    learner.learn(rows)
                self.save_state(number, learners)
                bar.update()
        self.results = self.metrics_by_slot(slots)
        log.info("\n%s\n", Multiline(self.describe()))

    def take_over(self, state, slots):
        """Take over settings and probabilities. Raises ValueError if they are not of this stream.

        state: from load_state
        slots: list of RowRange
        """
        declared = {flag.name: flag for flag in FLAGS if flag.name in TUNED}
        for kind, before in self.settings.items():
            self.settings[kind] = taken_over(state["settings"][kind], declared, ("stream",))
            if self.settings[kind].keys() != before.keys():
                raise ValueError(f"its settings are {', '.join(state['settings'][kind])}")
        rows = sum(map(len, slots[: state["done"]]))
        names = [f"{kind} + {self.args.memory}" for kind in self.settings]
        names = [*self.settings, *(names if self.args.memory != "none" else [])]
        if state["done"] > len(slots) or (rows and state["chances"].keys() != {*names}):
            raise ValueError("its slots are of another stream")
        for name, column in state["chances"].items():
            self.probabilities[name] = torch.empty(rows, device=self.model.device)
            overwrite(self.probabilities[name], column)

    def make_learner(self, kind, settings):
        """Make the StreamLearner of a kind. settings: {flag: value} of its memory"""
        args = self.args.replace(**settings)
        return StreamLearner(self.model, self.saved["model"], args, kind == "incremental")

    def tune(self, kind):
        """Choose the settings of a kind's memory on the validation split: {flag: value}."""
        rows = tuning_rows(self.model)
        make_learner = partial(self.make_learner, kind)
        return choose_settings(kind, make_learner, rows, self.users(rows), self.args)

    def predict(self, kind, learner, rows):
        """Predict a slot: {name: probabilities (n,)}.

        kind: "base" or "incremental"
        learner: StreamLearner of this kind
        rows: RowRange of the slot

        The names are `kind`, for the model, and `kind` + --memory, for the model and its memory.
        """
        args, blocks = learner.args, []
        for probabilities, similar in learner.predict(rows):
            columns = [probabilities]
            if similar is not None:
                means = recall(similar, args.memory_tau)
                weights = args.memory_lambda, args.memory_gamma
                columns.append(correct(probabilities, *means, *weights))
            blocks.append(collectives.all_gather_rows(torch.stack(columns, dim=1)))  # (m, 1 or 2)
        columns = torch.cat(blocks).unbind(1)
        return dict(zip((kind, f"{kind} + {args.memory}"), columns, strict=False))

    def metrics_by_slot(self, slots):
        """Table of metrics: a row per name and slot, and a row per name for all slots together.

        slots: list of RowRange

        Columns: name, slot (from 1, or "all"), rows, and the metrics.
        """
        whole = self.model.split_rows("test")
        table = []
        for name, probabilities in self.probabilities.items():
            for slot, rows in (*enumerate(slots, 1), ("all", whole)):
                of_slot = probabilities[rows.start - whole.start : rows.stop - whole.start]
                metrics = click_metrics(rows.labels(), of_slot, self.users(rows))
                table.append({"name": name, "slot": slot, "rows": len(rows), **metrics})
        return pd.DataFrame(table)

    def users(self, rows):
        """Users (n,) of a RowRange, or None if gAUC is not among the model's metrics."""
        return rows.users() if "gAUC" in self.model.evaluator.metrics else None

    def overall(self):
        """Table of the metrics of all slots together, a row per name."""
        whole = self.results[self.results["slot"] == "all"]
        return whole.set_index("name")[list(self.model.evaluator.metrics)]

    def describe(self):
        """Multiline with the metrics of all slots together."""
        how = "each is learned from after it was predicted"
        head = f"The test split as a stream of {self.args.slots} slots; {how}:"
        return f"{head}\n\n{self.overall().rename_axis(None).to_string(float_format='%.4f')}"

    def summary(self):
        """Entry of the stream in summary.json."""
        metrics = self.overall().to_dict("index")
        return {"slots": self.args.slots, "settings": self.settings, "test": metrics}

    def write_outputs(self, folder):
        """Write stream.csv and stream.png into `folder`. Returns {"stream": their paths}."""
        files = folder / STREAM, folder / STREAM_CURVES
        write_csv(files[0], self.results)
        slots = self.results[self.results["slot"] != "all"]
        panels = []
        for metric in self.model.evaluator.headline:
            groups = slots.groupby("name", sort=False)
            lines = [(name, rows[metric].tolist()) for name, rows in groups]
            panels.append(Series(lines, "slot of the test split", metric, from_zero=False))
        save_figure(files[1], f"{folder.name}: the test split as a stream", panels)
        return {"stream": files}

    def save_state(self, done, learners):
        """Save all that decides the rest of the stream.

        done: number of slots that were learned from
        learners: {kind: StreamLearner}
        """
        if self.file:
            state = {
                "done": done,
                "settings": self.settings,
                "chances": self.probabilities,
                "learners": {kind: learner.state_dict() for kind, learner in learners.items()},
            }
            if collectives.rank() == 0:
                save_checkpoint(self.file, {"identity": self.identity(), **state})

    def identity(self):
        """What must be equal in this stream and in a file to continue from."""
        return {
            "epoch": self.saved["epoch"],
            "flags": self.saved["flags"],
            "run": self.saved["identity"],
            "stream": self.args.deciding("stream"),
        }

    def load_state(self):
        """Load the state to continue from, or None if there is none of the same stream."""
        state = self.file and saved_state(self.file)
        fits = state and state["identity"] == self.identity()
        done = collectives.all_gather_ints(state["done"] if fits else 0)
        if not fits or len(set(done)) > 1:  # ranks whose files differ start anew
            return None
        log.info("the stream goes on after slot %d", state["done"])
        return state


def check_slots(data, args):
    """Raise UserError if a slot would be empty. data: dataset.Clicks"""
    names = {"test": "test"} | ({"valid": "validation"} if args.memory_tune else {})
    for split, name in names.items():
        start, stop = data.splits[split]
        if args.slots > stop - start:
            raise UserError(
                f"--slots {args.slots} is more than the {stop - start} rows of the {name} split; "
                "give fewer"
            )


def is_done(file, args):
    """Whether `file` holds the finished stream that the flags `args` ask for."""
    state = saved_state(file)
    return (
        bool(state)
        and state["done"] == args.slots
        and state["identity"]["stream"] == args.deciding("stream")
    )


def saved_state(file):
    """Load the state of a stream, or None if the file is absent or damaged: it starts anew then."""
    try:
        return load_checkpoint(file)
    except UserError:
        return None
