"""torch.compile of the training step: whether it works here, and whether a run is long enough to repay it."""

import logging
import os

import torch

log = logging.getLogger("onebp")


# Seconds that compiling saves, per step and per number: in the rows that a step touches, in the tables. Seconds that it
# takes the first time. Round figures, from steps on 100k, 1M and Gowalla on a core of an AMD EPYC.
SAVED_BY_ROW, SAVED_BY_TABLE, WAIT = 2e-9, 1e-9, 25


def compiles(device):
    """Whether torch.compile works, and rightly, for the device; where it does not, a line says so."""
    # A few small kernels: worker processes would cost more than they save. Read when the compiler is loaded.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    log.info("compiling the training step: about 20 s the first time, 4 s later")
    table, index = torch.ones(7, 16, device=device), torch.arange(96, device=device) % 7
    try:
        torch.compile(_halve)(table, index)
        reason = "" if (table == 0.5).all() else "gives wrong results"
    except Exception as error:  # of whatever kind the absence of a C++ compiler, say, provokes
        error = getattr(error, "inner_exception", error)  # what the compiler's own error is about
        reason = "does not work: " + (str(error).strip() or type(error).__name__).splitlines()[0]
    if reason:
        log.warning(
            "warning: not compiled, so slower; torch.compile of PyTorch %s %s",
            torch.__version__,
            reason,
        )
    return not reason


def _halve(table, index):
    """Halve the rows at `index` once, as the training step updates rows that it touches several times.

    Compiled by PyTorch 2.6, repeats find their row already written, and halve it again.
    """
    table[index] = 0.5 * table.index_select(0, index)
