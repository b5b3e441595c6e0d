"""--log: what TensorBoard, Weights & Biases and MLflow are told of a run.

The last two are stand-ins that record what they are told: the packages are large.
"""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tools import write

from cli.errors import UserError
from cli.metrics import CHOSEN, CUTOFFS, names_of
from reports.trackers import TRACKERS, MLflow, WandB

METRICS = names_of(CHOSEN, CUTOFFS)

RUN = "demo-OneBP-MF"


class FakeWandB(ModuleType):
    """wandb: runs by id, whose history and summary a test reads."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.Image, self.Settings = {}, lambda path: path, dict

    def init(self, id, name, dir, project, resume, settings):
        assert (name, project, resume) == ("n", "onebp", "allow")
        return self.runs.setdefault(id or f"id{len(self.runs)}", FakeRun(id or "id0"))


class FakeRun:
    def __init__(self, id):
        self.id, self.history, self.summary, self.exits = id, [], {}, []
        self.config = SimpleNamespace(update=self.configure)

    def configure(self, flags, allow_val_change):
        assert allow_val_change
        self.flags = dict(flags)

    def log(self, values, step):
        self.history.append((step, values))

    def finish(self, exit_code):
        self.exits.append(exit_code)


class FakeMLflow(ModuleType):
    """mlflow: as strict as it is about names, and parameters that change."""

    class MlflowException(Exception):
        pass

    MlflowException.__module__ = "mlflow.exceptions"

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.history, self.tags, self.files, self.ends = {}, [], {}, [], []

    def set_experiment(self, name):
        if name == "unreachable":
            raise self.MlflowException("no answer from there. And\nmore")
        assert name == "onebp"

    def start_run(self, run_id, run_name):
        run_id = run_id or f"id{len(self.runs)}"
        self.params = self.runs.setdefault(run_id, {})
        return SimpleNamespace(
            info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(params=dict(self.params))
        )

    def log_params(self, params):
        assert not params.keys() & self.params.keys()
        assert all(isinstance(value, str) for value in params.values())
        self.params |= params

    def set_tags(self, tags):
        self.tags |= tags

    def log_metrics(self, values, step):
        assert not any("@" in name for name in values)
        self.history.append((step, values))

    def log_artifact(self, path):
        self.files.append(path)

    def end_run(self, status):
        self.ends.append(status)


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandB())
    return sys.modules["wandb"]


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeMLflow())
    return sys.modules["mlflow"]


def tell(tracker, epochs):
    """Add epochs, then a result with a figure, then end."""
    for epoch in epochs:
        tracker.add_epoch(epoch, {"Recall@20": epoch / 10})
    tracker.add_result(epochs[-1], {"best/Recall@20": 0.5}, [tracker.folder / "curves.png"])
    tracker.end(failed=False)


def test_wandb_goes_on_in_the_same_run_without_doubled_points(wandb, tmp_path):
    killed = WandB(tmp_path, "n", {"lr": 0.1, "epochs": 3}, 0)
    for epoch in (1, 2, 3):
        killed.add_epoch(epoch, {"Recall@20": epoch / 10})
    tell(WandB(tmp_path, "n", {"lr": 0.1, "epochs": 4}, 2), [3, 4])  # the checkpoint was of 2
    (run,) = wandb.runs.values()
    image = {"curves": str(tmp_path / "curves.png")}
    assert run.history == [(e, {"Recall@20": e / 10}) for e in (1, 2, 3, 4)] + [(4, image)]
    assert (run.flags, run.exits) == ({"lr": 0.1, "epochs": 4}, [0])
    assert run.summary == {"best/Recall@20": 0.5}
    WandB(tmp_path, "n", {}, 0).end(failed=True)  # a new run is another one
    assert [run.exits for run in wandb.runs.values()] == [[0], [1]]


def test_mlflow_goes_on_in_the_same_run_without_doubled_points(mlflow, tmp_path):
    killed = MLflow(tmp_path, "n", {"lr": 0.1, "epochs": 3, "hidden": [1, 2]}, 0)
    for epoch in (1, 2, 3):
        killed.add_epoch(epoch, {"Recall@20": epoch / 10})
    killed.end(failed=True)
    tell(MLflow(tmp_path, "n", {"lr": 0.1, "epochs": 4, "hidden": [1, 2]}, 2), [3, 4])
    expected = [(epoch, {"Recall_at_20": epoch / 10}) for epoch in (1, 2, 3, 4)]
    assert mlflow.history == [*expected, (4, {"best/Recall_at_20": 0.5})]
    assert mlflow.runs == {"id0": {"lr": "0.1", "epochs": "3", "hidden": "1 2"}}
    assert mlflow.tags == {"continued with epochs": "4"}
    assert (mlflow.ends, mlflow.files) == (["FAILED", "FINISHED"], [str(tmp_path / "curves.png")])


def test_a_program_that_does_not_answer_is_one_line(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "unreachable")
    with pytest.raises(UserError, match="mlflow: no answer from there; check"):
        MLflow(tmp_path, "n", {}, 0)


@pytest.mark.parametrize("log", TRACKERS)
def test_an_absent_package_is_one_line_and_leaves_an_earlier_run(cli, work, monkeypatch, log):
    monkeypatch.setitem(sys.modules, TRACKERS[log].module, None)
    earlier = work / "runs" / RUN
    earlier.mkdir(parents=True)
    status, stdout, stderr = cli("--epochs", 1, "--dim", 4, "--log", log)
    assert (status, stderr.count("\n")) == (2, 1)
    assert f"pip install {TRACKERS[log].package}" in stderr
    assert "epoch 1" not in stdout
    assert [*earlier.parent.iterdir()] == [earlier]
    assert not [*earlier.iterdir()]


def test_the_rows_of_a_run_arrive(cli, work, mlflow):
    """All columns of metrics.csv, the flags of flags.toml, the best epoch, the figures."""
    assert cli("--epochs", 2, "--dim", 4, "--log", "mlflow", "--select", "valid")[0] == 0
    rows = pd.read_csv(f"runs/{RUN}/metrics.csv")
    names = [name.replace("@", "_at_") for name in rows.columns[1:]]
    for (step, values), row in zip(mlflow.history[:2], rows.to_numpy(), strict=True):
        assert [step, *(values[name] for name in names)] == pytest.approx(row)
    assert {"best/epoch", "best/NDCG_at_20", "best_valid/NDCG_at_20"} <= mlflow.history[2][1].keys()
    assert (mlflow.params["dim"], mlflow.params["dataset"]) == ("4", "demo")
    assert "device" not in mlflow.params
    figures = [f"runs/{RUN}/{name}.png" for name in ("curves", "groups")]
    figures = [f"runs/{RUN}/{name}.png" for name in ("curves", "groups")]
    assert (mlflow.files, mlflow.ends) == (figures, ["FINISHED"])


def test_tensorboard_has_rows_flags_and_figures_once(cli, work):
    """What an interrupted run wrote, and its continuation repeats, is not there twice."""
    pytest.importorskip("tensorboard")
    reader = "tensorboard.backend.event_processing.event_accumulator"
    from tensorboard.plugins.hparams import plugin_data_pb2

    for epochs, mode in ((2, "new"), (3, "continue")):
        words = ("--epochs", epochs, "--dim", 8, "--log", "tensorboard", "--train_mode", mode)
        assert cli(*words)[0] == 0
    rows = pd.read_csv(f"runs/{RUN}/metrics.csv")
    board = importlib.import_module(reader).EventAccumulator(f"runs/{RUN}/tensorboard").Reload()
    for name in ("loss", "lr", *METRICS):
        events = board.Scalars(name)
        assert [event.step for event in events] == rows["epoch"].tolist()
        np.testing.assert_allclose([event.value for event in events], rows[name], rtol=1e-6)
    best = rows["Recall@20"].max()
    (event,) = board.Scalars("best/Recall@20")
    assert (event.step, event.value) == (3, pytest.approx(best, rel=1e-6))
    assert [len(board.Images(tag)) for tag in board.Tags()["images"]] == [1, 1]

    # What the HParams plugin reads: the flags, and the names of the metrics.
    def content(tag):
        data = board.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(data)

    flags = content("session_start_info").session_start_info.hparams
    assert (flags["epochs"].number_value, flags["dataset"].string_value) == (3, "demo")
    names = {info.name.tag for info in content("experiment").experiment.metric_infos}
    assert {f"best/{metric}" for metric in METRICS} <= names


@pytest.mark.parametrize("text", ["", "[1]", '{"id": "a"}', '{"id": 3, "epoch": 1}', '{"id": "a'])
def test_a_damaged_memory_of_a_run_is_told(work, text):
    tracker = object.__new__(WandB)
    tracker.memory = write(work / "wandb.json", text)
    with pytest.raises(UserError, match=r"wandb.json is damaged; remove it"):
        tracker.remembered()
