"""torch.compile of the training step: whether it works here, and whether a run repays it."""

import inspect
import logging
import os
from functools import partial

import torch

log = logging.getLogger("onebp")

# Seconds saved per step: for each number in the rows that a step reads (BY_ROW), and for each
# number in the tables (BY_TABLE). Round figures, from steps on 100k, 1M and Gowalla on a core of an
# AMD EPYC.
SAVED_BY_ROW, SAVED_BY_TABLE = 2e-9, 1e-9
WAIT = 25  # seconds that compiling takes the first time: 20 to 25


def repays(choice, obstacle, read, size, steps):
    """Whether to compile the training step.

    choice: "on", "off", or "auto": if the run is long enough to repay the wait
    obstacle: why the step cannot be compiled, or None
    read: numbers that a step reads of the tables
    size: numbers in the tables
    steps: steps of the whole run
    """
    if choice == "off":
        return False
    saved = (SAVED_BY_ROW * read + SAVED_BY_TABLE * size) * steps
    if not obstacle and choice == "auto" and saved < WAIT:
        obstacle = f"that takes 20 to {WAIT} s the first time, to save about {saved:.0f} s"
    if obstacle:
        log.info("the training step is not compiled: %s", obstacle)
    return not obstacle


def step_compiler(by_row, device):
    """The compiler of a step's parts, for a model's `make_step`. by_row: Adam visits single rows

    Where PyTorch can keep what it compiles to one model, so that other models in the process have
    their own, a step checks its arguments alone.
    """
    # By the row, memory is the limit on a CPU: keep what was read for its second use.
    keep = by_row and device.type == "cpu"
    options = {"realize_reads_threshold": 1} if keep else {}
    one_model = {}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:  # not in PyTorch 2.6
        one_model, options["guard_filter_fn"] = {"isolate_recompiles": True}, guards_of_arguments
    return partial(torch.compile, fullgraph=True, dynamic=False, options=options, **one_model)


def guards_of_arguments(guards):
    """Which checks torch.compile keeps: those of the arguments and of PyTorch's own state.

    It would check before each step that nothing has changed that the step reads: 270 checks, which
    take a quarter of a step on 100k. The model and the modules stay as they are in training; what
    changes are values in tensors.

    guards: torch's description of each. Returns a list of bool.
    """
    return [
        not (guard.is_global or "self" in guard.name or "__import__" in guard.name)
        for guard in guards
    ]


def compiles(device):
    """Whether torch.compile works on the device, with right results. If not, a line says so."""
    # A few small kernels: worker processes would cost more than they save. Read by the compiler.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    log.info("compiling the training step: 20 to 25 s the first time, 4 s later")
    table, index = torch.ones(7, 16, device=device), torch.arange(96, device=device) % 7
    try:
        torch.compile(_halve)(table, index)
        reason = "" if (table == 0.5).all() else "gives wrong results"
    except Exception as error:  # of any kind: the absence of a C++ compiler, say
        error = getattr(error, "inner_exception", error)  # what the compiler's own error is about
        reason = "does not work: " + (str(error).strip() or type(error).__name__).splitlines()[0]
    if reason:
        what = f"torch.compile of PyTorch {torch.__version__} {reason}"
        log.warning("warning: not compiled, so slower; %s", what)
    return not reason


def _halve(table, index):
    """Halve the rows at `index`, once each: some rows occur several times, as in a training step.

    A compiled step of PyTorch 2.6 may read a repeated row after it was written, and halve it again.
    """
    table[index] = 0.5 * table.index_select(0, index)
