"""The loop: schedules, early stopping, selection, what a run leaves, what ends it early."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import train
from checkpointing import shards
from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.last_and_best import Checkpoints
from evaluate import Ranking
from families import load_data
from families.ratings.svd import SVD
from parse import parse_args
from train import Progress, learning_rate

FAST = ("--epochs", 3, "--dim", 8)
METRICS = Ranking.metrics


def test_learning_rate():
    args = parse_args(["--lr", "0.8", "--lr_dc", "0.5", "--lr_dc_epoch", "2", "5", "--epochs", "7"])
    assert [learning_rate(args, epoch) for epoch in range(1, 8)] == [
        0.8,
        0.8,
        0.4,
        0.4,
        0.4,
        0.2,
        0.2,
    ]
    args = parse_args(["--lr", "0.8", "--lr_schedule", "cosine", "--epochs", "4"])
    expected = [0.8 * (1 + math.cos(math.pi * part)) / 2 for part in (0, 0.25, 0.5, 0.75)]
    assert [learning_rate(args, epoch) for epoch in range(1, 5)] == pytest.approx(expected)


def test_progress_and_patience():
    args, progress = parse_args(["--patience", "2", "--epochs", "99"]), Progress()
    done = []
    for epoch, value in enumerate([0.1, 0.3, 0.3, 0.2], 1):
        progress.epoch = epoch
        progress.record(
            {"Recall@20": value},
            lambda metrics, others: metrics["Recall@20"] > others["Recall@20"],
            loss=1.0,
            lr=0.5,
        )
        done.append(progress.done(args))
    assert (progress.best_epoch, progress.best["Recall@20"], progress.last["Recall@20"]) == (
        2,
        0.3,
        0.2,
    )
    assert done == [False, False, False, True]
    assert progress.rows.tolist() == [
        [1, 1.0, 0.5, 0.1],
        [2, 1.0, 0.5, 0.3],
        [3, 1.0, 0.5, 0.3],
        [4, 1.0, 0.5, 0.2],
    ]


def test_golden_metrics(cli, work):
    """If these numbers change, the demo, sampling, loss, update or ranking has changed.

    Written down from a run on an x86-64 CPU; the tolerance is for the rounding of other machines.
    """
    golden = pd.DataFrame(
        {
            "loss": [
                1.791525,
                1.786255,
                1.781374,
                1.771014,
                1.742649,
                1.668852,
                1.519124,
                1.327809,
            ],
            "Recall@20": [
                0.028902,
                0.048843,
                0.114569,
                0.221658,
                0.282394,
                0.268860,
                0.249056,
                0.245342,
            ],
            "NDCG@20": [
                0.026492,
                0.044038,
                0.106519,
                0.224375,
                0.294576,
                0.280756,
                0.263224,
                0.261716,
            ],
        }
    )
    assert cli("--device", "cpu", "--epochs", len(golden))[0] == 0
    rows = pd.read_csv("runs/demo-OneBP-MF/metrics.csv")
    np.testing.assert_allclose(rows["loss"], golden["loss"], atol=1e-5)
    np.testing.assert_allclose(
        rows[["Recall@20", "NDCG@20"]], golden[["Recall@20", "NDCG@20"]], atol=5e-4
    )


def test_what_a_run_leaves(cli, work):
    status, stdout, stderr = cli(*FAST, "--run_name", "mine", "--eval_every", 2)
    assert (status, stderr) == (0, "")
    rows = pd.read_csv("runs/mine/metrics.csv")
    assert list(rows) == ["epoch", "loss", "lr", "train_seconds", "eval_seconds", *METRICS]
    assert rows["epoch"].tolist() == [2, 3]  # the last epoch is always evaluated

    summary = json.loads((work / "runs/mine/summary.json").read_text())
    assert summary["best"]["epoch"] == rows["epoch"][rows["Recall@20"].idxmax()]
    for name in METRICS:
        assert summary["last"][name] == pytest.approx(rows[name].iloc[-1], abs=1e-12)
    assert len(summary["dataset"]["digest"]) == 64
    assert summary["dataset"]["users"] == 600
    assert summary["protocol"]["select"] == "test"
    assert summary["protocol"]["users_evaluated"] == 600
    assert (
        summary["seconds"]["total"] >= summary["seconds"]["train"] + summary["seconds"]["eval"] > 0
    )
    assert summary["seed"] == 2022
    assert summary["device"]
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["peak_memory_mb"] > 50
    assert summary["command"].startswith("python ")

    log = (work / "runs/mine/log.txt").read_text()
    for line in (
        "demo: 600 users, 900 items",
        "flags, suggested for demo: ",
        "flags, command line: ",
        "epoch 3/3",
    ):
        assert line in log
        assert line in stdout
    assert "Popularity" in stdout
    for path in ("checkpoints/mine/best.pt", "checkpoints/mine/last.pt", "runs/mine/metrics.csv"):
        assert path in stdout
        assert (work / path).stat().st_size > 100
    assert (work / "runs/mine/curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(work.rglob("*.tmp"))


def test_selection_on_validation_reports_test_for_that_epoch(cli, work):
    """best.pt evaluated on test is what the summary reports; metrics.csv holds validation only."""
    from dataloader import load_dataset
    from model import OneBP

    flags = ("--epochs", "12", "--dim", "8", "--lr", "0.05", "--beta", "0.5", "--select", "valid")
    assert cli(*flags)[0] == 0
    rows = pd.read_csv("runs/demo-OneBP-MF/metrics.csv")
    summary = json.loads((work / "runs/demo-OneBP-MF/summary.json").read_text())
    chosen = rows.loc[rows["Recall@20"].idxmax()]
    assert summary["best"]["epoch"] == chosen["epoch"] < 12
    assert summary["best"]["valid"]["Recall@20"] == pytest.approx(chosen["Recall@20"], abs=1e-12)
    assert summary["dataset"]["valid"] > 0

    data = load_dataset("demo", "datasets", validate=True)
    model = OneBP(data, parse_args(flags), torch.device("cpu"))
    state = load_checkpoint(work / "checkpoints/demo-OneBP-MF/best.pt")
    assert state["epoch"] == chosen["epoch"]
    model.load_weights(state["model"])
    metrics = model.evaluate("test")
    assert {name: summary["best"][name] for name in METRICS} == pytest.approx(metrics, abs=1e-12)
    model.load_weights(load_checkpoint(work / "checkpoints/demo-OneBP-MF/last.pt")["model"])
    assert {name: summary["last"][name] for name in METRICS} == pytest.approx(
        model.evaluate("test"), abs=1e-12
    )


def test_early_stop(cli, work):
    status, stdout, _ = cli("--epochs", 50, "--dim", 8, "--lr", 0.5, "--patience", 2)
    assert status == 0
    summary = json.loads((work / "runs/demo-OneBP-MF/summary.json").read_text())
    assert summary["last"]["epoch"] == summary["best"]["epoch"] + 2 < 50
    status, stdout, _ = cli(
        "--epochs", 50, "--dim", 8, "--lr", 0.5, "--patience", 2, "--train_mode", "continue"
    )
    assert status == 0
    assert "nothing to do" in stdout


def test_diverging_run_keeps_the_last_good_checkpoint(cli, work):
    assert cli("--epochs", 2, "--dim", 8)[0] == 0
    before = (work / "checkpoints/demo-OneBP-MF/last.pt").read_bytes()
    status, _, stderr = cli("--epochs", 9, "--dim", 8, "--lr", "1e38", "--train_mode", "continue")
    assert status == 2
    assert stderr.count("\n") == 1
    assert "the loss is nan in epoch 3; lower --lr (1e+38)" in stderr
    assert "checkpoints/demo-OneBP-MF/last.pt holds epoch 2" in stderr
    assert (work / "checkpoints/demo-OneBP-MF/last.pt").read_bytes() == before


def test_save_every_is_exact(cli, work, monkeypatch):
    def save(state, data, *paths):
        for path in paths:
            saved.append((path.name, state["epoch"]))
            save_checkpoint(path, state)

    saved = []
    monkeypatch.setattr(shards, "save", save)
    cli("--epochs", 7, "--dim", 8, "--save_every", 3)
    assert [epoch for name, epoch in saved if name == "last.pt"] == [3, 6, 7]


def test_checkpoints_cost_little_and_keep_the_best_weights(tmp_path, monkeypatch):
    """On a clock on which an epoch takes 1 s and writing a file 0.5 s."""
    clock, written, weights = [0.0], [], torch.zeros(1)

    def save(state, data, *paths):
        for path in paths:
            clock[0] += 0.5
            path.touch()
            written.append((path.name, state["epoch"], state["weights"].item()))

    monkeypatch.setattr(shards, "save", save)
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path, save_every=None)
    for epoch in range(1, 1001):
        clock[0] += 1
        weights[0] = epoch  # in place, as training does
        state = {"epoch": epoch, "best_epoch": epoch // 7 * 7, "weights": weights}
        checkpoints.update(state, improved=epoch % 7 == 0, final=epoch == 1000)
    assert 0.02 * 1000 < 0.5 * len(written) < 0.05 * 1000
    assert all(epoch == value for _, epoch, value in written)
    assert written[-2:] == [("best.next.pt", 994, 994.0), ("last.pt", 1000, 1000.0)]


def test_own_data_set_needs_no_flag_but_its_name(cli, work):
    from sources.demo import demo_interactions

    users, items, _ = demo_interactions()
    (work / "datasets/shop").mkdir(parents=True)
    table = pd.DataFrame({"customer_id": users, "product_id": items, "price": 1.5})[:5000]
    table.to_csv("datasets/shop/interactions.csv", index=False)
    status, stdout, _ = cli("--dataset", "shop", "--epochs", 2)
    assert status == 0
    assert "shop: " in stdout
    assert "epoch 2/2" in stdout


REFIT = (
    "--model",
    "SVD",
    "--select",
    "valid",
    "--refit",
    "--dim",
    4,
    "--epochs",
    6,
    "--device",
    "cpu",
)
REFIT += ("--batch_size", 256, "--lr", 0.03, "--reg", 0.01)


def test_refit_is_training_on_both_parts_for_the_chosen_epochs(cli, work):
    """Against the same by hand; the test split is looked at once, at the end."""
    status, stdout, stderr = cli(*REFIT, "--run_name", "r")
    assert (status, stderr) == (0, "")
    chosen = json.loads((work / "runs/r/summary.json").read_text())["best"]["epoch"]
    assert 1 < chosen < 6  # it overfits
    args = parse_args([str(word) for word in REFIT])
    model = SVD(load_data(args).with_valid_in_train(), args, torch.device("cpu"))
    model.start_training()
    for epoch in range(1, chosen + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
    saved = load_checkpoint(work / "checkpoints/r-refit/last.pt")
    assert saved["epoch"] == chosen
    for name, table in model.weights.items():
        assert torch.equal(table, saved["model"]["encoder"][name])
    summary = json.loads((work / "runs/r-refit/summary.json").read_text())
    assert summary["best"] == summary["last"] == {"epoch": chosen, **model.evaluate("test")}
    assert summary["protocol"]["select"] == f"valid, then refit for {chosen} epochs"
    assert len(pd.read_csv("runs/r-refit/metrics.csv")) == 1
    assert f"refit for {chosen} epochs, which the validation split chose" in stdout
    stdout = cli("--mode", "evaluate", "--run_name", "r-refit", "--device", "cpu")[1]
    assert f"RMSE {summary['best']['RMSE']:.4f}" in " ".join(stdout.split())


def test_interrupted_refit_goes_on(cli, work, monkeypatch):
    assert cli(*REFIT, "--run_name", "whole")[0] == 0
    epochs = []

    def interrupted(self, *arguments):
        epochs.append(1)
        if len(epochs) == 6 + 2:  # in the second epoch of the refit
            raise KeyboardInterrupt
        return train_epoch(self, *arguments)

    train_epoch = SVD.train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(SVD, "train_epoch", interrupted)
        status, _, stderr = cli(*REFIT, "--run_name", "parts", "--save_every", 1)
    assert status == 130
    assert "interrupted after epoch 1; go on from epoch 1 with" in stderr
    status, stdout, stderr = cli(*REFIT, "--run_name", "parts", "--train_mode", "continue")
    assert (status, stderr) == (0, "")
    assert "parts is done: epoch 6 of 6, nothing to do" in stdout
    assert "continuing after epoch 1" in stdout
    whole, parts = (work / f"checkpoints/{name}-refit/last.pt" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_refit_anew_where_the_choice_has_moved(cli, work):
    """Else the first choice's look at the test split would compete with the second's."""
    # no overfitting in so few epochs: the last is the best
    step = ("--lr_schedule", "step", "--lr", 0.003)
    assert cli(*REFIT, *step, "--run_name", "r", "--epochs", 2)[0] == 0
    status, stdout, stderr = cli(
        *REFIT, *step, "--run_name", "r", "--epochs", 4, "--train_mode", "continue"
    )
    assert (status, stderr) == (0, "")
    assert "the earlier run of this name is now" in stdout
    assert cli(*REFIT, *step, "--run_name", "whole", "--epochs", 4)[0] == 0
    again, whole = (work / f"checkpoints/{name}-refit/last.pt" for name in ("r", "whole"))
    assert load_checkpoint(whole)["epoch"] == 4
    assert again.read_bytes() == whole.read_bytes()
    status, stdout, _ = cli(
        *REFIT, *step, "--run_name", "r", "--epochs", 4, "--train_mode", "continue"
    )
    assert "r-refit is done: epoch 4 of 4, nothing to do" in stdout


def test_interrupt_before_the_first_checkpoint_of_a_refit(cli, monkeypatch):
    def interrupted(self, data, args, device):
        if args.refit_epochs:
            monkeypatch.setattr(
                SVD, "train_epoch", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
            )
        start_model(self, data, args, device)

    start_model = SVD.__init__
    monkeypatch.setattr(SVD, "__init__", interrupted)
    status, _, stderr = cli(*REFIT)
    assert status == 130
    assert "interrupted before the first checkpoint of the refit; start that again with" in stderr
    assert stderr.endswith("--train_mode continue\n")


def test_refit_only_with_the_flags_that_chose(cli, work):
    assert cli(*REFIT[:4], *REFIT[5:], "--run_name", "r")[0] == 0
    status, _, stderr = cli(*REFIT, "--run_name", "r", "--reg", 0.2, "--train_mode", "continue")
    assert status == 2
    assert "was trained with --reg 0.01, and a refit with 0.2 would not be of that run" in stderr
    assert stderr.count("\n") == 1
    assert cli(*REFIT, "--run_name", "r", "--train_mode", "continue")[0] == 0
    # An old refit of other flags is not taken for this run's, nor is a refit continued as an
    # ordinary run.
    assert cli(*REFIT[:4], *REFIT[5:], "--run_name", "r", "--reg", 0.2)[0] == 0
    assert cli(*REFIT, "--run_name", "r", "--reg", 0.2, "--train_mode", "continue")[0] == 0
    assert json.loads((work / "runs/r-refit/summary.json").read_text())["flags"]["reg"] == 0.2
    plain = [word for word in REFIT if word not in ("--select", "valid", "--refit")]
    status, _, stderr = cli(
        *plain, "--run_name", "r-refit", "--reg", 0.2, "--train_mode", "continue"
    )
    assert status == 2
    assert "has refit_epochs " in stderr


def test_refit_of_a_ranking_model(cli, work):
    assert cli("--select", "valid", "--refit", *FAST, "--run_name", "r")[0] == 0
    chosen, refit = (
        json.loads((work / f"runs/{name}/summary.json").read_text()) for name in ("r", "r-refit")
    )
    assert refit["dataset"]["train"] == chosen["dataset"]["train"] + chosen["dataset"]["valid"]
    assert refit["best"]["epoch"] == chosen["best"]["epoch"]
