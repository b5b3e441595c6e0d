"""The two logs that ReLoop2's repository writes: a line per loss, and a line per evaluation."""

import time

from utils import atomic_file, name_in_errors


def log_files(folder, args):
    """The files in a run's folder, {"loss" or "evaluation": path}, of those that the flags name."""
    names = {"loss": args.loss_file_name, "evaluation": args.eval_file_name}
    return {kind: folder / name for kind, name in names.items() if name}


def append_reloop2_logs(folder, args, steps, row):
    """Append a line to each log, in the form of ReLoop2's repository.

    steps: of an epoch
    row: epoch, loss, learning rate, seconds of training and of evaluation, and the metrics
    """
    # `quality` is the first metric, AUC.
    epoch, loss, _, _, seconds, quality, *_ = row
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    found = f"dict_values([{quality}]); eval_time: {seconds}s"
    lines = {
        "loss": f"{now} epoch: {epoch} step: {steps}, loss is {loss}\n",
        "evaluation": f"{now} == EvalCallBack model.eval(): {found}\n",
    }
    for kind, path in log_files(folder, args).items():
        with name_in_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(lines[kind])


def rewind_reloop2_logs(folder, args, rows):
    """Keep the first `rows` lines of each log."""
    for path in log_files(folder, args).values():
        lines = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        with atomic_file(path, "w", encoding="utf-8") as file:
            file.writelines(lines[:rows])
