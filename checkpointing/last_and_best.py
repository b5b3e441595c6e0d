"""last.pt and best.pt of a run: when they are written, and how a kill between them is repaired."""

import copy
import time

from checkpointing import shards
from checkpointing.files import load_checkpoint
from cli.errors import UserError
from cli.signals import defer_interrupts
from distributed import agreement, collectives

# Without --save_every: the largest share of the time between two checkpoints that writing them may
# take. docs/training.md promises less than 5 %.
SAVING_SHARE = 0.04


class Checkpoints:
    """last.pt and best.pt of a run, written together, so that they always fit each other.

    best.pt holds the best epoch that last.pt names. A new best state is first written to
    best.next.pt. Then last.pt is replaced: from this moment the new state counts. Then best.next.pt
    is renamed to best.pt. `recover` completes what a kill interrupted.
    """

    def __init__(self, folder, save_every, data=None):
        """folder: folder of the run's checkpoints
        save_every: epochs between checkpoints; None: when writing takes under 4 % of the time
            (promised as under 5 %)
        data: the sources.share.Share with this process's users; unused in one process
        """
        self.last_file, self.best_file = folder / "last.pt", folder / "best.pt"
        self.next_file = folder / "best.next.pt"
        self.folder, self.save_every, self.data = folder, save_every, data
        self.cost, self.saved_at, self.saved_epoch = 0.0, time.perf_counter(), 0
        self.unsaved_best = None

    def update(self, state, improved, final):
        """Take the state after an epoch, and write what is due.

        improved: whether it is the best so far
        final: whether training ends here
        """
        if improved:
            self.unsaved_best = state
        if self.save_every:
            due = state["epoch"] % self.save_every == 0
        else:
            since = time.perf_counter() - self.saved_at
            due = collectives.all_true(self.cost <= SAVING_SHARE * since)
        if due or final:
            self._write(state)
        elif improved:
            self.unsaved_best = copy.deepcopy(state)  # the live tensors go on changing

    @defer_interrupts()  # what is said when a signal ends the run is then what was saved
    def _write(self, state):
        """Write last.pt, and best.pt if there is a new best state. Raises UserError: full disk."""
        begin = time.perf_counter()
        try:
            if self.unsaved_best is state:
                shards.save(state, self.data, self.next_file, self.last_file)
            else:
                if self.unsaved_best is not None:
                    shards.save(self.unsaved_best, self.data, self.next_file)
                shards.save(state, self.data, self.last_file)
        except UserError as error:
            then = "; go on from there with --train_mode continue" if self.saved_epoch else ""
            raise type(error)(f"{error}. {self.describe()}{then}") from None
        if collectives.rank() == 0:
            if self.unsaved_best is not None:
                self.next_file.replace(self.best_file)
            shards.drop_stale(self.folder, {state["epoch"], state["best_epoch"]})
        self.unsaved_best = None
        self.saved_at, self.saved_epoch = time.perf_counter(), state["epoch"]
        self.cost = self.saved_at - begin

    def recover(self, epoch, best_epoch):
        """After a kill: make best.pt the state of `best_epoch`, if it is there.

        epoch, best_epoch: what last.pt says
        """
        with agreement.raise_on_all_ranks():
            if collectives.rank() == 0:
                if self.next_file.exists():
                    if load_checkpoint(self.next_file)["epoch"] == best_epoch:
                        self.next_file.replace(self.best_file)
                    else:  # the kill came before last.pt was replaced; that epoch comes again
                        self.next_file.unlink()
                shards.drop_stale(self.folder, {epoch, best_epoch})

    def describe(self):
        """A sentence: where the last good state is."""
        if self.saved_epoch:
            return f"{self.last_file} holds epoch {self.saved_epoch}"
        return "No epoch was saved"
