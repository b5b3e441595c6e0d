"""The loop, once for every model: epochs, evaluation, early stop, checkpoints.

A model takes part by the methods of recommender.Recommender: it trains one epoch, evaluates a
split, compares two results, and gives and takes its state.
"""

import logging
import math
import time
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from checkpointing.data_file import DATA, save_data
from checkpointing.files import load_checkpoint
from checkpointing.last_and_best import Checkpoints
from checkpointing.resume import checkpoint_state, explain_mismatch, restore, restore_best
from cli import launch
from cli.errors import Diverged, UserError
from cli.signals import NOTICE, defer_interrupts
from distributed import collectives
from distributed.group import note_run_started
from reports.console import how_to_continue, log_end, log_epoch, log_start
from reports.run import Run, SilentRun
from utils import progress_bar

log = logging.getLogger("onebp")


def fit(model, data, args, asked=None):
    """Train `model` up to its last epoch, anew or from its checkpoint; write the files of the run.

    asked: the flags that repeat the run, for flags.toml, if they are not `args`

    Returns the best epoch. Raises UserError if the checkpoint does not fit, Diverged if the loss is
    no longer finite, KeyboardInterrupt, with a line on how to continue, on Ctrl-C and the other
    signals of cli.signals.
    """
    begin, progress = time.perf_counter(), Progress()
    kind = Run if launch.is_main_process() else SilentRun
    with kind(args, model.evaluator.metrics) as run:
        checkpoints = Checkpoints(run.checkpoint_folder, args.save_every, data)
        try:
            changes = []
            if args.train_mode == "continue":
                run.check_places()
                changes = restore(model, progress, checkpoints, args)
                check_refit(changes, checkpoints, args)
                run.mend_metrics(progress)
                if nothing_to_do(model, run, progress, args):
                    log_nothing_to_do(progress, changes, args)
                    return progress.best_epoch
                rows = run.rewind()
                if launch.is_main_process():
                    model.rewind_outputs(run.folder, rows)
            else:
                model.start_training()
                run.set_aside()
                if args.has("updates") and collectives.world_size() == 1:
                    save_data(run.checkpoint_folder / DATA, data)
                note_run_started()
            run.open_log(progress.epoch, asked or args)
            earlier_seconds = sum(run.seconds())
            log_start(model, data, args, progress.epoch, changes)

            with logging_redirect_tqdm([log]):
                found = train(model, run, progress, checkpoints, args)

            result, found = final_metrics(model, progress, found, checkpoints, args)
            users, groups = found.tables(data, model.evaluator.headline) if found else (None, {})
            result |= model.final_evaluation(checkpoints.best_file, run.checkpoint_folder)
            run.check_locks()
            seconds = earlier_seconds + time.perf_counter() - begin
            outputs = {}
            if launch.is_main_process():
                outputs = model.write_outputs(run.folder, checkpoints.last_file)
            outputs |= run.write_users(users, groups)
            run.plot(model, args.select, progress.best_epoch, result["baselines"])
            run.track_result(result, outputs)
            run.write_summary(model, data, args, result, seconds)  # last: a run that has it is done
            log_end(run, checkpoints, args, result, outputs, groups)
            return progress.best_epoch
        except KeyboardInterrupt:
            how = how_to_continue(progress.epoch, checkpoints.saved_epoch, args)
            raise KeyboardInterrupt(how) from None


def check_refit(changes, checkpoints, args):
    """Raise UserError if a run to refit was trained with other flags than those of this command."""
    if changes and args.refit:
        flag, before, now = changes[0]
        raise UserError(
            f"{checkpoints.last_file} was trained with --{flag} {before}, and a refit with {now} "
            "would not be of that run; give its flags, leave --refit out, or --train_mode new"
        )


def nothing_to_do(model, run, progress, args):
    """Whether the run that is to be continued is complete. All processes ask together."""
    done = run.has_summary(progress) and model.final_evaluation_done(run.checkpoint_folder)
    return progress.done(args) and collectives.first_rank_says(done)


def log_nothing_to_do(progress, changes, args):
    """Say that a run is complete, and which flags it was trained with instead of those given."""
    where = progress.epoch, args.last_epoch
    log.info("%s is done: epoch %d of %d, nothing to do", args.run_name, *where)
    for flag, before, now in changes:
        log.warning(
            "warning: it has --%s %s, not %s; for that, --train_mode new", flag, before, now
        )


def refit(model_class, device, data, args, epochs):
    """Train a new model on training and validation split together, for `epochs` epochs.

    It is a run of its own, <run_name>-refit, with the learning rates of the run that chose the
    number of epochs, and with the values that its best epoch chose for flags `auto`. Test is
    evaluated once. A continuation goes on with it if that number and the flags are still the same.
    """
    asked, folder = args, Path(args.checkpoint_dir)
    best_file = folder / args.run_name / "best.pt"
    with explain_mismatch(best_file):
        chosen = args.trained(load_checkpoint(best_file).get("chosen_flags", {}))
        chosen = {flag: chosen[flag] for flag in args.auto_flags()}
    args = args.replace(
        **chosen,
        origin="refit",
        refit_epochs=epochs,
        run_name=f"{args.run_name}-refit",
        select="test",
        patience=None,
        eval_every=epochs,
        refit=False,
    )
    last_file, trained = folder / args.run_name / "last.pt", None
    try:
        if args.train_mode == "continue":
            with explain_mismatch(last_file):
                trained = args.trained(load_checkpoint(last_file)["flags"])
    except UserError:  # absent or damaged
        pass
    goes_on = trained == args.training_flags()
    args = args.replace(train_mode="continue" if goes_on else "new")
    data = data.with_valid_in_train()
    log.info("refit on training and validation split for %d epochs", epochs)
    fit(model_class(data, args, device), data, args, asked)


def train(model, run, progress, checkpoints, args):
    """Train the epochs after `progress`, with evaluation, early stop and checkpoints.

    Returns what was found of each user when the best epoch was evaluated on test, a
    engine.metrics.found.Found; None if not done here. A scheduler's notice that the time is
    nearly over waits until the epoch is saved; then KeyboardInterrupt is raised on all ranks.
    """
    if progress.done(args):
        return None
    steps, found = model.steps_per_epoch, None
    since_row = 0.0  # seconds of training since the last row of metrics.csv
    total, noticed = args.last_epoch * steps, False
    with (
        defer_interrupts(NOTICE) as notices,
        progress_bar("training", total, "step", progress.epoch * steps) as bar,
    ):
        while not progress.done(args) and not noticed:
            # One epoch.
            epoch, begin, improved = progress.epoch + 1, time.perf_counter(), False
            bar.set_description(f"epoch {epoch}/{args.last_epoch}", refresh=False)
            lr = learning_rate(args, epoch)
            loss = model.train_epoch(lr, bar.update)
            if not math.isfinite(loss):
                raise diverged(loss, epoch, lr, checkpoints, args)
            trained = time.perf_counter()
            since_row += trained - begin
            progress.epoch = epoch
            run.check_locks()

            # Evaluation: a row of metrics.csv, perhaps a new best epoch.
            if epoch % args.eval_every == 0 or epoch == args.last_epoch:
                metrics = model.evaluate(args.select)
                improved = progress.record(metrics, model.evaluator.better, loss, lr)
                found = model.evaluators["test"].found if improved else found
                evaluated = time.perf_counter() - trained
                row = [epoch, loss, lr, round(since_row, 6), round(evaluated, 6), *metrics.values()]
                run.add_row(row)
                if launch.is_main_process():
                    model.write_epoch(run.folder, row)
                log_epoch(epoch, loss, metrics, since_row + evaluated, improved, model, args)
                since_row = 0.0

            state = checkpoint_state(model, progress, args)
            noticed = not collectives.all_true(not notices)
            checkpoints.update(state, improved, final=progress.done(args) or noticed)
    if noticed:  # by another rank: the notice is raised where the block ends
        raise KeyboardInterrupt
    return found


def diverged(loss, epoch, lr, checkpoints, args):
    """The error for a loss that is not finite, with advice."""
    advice = {
        "lr": f"lower --lr ({lr:g})",
        "lambda_lr": "lower --lambda_lr",
        "l2": "lower --l2",
        "temperature": "raise --temperature",
    }
    ignored = args.ignored()
    what_to_do = ", or ".join(text for flag, text in advice.items() if flag not in ignored)
    where = checkpoints.describe()
    return Diverged(f"the loss is {loss} in epoch {epoch}; {what_to_do}. {where}")


def learning_rate(args, epoch):
    """Learning rate of `epoch` (from 1). The flags alone decide it: no state needs restoring.

    step: lr * lr_dc^(how many of the epochs in lr_dc_epoch are over)
    cosine: lr * (1 + cos(pi * (epoch - 1) / epochs)) / 2
        (Loshchilov & Hutter, arXiv 1608.03983, without restarts)
    """
    if args.lr_schedule == "cosine":
        return args.lr * (1 + math.cos(math.pi * (epoch - 1) / args.epochs)) / 2
    return args.lr * args.lr_dc ** sum(epoch > decay for decay in args.lr_dc_epoch)


class Progress:
    """How far a run is.

    epoch: epochs done; best_epoch: the best of them, or 0
    best, last: metrics of the best and of the last evaluated epoch, {name: value}
    since_best: evaluations since the best
    rows: of metrics.csv, without the seconds, a tensor (evaluations, 3 + metrics): epoch, loss, lr,
        and the metrics; (0,) without any
    """

    def __init__(self):
        self.epoch, self.best_epoch, self.since_best, self.best, self.last = 0, 0, 0, {}, {}
        self.rows = torch.empty(0, dtype=torch.float64)

    def record(self, metrics, better, loss, lr):
        """Note the results of this epoch. Returns whether it is the best so far.

        better: function(metrics, others), see evaluate.Evaluator
        """
        self.last = metrics
        row = [self.epoch, loss, lr, *metrics.values()]
        self.rows = torch.cat([self.rows, torch.tensor([row], dtype=torch.float64)])
        self.since_best += 1
        if self.best and not better(metrics, self.best):
            return False
        self.best, self.best_epoch, self.since_best = metrics, self.epoch, 0
        return True

    def done(self, args):
        """Whether the last epoch is reached, or --patience is exhausted."""
        stopped = args.patience is not None and self.since_best >= args.patience
        return self.epoch >= args.last_epoch or stopped


def final_metrics(model, progress, found, checkpoints, args):
    """Test metrics of the best epoch, of the last one, and of baselines, for summary.json.

    With the values that the model chose for flags `auto`. With --select valid the metrics of the
    best epoch on the validation split are under `valid`.

    found: from `train`. If it is None, as with --select valid or if an earlier process evaluated
        the best epoch, best.pt is evaluated again, and the model ends with its weights.

    Returns (them, what was found of each user at the best epoch; None for models of no ranking).
    """
    best, last, valid = progress.best, progress.last, args.select == "valid"
    if valid:
        last = model.evaluate("test")
    if valid or (found is None and model.evaluator.finds_users):
        restore_best(model, checkpoints, args, progress.best_epoch)
        again = model.evaluate("test")
        best = {**again, "valid": progress.best} if valid else best
        found = model.evaluators["test"].found
    result = {
        "best": {"epoch": progress.best_epoch, **best},
        "last": {"epoch": progress.epoch, **last},
        "baselines": model.baselines(),
        "chosen_flags": model.chosen_flags(),
    }
    return result, found
