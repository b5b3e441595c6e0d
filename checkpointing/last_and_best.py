"""last.pt and best.pt of a run: when they are written, and how a kill between them is mended."""

import copy
import time

from checkpointing import shards
from checkpointing.files import load_checkpoint
from cli.errors import UserError
from distributed import agreement, collectives

SAVING_SHARE = 0.04  # of the time from one checkpoint to the next may go into writing them


class Checkpoints:
    """last.pt and best.pt of a run, written together: every `save_every` epochs, or (None) when it costs little.

    They always fit: the best epoch that last.pt names is the one in best.pt. A new best state goes to best.next.pt;
    replacing last.pt is what decides; then best.next.pt is renamed. `recover` finishes what a kill cut off.
    """

    def __init__(self, folder, save_every, data=None):
        """data: this rank's, where there are several."""
        self.last_file, self.best_file, self.next_file = (
            folder / f"{name}.pt" for name in ("last", "best", "best.next")
        )
        self.folder, self.save_every, self.data = folder, save_every, data
        self.cost, self.saved_at, self.saved_epoch = 0.0, time.perf_counter(), 0
        self.unsaved_best = None

    def update(self, state, improved, final):
        """Take note of the state after an epoch and write what is due."""
        if improved:
            self.unsaved_best = state
        if self.save_every:
            due = state["epoch"] % self.save_every == 0
        else:
            due = collectives.agree(
                self.cost <= SAVING_SHARE * (time.perf_counter() - self.saved_at)
            )
        if due or final:
            begin = time.perf_counter()
            if self.unsaved_best is state:
                shards.save(state, self.data, self.next_file, self.last_file)
            else:
                if self.unsaved_best is not None:
                    shards.save(self.unsaved_best, self.data, self.next_file)
                shards.save(state, self.data, self.last_file)
            if collectives.rank() == 0:
                if self.unsaved_best is not None:
                    self.next_file.replace(self.best_file)
                shards.drop_stale(self.folder, {state["epoch"], state["best_epoch"]})
            self.unsaved_best = None
            self.saved_at, self.saved_epoch = time.perf_counter(), state["epoch"]
            self.cost = self.saved_at - begin
        elif improved:
            self.unsaved_best = copy.deepcopy(state)  # the live tensors go on changing

    def recover(self, epoch, best_epoch):
        """After a kill: make best.pt the state of `best_epoch`, as last.pt, of `epoch`, says.

        Raises UserError where it is lost.
        """
        with agreement.raise_on_all_ranks():
            if collectives.rank() == 0:
                self._recover(best_epoch)
                shards.drop_stale(self.folder, {epoch, best_epoch})

    def _recover(self, best_epoch):
        if self.next_file.exists():
            if load_checkpoint(self.next_file)["epoch"] == best_epoch:
                self.next_file.replace(self.best_file)
            else:  # killed before last.pt was replaced; the run comes to that epoch again
                self.next_file.unlink()
        if best_epoch and load_checkpoint(self.best_file)["epoch"] != best_epoch:
            raise UserError(
                f"{self.best_file} is not of epoch {best_epoch}, the best by {self.last_file}; put it back"
            )

    def describe(self):
        """Where the last good state is."""
        return (
            f"{self.last_file} holds epoch {self.saved_epoch}"
            if self.saved_epoch
            else "No epoch was saved"
        )
