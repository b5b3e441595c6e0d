"""The loop, once for every model: epochs, evaluation, early stop, checkpoints.

A model takes part by a small interface (see recommender.Recommender): it trains one epoch, evaluates a part, compares
two results, and gives and takes its state. What its numbers mean is its own affair.
"""

import logging
import math
import time
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from checkpointing import shards
from checkpointing.files import load_checkpoint
from checkpointing.last_and_best import Checkpoints
from checkpointing.resume import checkpoint_state, restore
from cli import launch
from cli.errors import Diverged, UserError
from distributed import collectives, group
from reports.console import how_to_continue, log_end, log_epoch, log_start
from reports.run import Run, SilentRun
from utils import on_terminal

log = logging.getLogger("onebp")


def fit(model, data, args):
    """Train `model` up to its last epoch, from the start or from its checkpoint, and leave the files of a run.

    Returns the best epoch. Raises UserError when the checkpoint does not fit, Diverged when the loss is no longer
    finite; KeyboardInterrupt, with a line on how to continue, on Ctrl-C.
    """
    begin = time.perf_counter()
    progress = Progress()
    with (Run if launch.is_main_process() else SilentRun)(args, model.evaluator.metrics) as run:
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
                if progress.done(args) and collectives.first_rank_says(concluded):
                    end = args.last_epoch
                    log.info(
                        "%s is done: epoch %d of %d, nothing to do",
                        args.run_name,
                        progress.epoch,
                        end,
                    )
                    for flag, before, now in changes:
                        log.warning(
                            "warning: it has --%s %s, not %s; for that, --train_mode new",
                            flag,
                            before,
                            now,
                        )
                    return progress.best_epoch
                run.rewind(progress.epoch)
            else:
                changes = []
                model.start_training()
                run.set_aside()
                group.note_run_started()
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
            raise KeyboardInterrupt(
                how_to_continue(progress.epoch, checkpoints.saved_epoch, args)
            ) from None


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
    args = args.replace(origin="refit", refit_epochs=epochs, **own)
    last_file = Path(args.checkpoint_dir) / args.run_name / "last.pt"
    try:
        trained = load_checkpoint(last_file)["flags"] if args.train_mode == "continue" else None
        goes_on = trained == args.training_flags()
    except UserError:  # absent or damaged
        goes_on = False
    args = args.replace(train_mode="continue" if goes_on else "new")
    data = data.with_valid_in_train()
    log.info("refit on training and validation part for %d epochs", epochs)
    fit(model_class(data, args, device), data, args)


def train(model, run, progress, checkpoints, args):
    """Epochs from the one after `progress` to the last, with evaluation, early stop and checkpoints."""
    steps = model.steps_per_epoch
    done, total, hidden = progress.epoch * steps, args.last_epoch * steps, not on_terminal()
    bar = tqdm(initial=done, total=total, unit="step", leave=False, disable=hidden)
    since_row = 0.0  # seconds of training since the last row of metrics.csv
    with bar:
        while not progress.done(args):
            epoch, begin, improved = progress.epoch + 1, time.perf_counter(), False
            bar.set_description(f"epoch {epoch}/{args.last_epoch}", refresh=False)
            lr = learning_rate(args, epoch)
            loss = model.train_epoch(lr, bar.update)
            if not math.isfinite(loss):
                flags = {
                    "lr": f"lower --lr ({lr:g})",
                    "lambda_lr": "lower --lambda_lr",
                    "l2": "lower --l2",
                }
                flags["temperature"] = "raise --temperature"
                advice = ", or ".join(
                    text for flag, text in flags.items() if flag not in args.ignored()
                )
                raise Diverged(
                    f"the loss is {loss} in epoch {epoch}; {advice}. {checkpoints.describe()}"
                )
            trained = time.perf_counter()
            since_row += trained - begin
            progress.epoch = epoch
            if epoch % args.eval_every == 0 or epoch == args.last_epoch:
                metrics = model.evaluate(args.select)
                improved = progress.record(metrics, model.better)
                evaluated = time.perf_counter() - trained
                row = [epoch, loss, lr, round(since_row, 6), round(evaluated, 6), *metrics.values()]
                run.add_row(row)
                run.journalise(steps, row)
                log_epoch(epoch, loss, metrics, since_row + evaluated, improved, model, args)
                since_row = 0.0
            checkpoints.update(
                checkpoint_state(model, progress, args), improved, final=progress.done(args)
            )


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
        return self.epoch >= args.last_epoch or (
            args.patience is not None and self.since_best >= args.patience
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
