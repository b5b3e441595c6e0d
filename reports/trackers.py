"""--log: the programs in which people look at many runs: TensorBoard, Weights & Biases, MLflow.

Their packages are optional, and imported where they are used.
"""

import importlib
import json
import os
from contextlib import contextmanager

from cli.errors import UserError, message_of
from reports import names
from utils import atomic_file


class Tracker:
    """What a run tells such a program; a subclass for each of them.

    A subclass sets the class attributes and implements the methods that raise NotImplementedError.
    """

    log = None  # value of --log
    package = None  # what pip installs
    module = None  # what is imported
    advice = None  # what to do if it cannot be reached

    def __init__(self, folder, name, flags, epoch):
        """Open the run, or open it again.

        folder: of the run's files
        name: of the run
        flags: {flag: value} that repeat the run
        epoch: epochs done, 0 for a new run
        """
        self.folder, self.flags = folder, flags
        with self.explain():
            self.open(name, epoch)

    @classmethod
    def check_installed(cls):
        """Raise UserError if the package is not installed."""
        try:
            importlib.import_module(cls.module)
        except ImportError as error:
            raise cls.absent(error) from None

    @classmethod
    def absent(cls, error):
        """The UserError for an ImportError."""
        what = f"--log {cls.log} needs a package ({error})"
        return UserError(f"{what}: pip install {cls.package}")

    @contextmanager
    def explain(self):
        """Turn what the package raises into a UserError."""
        try:
            yield
        except ImportError as error:
            raise self.absent(error) from None
        except Exception as error:
            if message_of(error) or not type(error).__module__.startswith(f"{self.log}."):
                raise
            reason = str(error).split("\n")[0].split(". ")[0]
            raise UserError(f"--log {self.log}: {reason}; {self.advice}") from None

    def add_epoch(self, epoch, values):
        """Add a row of metrics.csv. values: {column: number}"""
        with self.explain():
            self.write_epoch(epoch, values)

    def add_result(self, epoch, result, figures):
        """Add what a run has in the end, beside its flags.

        epoch: the last; result: {name: number}; figures: paths of PNG files
        """
        with self.explain():
            self.write_result(epoch, result, figures)

    def end(self, failed):
        """End the run, for now. failed: whether an error ended it"""
        with self.explain():
            self.close(failed)

    def open(self, name, epoch):
        """See __init__."""
        raise NotImplementedError

    def write_epoch(self, epoch, values):
        """See add_epoch."""
        raise NotImplementedError

    def write_result(self, epoch, result, figures):
        """See add_result."""
        raise NotImplementedError

    def close(self, failed):
        """See end."""
        raise NotImplementedError


class TensorBoard(Tracker):
    """Curves, and HParams and images at the end, in the folder `tensorboard` of the run."""

    log, package, module = "tensorboard", "tensorboard", "torch.utils.tensorboard"
    suffix = ".result"  # of the file with all that a run has in the end

    def open(self, name, epoch):
        from torch.utils.tensorboard import SummaryWriter

        self.files = self.folder / names.TENSORBOARD
        # A step to purge hides what an interrupted run wrote after `epoch`.
        self.writer = SummaryWriter(str(self.files), purge_step=epoch + 1)

    def write_epoch(self, epoch, values):
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def write_result(self, epoch, result, figures):
        """Replaces that of an earlier end.

        SummaryWriter.add_hparams would make a folder for it, and so a second run.
        """
        from matplotlib.image import imread
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        for earlier in self.files.glob(f"*{self.suffix}"):
            earlier.unlink()
        flags = {flag: as_text(value) for flag, value in self.flags.items()}
        with SummaryWriter(str(self.files), filename_suffix=self.suffix) as writer:
            for summary in hparams(flags, result):
                writer.file_writer.add_summary(summary)
            for name, value in result.items():
                writer.add_scalar(name, value, epoch)
            for figure in figures:
                image = imread(figure)[..., :3]  # (height, width, RGB), without transparency
                writer.add_image(figure.stem, image, epoch, dataformats="HWC")

    def close(self, failed):
        self.writer.close()


class Remembered(Tracker):
    """A program that keeps runs by an id, and can take nothing back.

    <log>.json in the run's folder has the id and the last epoch that was written. A continuation
    goes on in that run; epochs that it trains once more are there already.
    """

    def open(self, name, epoch):
        self.memory, known = self.folder / f"{self.log}.json", {}
        if epoch and self.memory.exists():
            known = self.remembered()
        self.last = known.get("epoch", 0)
        self.id = self.go_on(known.get("id"), name)
        self.remember()

    def remembered(self):
        """What `remember` wrote. Raises UserError if it is damaged."""
        try:
            known = json.loads(self.memory.read_text())
            if isinstance(known["id"], str) and isinstance(known["epoch"], int):
                return known
        except (ValueError, LookupError, TypeError):
            pass
        raise UserError(f"{self.memory} is damaged; remove it, and {self.log} shows a new run")

    def remember(self):
        with atomic_file(self.memory, "w") as file:
            json.dump({"id": self.id, "epoch": self.last}, file)

    def write_epoch(self, epoch, values):
        if epoch > self.last:
            self.last = epoch
            self.remember()  # first: a kill may lose a point, but doubles none
            self.write_new_epoch(epoch, values)

    def go_on(self, known, name):
        """Open the run with the id `known`, or a new one if that is None. Returns its id."""
        raise NotImplementedError

    def write_new_epoch(self, epoch, values):
        """See add_epoch; each epoch comes once."""
        raise NotImplementedError


class WandB(Remembered):
    """Weights & Biases. Offline, its files are in the folder `wandb` of the run."""

    log = package = module = "wandb"
    advice = "run `wandb login`, or set WANDB_MODE=offline"

    def go_on(self, known, name):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "onebp"),
            id=known,
            name=name,
            dir=self.folder,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),  # log.txt has the output
        )
        self.run.config.update(self.flags, allow_val_change=True)
        return self.run.id

    def write_new_epoch(self, epoch, values):
        self.run.log(values, step=epoch)

    def write_result(self, epoch, result, figures):
        import wandb

        self.run.summary.update(result)
        self.run.log({path.stem: wandb.Image(str(path)) for path in figures}, step=epoch)

    def close(self, failed):
        self.run.finish(exit_code=int(failed))


class MLflow(Remembered):
    """MLflow, in the store that MLFLOW_TRACKING_URI names."""

    log = package = module = "mlflow"
    advice = "check MLFLOW_TRACKING_URI, sqlite:///mlflow.db say"

    def go_on(self, known, name):
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "onebp"))
        run = mlflow.start_run(run_id=known, run_name=name)
        flags = {flag: str(as_text(value)) for flag, value in self.flags.items()}
        before = run.data.params if known else {}
        mlflow.log_params({flag: v for flag, v in flags.items() if flag not in before})
        # MLflow lets no parameter change: a flag that a continuation changes is a tag.
        changed = {flag: v for flag, v in flags.items() if before.get(flag, v) != v}
        mlflow.set_tags({f"continued with {flag}": value for flag, value in changed.items()})
        return run.info.run_id

    def write_new_epoch(self, epoch, values):
        self.mlflow.log_metrics(self.named(values), step=epoch)

    def write_result(self, epoch, result, figures):
        self.mlflow.log_metrics(self.named(result), step=epoch)
        for figure in figures:
            self.mlflow.log_artifact(str(figure))

    @staticmethod
    def named(values):
        """{name: number} by names that MLflow takes, which have no @."""
        return {name.replace("@", "_at_"): value for name, value in values.items()}

    def close(self, failed):
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


def as_text(value):
    """A flag's value, a list as a text."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


TRACKERS = {tracker.log: tracker for tracker in (TensorBoard, WandB, MLflow)}


def numbers_of(result):
    """{name: number} of a result from train.final_metrics: of the best epoch, and what chose it."""
    best = {f"best/{name}": value for name, value in result["best"].items() if name != "valid"}
    valid = result["best"].get("valid", {})
    return best | {f"best_valid/{name}": value for name, value in valid.items()}
