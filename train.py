"""The loop, once for every model: epochs, evaluation, early stop, checkpoints.

A model takes part by a small interface (see recommender.Recommender): it trains one epoch, evaluates a part, compares
two results, and gives and takes its state. What its numbers mean is its own affair.
"""

import argparse
import copy
import logging
import math
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import launch
import ranks
import shards
from errors import Diverged, OfAll, UserError, explain
from ignored import MEMORY, ignored_flags
from parse import last_epoch
from report import Bystander, Run, how_to_continue, log_end, log_epoch, log_start
from utils import load_checkpoint, on_terminal

log = logging.getLogger("onebp")

SAVING_SHARE = 0.04  # of the time from one checkpoint to the next may go into writing them
# Flags about where and how long, not about what is trained: a continuation may change them without a warning.
FREE_FLAGS = {"train_mode", "run_name", "device", "log_root", "checkpoint_dir", "save_every", "data_dir", "no_download"}
FREE_FLAGS |= {"epochs", "eval_every", "patience", "refit", "l2_grid", "threads", "timeout", "origin"}
FREE_FLAGS |= {"eval_file_name", "loss_file_name", "incremental", "incremental_lr", "slots", "memory", *MEMORY.split()}
FREE_FLAGS |= {"mode", "checkpoint", "users", "history", "passes", "topk", "keep_seen", "output", "log"}


def fit(model, data, args):
    """Train `model` up to its last epoch, from the start or from its checkpoint, and leave the files of a run.

    Returns the best epoch. Raises UserError when the checkpoint does not fit, Diverged when the loss is no longer
    finite; KeyboardInterrupt, with a line on how to continue, on Ctrl-C.
    """
    begin = time.perf_counter()
    progress = Progress()
    with (Run if launch.leads() else Bystander)(args, model.evaluator.metrics) as run:
        checkpoints = Checkpoints(run.checkpoint_folder, args.save_every, data)
        try:
            if args.train_mode == "continue":
                changes = restore(model, progress, checkpoints, args)
                if changes and args.refit:
                    flag, before, now = changes[0]
                    raise UserError(
                        f"{checkpoints.last_file} was trained with --{flag} {before}, and a refit with {now} would not "
                        "be of that run; give its flags, leave --refit out, or --train_mode new"
                    )
                concluded = run.summary_file.exists() and model.concluded(run.checkpoint_folder)
                if progress.done(args) and ranks.of_first(concluded):
                    end = last_epoch(args)
                    log.info("%s is done: epoch %d of %d, nothing to do", args.run_name, progress.epoch, end)
                    for flag, before, now in changes:
                        log.warning("warning: it has --%s %s, not %s; for that, --train_mode new", flag, before, now)
                    return progress.best_epoch
                run.rewind(progress.epoch)
            else:
                changes = []
                model.start_training()
                run.set_aside()
                ranks.note_begun()
            run.open_log(progress.epoch)
            earlier_seconds = sum(run.seconds())
            log_start(model, data, args, progress.epoch, changes)
            with logging_redirect_tqdm([log]):
                if not progress.done(args):
                    train(model, run, progress, checkpoints, args)
            result = final_metrics(model, progress, checkpoints, args)
            result |= model.conclude(checkpoints.best_file, run.checkpoint_folder)
            seconds = earlier_seconds + time.perf_counter() - begin
            left = model.leave(run.folder, checkpoints.last_file)
            run.plot(model, args.select, progress.best_epoch, result["baselines"])
            run.write_summary(model, data, args, result, seconds)  # a run that has one is done
            log_end(run, checkpoints, args, result, left)
            return progress.best_epoch
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_continue(progress.epoch, checkpoints.saved_epoch, args)) from None


def refit(model_class, device, data, args, epochs):
    """Train a new model on training and validation part together, for the `epochs` that the validation part chose.

    It is a run of its own, <run_name>-refit, with the learning rates of the run that chose; test is evaluated once. A
    continuation goes on with it where the choice and the flags are still the same.
    """
    own = {
        "run_name": f"{args.run_name}-refit",
        "select": "test",
        "patience": None,
        "eval_every": epochs,
        "refit": False,
    }
    origin = args.origin | dict.fromkeys(own, "refit")
    args = argparse.Namespace(**{**vars(args), **own, "origin": origin, "refit_epochs": epochs})
    last_file = Path(args.checkpoint_dir) / args.run_name / "last.pt"
    try:
        goes_on = args.train_mode == "continue" and load_checkpoint(last_file)["flags"] == trained_flags(args)
    except UserError:  # absent or damaged
        goes_on = False
    args.train_mode = "continue" if goes_on else "new"
    data = data.with_valid_in_train()
    log.info("refit on training and validation part for %d epochs", epochs)
    fit(model_class(data, args, device), data, args)


def train(model, run, progress, checkpoints, args):
    """Epochs from the one after `progress` to the last, with evaluation, early stop and checkpoints."""
    steps = model.steps_per_epoch
    done, total, hidden = progress.epoch * steps, last_epoch(args) * steps, not on_terminal()
    bar = tqdm(initial=done, total=total, unit="step", leave=False, disable=hidden)
    since_row = 0.0  # seconds of training since the last row of metrics.csv
    with bar:
        while not progress.done(args):
            epoch, begin, improved = progress.epoch + 1, time.perf_counter(), False
            bar.set_description(f"epoch {epoch}/{last_epoch(args)}", refresh=False)
            lr = learning_rate(args, epoch)
            loss = model.train_epoch(lr, bar.update)
            if not math.isfinite(loss):
                flags = {"lr": f"lower --lr ({lr:g})", "lambda_lr": "lower --lambda_lr", "l2": "lower --l2"}
                flags["temperature"] = "raise --temperature"
                advice = ", or ".join(text for flag, text in flags.items() if flag not in ignored_flags(args))
                raise Diverged(f"the loss is {loss} in epoch {epoch}; {advice}. {checkpoints.describe()}")
            trained = time.perf_counter()
            since_row += trained - begin
            progress.epoch = epoch
            if epoch % args.eval_every == 0 or epoch == last_epoch(args):
                metrics = model.evaluate(args.select)
                improved = progress.record(metrics, model.better)
                evaluated = time.perf_counter() - trained
                row = [epoch, loss, lr, round(since_row, 6), round(evaluated, 6), *metrics.values()]
                run.add_row(row)
                run.journalise(steps, row)
                log_epoch(epoch, loss, metrics, since_row + evaluated, improved, model, args)
                since_row = 0.0
            checkpoints.update(full_state(model, progress, args), improved, final=progress.done(args))


def learning_rate(args, epoch):
    """Learning rate of `epoch` (from 1): a function of the flags alone, so a continuation has nothing to restore.

    step: lr * lr_dc^(number of the epochs in lr_dc_epoch that are over);
    cosine: lr * (1 + cos(pi * (epoch - 1) / epochs)) / 2 (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
    """
    if args.lr_schedule == "cosine":
        return args.lr * (1 + math.cos(math.pi * (epoch - 1) / args.epochs)) / 2
    return args.lr * args.lr_dc ** sum(epoch > decay for decay in args.lr_dc_epoch)


class Progress:
    """How far a run is: epochs done, the best epoch and its metrics, the last metrics, evaluations since the best."""

    def __init__(self):
        self.epoch, self.best_epoch, self.since_best, self.best, self.last = 0, 0, 0, {}, {}

    def record(self, metrics, better):
        """Note the metrics of this epoch; returns whether it is the best so far. better(metrics, others): see model."""
        self.last = metrics
        self.since_best += 1
        if self.best and not better(metrics, self.best):
            return False
        self.best, self.best_epoch, self.since_best = metrics, self.epoch, 0
        return True

    def done(self, args):
        """Whether the last epoch is reached, or patience is at its end."""
        return self.epoch >= last_epoch(args) or (args.patience is not None and self.since_best >= args.patience)


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
            due = ranks.agree(self.cost <= SAVING_SHARE * (time.perf_counter() - self.saved_at))
        if due or final:
            begin = time.perf_counter()
            if self.unsaved_best is state:
                shards.save(state, self.data, self.next_file, self.last_file)
            else:
                if self.unsaved_best is not None:
                    shards.save(self.unsaved_best, self.data, self.next_file)
                shards.save(state, self.data, self.last_file)
            if ranks.rank() == 0:
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
        with ranks.together():
            if ranks.rank() == 0:
                self._recover(best_epoch)
                shards.drop_stale(self.folder, {epoch, best_epoch})

    def _recover(self, best_epoch):
        if self.next_file.exists():
            if load_checkpoint(self.next_file)["epoch"] == best_epoch:
                self.next_file.replace(self.best_file)
            else:  # killed before last.pt was replaced; the run comes to that epoch again
                self.next_file.unlink()
        if best_epoch and load_checkpoint(self.best_file)["epoch"] != best_epoch:
            raise UserError(f"{self.best_file} is not of epoch {best_epoch}, the best by {self.last_file}; put it back")

    def describe(self):
        """Where the last good state is."""
        return f"{self.last_file} holds epoch {self.saved_epoch}" if self.saved_epoch else "No epoch was saved"


def full_state(model, progress, args):
    """The checkpoint after an epoch: tensors and plain types. The tensors are the live ones."""
    about = {"identity": identity(model, args), "flags": trained_flags(args)}
    return {**vars(progress), **about, "model": model.state_dict()}


def identity(model, args):
    """What a checkpoint must have in common with this run to be taken over."""
    return {"select": args.select, "seed": args.seed, "refit_epochs": args.refit_epochs, **model.identity}


def trained_flags(args):
    """The flags that decide what is trained, by name."""
    flags = {flag: value for flag, value in vars(args).items() if flag not in FREE_FLAGS}
    if args.lr_schedule == "cosine":
        flags["epochs"] = args.epochs  # the decay is spread over them
    return flags


def restore(model, progress, checkpoints, args):
    """Bring model and progress to the state of last.pt. Returns [(flag, value then, value now)] of the changed flags.

    Raises UserError where the checkpoint is absent, damaged, not whole, or of another model or data set.
    """
    path = checkpoints.last_file
    with ranks.together():
        state = shards.load(path, model.data)
        with fitting(path):
            check_identity(path, state, model, args)
    ranks.check_alike({f"{path} of epoch": state["epoch"]})
    with fitting(path):
        for name in vars(progress):
            setattr(progress, name, state[name])
        if progress.done(args):
            model.load_weights(state["model"])
        else:
            model.start_training(state["model"])
        checkpoints.recover(progress.epoch, progress.best_epoch)
        checkpoints.saved_epoch = progress.epoch
        before = state["flags"].get("ranking", "users")  # once there was no choice
        if before != args.ranking:
            raise OfAll(
                f"{path} was trained with --ranking {before}, by whose metrics it goes on; "
                "give that, another --run_name, or --train_mode new"
            )
        return changed_flags(state, args)


def changed_flags(state, args):
    """[(flag, value then, value now)] of the flags that the checkpoint's `state` was trained with and args have not."""
    before, now = state["flags"], trained_flags(args)
    return [(flag, before[flag], now[flag]) for flag in now if flag in before and before[flag] != now[flag]]


@contextmanager
def fitting(path):
    """Where the block takes over the checkpoint `path`: a UserError for what does not fit the model."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        if explain(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} does not fit this model ({reason}); start with --train_mode new") from None


def check_identity(path, state, model, args):
    """Raise UserError where the checkpoint `path` with `state` is of another model, data set, seed or protocol."""
    for name, value in identity(model, args).items():
        if (found := state["identity"].get(name)) != value:
            raise UserError(
                f"{path} has {name} {found!s:.12}, this command {value!s:.12}; "
                "give the flags and data of that run, another --run_name, or --train_mode new"
            )


def final_metrics(model, progress, checkpoints, args):
    """Test metrics of the best epoch, of the last epoch, and of the baselines, for summary.json.

    With --select valid the model ends with the weights of the best epoch, and `best` has the `valid` metrics beside it.
    """
    best, last = progress.best, progress.last
    if args.select == "valid":
        last = model.evaluate("test")
        model.load_weights(shards.load(checkpoints.best_file, model.data)["model"])
        best = {**model.evaluate("test"), "valid": progress.best}
    return {
        "best": {"epoch": progress.best_epoch, **best},
        "last": {"epoch": progress.epoch, **last},
        "baselines": model.baselines(),
    }
