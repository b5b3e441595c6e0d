"""The test split as a stream: what is known when, planted drift, settings from validation."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, write

import train
from checkpointing.files import load_checkpoint, save_checkpoint
from cli.errors import UserError
from families.clicks.dataset import load_clicks
from families.clicks.metrics import auc
from families.clicks.stream import Stream, is_done
from families.clicks.tuning import LAMBDAS
from parse import parse_args

ROWS, SLOTS = 4000, 5
TEST, VALID = ROWS * 9 // 10, ROWS * 8 // 10  # where these splits begin
MEMORIES = {
    "knn": ("--memory", "knn", "--memory_k", 20),
    "lsh": ("--memory", "lsh", "--memory_bits", 6),
}
SIZE = ("--dim", 4, "--hidden", 16, 8, "--batch_size", 256, "--lr", 0.02, "--l2", 0)


def made_rows(drift=ROWS, seed=0, noise=1.0):
    """[label, viewer, movie, hour]: a movie is liked or not; the opposite from row `drift` on."""
    random = np.random.default_rng(seed)
    viewer, movie, hour = (random.integers(size, size=ROWS) for size in (30, 16, 5))
    score = np.where(movie % 2, 2, -2) + 0.5 * (hour - 2)
    score[drift:] *= -1
    return np.stack(
        [score + noise * random.logistic(size=ROWS) > 0, viewer, movie, hour], axis=1
    ).astype(int)


def saved_clicks(folder, rows, user="viewer"):
    """`rows` as the data set `shop`, loaded."""
    text = "\n".join(
        [f"label,{user},movie,hour", *(",".join(map(str, row)) for row in rows.tolist()), ""]
    )
    write(folder / "shop/clicks.csv", text)
    return load_clicks("shop", folder)


def trained(data, *flags, epochs=4, model="DeepFM", device="cpu"):
    """(model, its state as a checkpoint would have it)"""
    built = build(model, *SIZE, "--slots", SLOTS, *flags, data=data, device=device)
    for _ in range(epochs):
        built.train_epoch(0.02, lambda: None)
    return built, {"model": built.state_dict(), "epoch": epochs, "flags": {}, "identity": {}}


def streamed(data, *flags, state=None, device="cpu"):
    """The Stream of a model that was trained on the data, or that has the `state`; it has run."""
    model, saved = trained(data, *flags, epochs=0 if state else 4, device=device)
    stream = Stream(model, state or saved, None)
    stream.run()
    return stream


def by_slot(stream, metric="AUC"):
    """{name: the metric in each slot}"""
    slots = stream.results[stream.results["slot"] != "all"]
    return {name: rows[metric].tolist() for name, rows in slots.groupby("name", sort=False)}


def test_base_is_the_static_evaluation(tmp_path, device):
    stream = streamed(saved_clicks(tmp_path, made_rows(), user="user"), device=device)
    assert list(stream.probabilities) == ["base"]
    ids, _ = stream.model.data.rows(TEST, ROWS)
    expected = stream.model.scorer()(torch.tensor(ids, device=device).long())
    torch.testing.assert_close(stream.probabilities["base"], expected, rtol=1e-5, atol=1e-6)
    static, overall = stream.model.evaluate("test"), stream.overall().loc["base"]
    assert list(overall.index) == ["AUC", "gAUC", "logloss"]
    assert overall.tolist() == pytest.approx(list(static.values()), abs=1e-6)
    table = stream.results
    assert table["rows"].tolist() == [80] * 5 + [400]
    labels = stream.model.split_rows("test").labels()
    assert table["AUC"][2] == pytest.approx(auc(labels[160:240], expected[160:240]))


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_slot_is_predicted_before_its_labels_are_known(tmp_path, device, kind):
    """Other labels in slot 3 change nothing up to it, then all that learns; never base."""
    flags, rows = (*MEMORIES[kind], "--incremental"), made_rows()
    first = streamed(saved_clicks(tmp_path / "first", rows), *flags, device=device)
    assert list(first.probabilities) == [
        "base",
        f"base + {kind}",
        "incremental",
        f"incremental + {kind}",
    ]
    rows[TEST + 160 : TEST + 240, 0] = 1 - rows[TEST + 160 : TEST + 240, 0]
    other = streamed(saved_clicks(tmp_path / "other", rows), *flags, device=device)
    for name, probabilities in first.probabilities.items():
        assert torch.equal(probabilities[:240], other.probabilities[name][:240]), name
        for slot in (240, 320):
            same = torch.equal(
                probabilities[slot : slot + 80], other.probabilities[name][slot : slot + 80]
            )
            assert same == (name == "base"), (name, slot)
    # nothing is known yet
    assert torch.equal(first.probabilities["base"][:80], first.probabilities[f"base + {kind}"][:80])


@pytest.mark.parametrize("key", ["hidden", "embedding"])
@pytest.mark.parametrize("kind", MEMORIES)
def test_planted_drift_is_corrected_after_one_slot(tmp_path, device, kind, key):
    flags = (*MEMORIES[kind], "--memory_key", key, "--memory_lambda", 0.9)
    found = by_slot(streamed(saved_clicks(tmp_path, made_rows(drift=TEST)), *flags, device=device))
    assert max(found["base"]) < 0.3
    assert found[f"base + {kind}"][0] == found["base"][0]
    assert min(found[f"base + {kind}"][1:]) > 0.7


def test_planted_drift_is_learned_by_going_on(tmp_path, device):
    """At a learning rate of its own, --lr by default; one so small leaves the model as it is."""
    data, found = saved_clicks(tmp_path, made_rows(drift=TEST)), []
    for rate in ((), ("--incremental_lr", 0.02), ("--incremental_lr", 1e-9)):
        found.append(streamed(data, "--incremental", "--batch_size", 8, *rate, device=device))
    slots = by_slot(found[0])
    assert slots["incremental"][0] == pytest.approx(slots["base"][0], abs=1e-6)
    assert slots["incremental"][-1] > 0.7
    assert max(slots["base"]) < 0.3
    assert torch.equal(found[0].probabilities["incremental"], found[1].probabilities["incremental"])
    torch.testing.assert_close(
        found[2].probabilities["incremental"], found[2].probabilities["base"], rtol=0, atol=1e-4
    )


def test_the_epoch_of_the_checkpoint_is_streamed(tmp_path, device):
    """With --select test the model has the weights of the last one by then."""
    model, state = trained(saved_clicks(tmp_path, made_rows()), "--incremental", device=device)
    state = copy.deepcopy(state)
    expected = model.evaluate("test")
    model.train_epoch(0.5, lambda: None)
    assert model.evaluate("test")["AUC"] != pytest.approx(expected["AUC"], abs=1e-3)
    stream = Stream(model, state, None)
    stream.run()
    assert stream.overall().loc["base"].to_dict() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(
        *(stream.probabilities[name][:80] for name in ("incremental", "base"))
    )


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_memory_by_hand(tmp_path, device, kind):
    """Of errors above --memory_sigma: what is stored after two slots, and a strict filter."""
    data = saved_clicks(tmp_path, made_rows(drift=TEST))
    stream = streamed(data, *MEMORIES[kind], "--memory_sigma", 0.5, device=device)
    learner = stream.make_learner("base", {})
    slots = stream.model.split_rows("test").divide(SLOTS)
    for slot in slots[:2]:
        stream.predict("base", learner, slot)
        learner.learn(slot)
    labels, probabilities = (
        stream.model.split_rows("test").labels()[:160],
        stream.probabilities["base"][:160],
    )
    wrong = (labels - probabilities).abs() > 0.5
    assert 0 < wrong.sum() < 160
    if kind == "knn":
        assert torch.equal(
            learner.memory.outcomes, torch.stack([labels[wrong], probabilities[wrong]], dim=1)
        )
    else:
        assert learner.memory.total == wrong.sum()
        assert learner.memory.sums[:, 0].sum() == 32 * wrong.sum()
    learner.memory = learner.memory.__class__(learner.width, learner.args, device)
    keys = learner.memory.address(torch.ones(3, learner.width, device=device))
    values = (
        torch.tensor([1.0, 0.0, 1.0], device=device),
        torch.tensor([0.5, 0.75, 0.25], device=device),
    )
    learner.write(keys, *values)  # an error of a half is not above it
    stored = learner.memory.outcomes[:, 1].tolist() if kind == "knn" else [learner.memory.total]
    assert stored == ([0.75, 0.25] if kind == "knn" else [2])


@pytest.mark.parametrize("size", [50, 1000])
def test_a_model_that_went_on_remembers_the_latest_anew(tmp_path, device, size):
    data = saved_clicks(tmp_path, made_rows(drift=TEST))
    flags = (*MEMORIES["knn"], "--memory_key", "hidden", "--incremental", "--memory_size", size)
    stream = streamed(data, *flags, device=device)
    learner = stream.make_learner("incremental", {})
    for slot in stream.model.split_rows("test").divide(SLOTS)[:2]:
        stream.predict("incremental", learner, slot)
        learner.learn(slot)
    first = max(TEST, TEST + 160 - size)
    ids, labels = (torch.tensor(column, device=device) for column in data.rows(first, TEST + 160))
    probabilities, keys = learner.model.predict(ids.long(), "hidden")
    expected = torch.stack([labels.float(), probabilities], dim=1)
    torch.testing.assert_close(learner.memory.outcomes, expected)
    torch.testing.assert_close(learner.memory.keys, torch.nn.functional.normalize(keys))
    base = stream.model.predict(ids.long(), "hidden")[0]
    assert not torch.allclose(base, probabilities)  # it is another model than the one that stayed
    learner.args.memory = "lsh"  # which forgets by itself nothing
    learner.refill(TEST + 160)
    assert learner.memory.total == min(size, 160)


@pytest.mark.parametrize("kind", MEMORIES)
def test_tuning_does_not_look_at_the_test_split(tmp_path, device, kind):
    """Whatever happens there, the choice is the same; drift in validation gives a correction."""
    flags, chosen = ("--memory", kind, "--memory_tune"), []
    for name, drift in (("none", ROWS), ("test", TEST), ("valid", VALID)):
        data = saved_clicks(tmp_path / name, made_rows(drift))
        chosen.append(streamed(data, *flags, device=device).settings["base"])
    assert chosen[0] == chosen[1]
    assert chosen[2]["memory_lambda"] > 0.5
    assert set(chosen[0]) == {"memory_key", "memory_k", "memory_tau", "memory_lambda"}


@pytest.mark.parametrize("kind", MEMORIES)
def test_tuning_chooses_no_correction_where_none_helps(tmp_path, device, kind):
    """Labels without noise, which the model knows by heart."""
    stream = streamed(
        saved_clicks(tmp_path, made_rows(noise=0)), "--memory", kind, "--memory_tune", device=device
    )
    assert stream.settings["base"]["memory_lambda"] == LAMBDAS[0] == 0
    assert torch.equal(stream.probabilities["base"], stream.probabilities[f"base + {kind}"])


def command(*flags, model="DeepFM"):
    size = SIZE[SIZE.index("--batch_size") :] if model == "LR" else SIZE
    return (
        "--model",
        model,
        "--dataset",
        "shop",
        *size,
        "--epochs",
        2,
        "--slots",
        SLOTS,
        "--device",
        "cpu",
        *flags,
    )


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C once, after slot 3."""
    save_state, left = Stream.save_state, [3]

    def save_and_stop(stream, done, learners):
        save_state(stream, done, learners)
        if done in left:
            left.remove(done)
            raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "save_state", save_and_stop)


@pytest.mark.parametrize(
    "flags", [MEMORIES["knn"], MEMORIES["lsh"], ("--memory", "knn", "--memory_tune")]
)
def test_a_stream_goes_on_where_it_was_interrupted(cli, work, interrupted, flags):
    saved_clicks(work / "datasets", made_rows(drift=TEST), user="user")
    flags = command(*flags, "--incremental", "--memory_size", 100)
    status, _, stderr = cli(*flags, "--run_name", "parts")
    assert status == 130
    assert "--train_mode continue" in stderr
    assert not (work / "runs/parts/summary.json").exists()
    args, file = parse_args(map(str, flags)), work / "checkpoints/parts/stream.pt"
    assert not is_done(file, args)
    status, stdout, _ = cli(*flags, "--run_name", "parts", "--train_mode", "continue")
    assert status == 0
    assert "the stream goes on after slot 3" in stdout
    assert is_done(file, args)
    assert cli(*flags, "--run_name", "whole")[0] == 0
    for path in ("runs/{}/stream.csv", "checkpoints/{}/stream.pt"):
        whole, parts = (work / path.format(name) for name in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    summaries = [
        json.loads((work / f"runs/{name}/summary.json").read_text()) for name in ("whole", "parts")
    ]
    assert summaries[0]["stream"] == summaries[1]["stream"]


def test_another_memory_streams_again(cli, work):
    """And trains nothing; the same one has nothing to do."""
    saved_clicks(work / "datasets", made_rows(drift=TEST))
    assert cli(*command())[0] == 0
    folder = work / "runs/shop-DeepFM"
    rows, names, tables = (folder / "metrics.csv").read_bytes(), [], []
    for flags in (
        (),
        MEMORIES["knn"],
        MEMORIES["knn"],
        (*MEMORIES["knn"], "--memory_lambda", 0.9),
        ("--slots", 4),
    ):
        status, stdout, stderr = cli(*command(*flags), "--train_mode", "continue")
        assert (status, stderr) == (0, "")
        assert "warning" not in stdout
        assert (folder / "metrics.csv").read_bytes() == rows
        summary = json.loads((folder / "summary.json").read_text())["stream"]
        names.append((list(summary["test"]), "nothing to do" in stdout))
        tables.append((folder / "stream.csv").read_bytes())
        found = pd.read_csv(folder / "stream.csv")
        overall = found[found["slot"] == "all"].set_index("name")["AUC"]
        assert overall.to_dict() == pytest.approx(
            {name: values["AUC"] for name, values in summary["test"].items()}
        )
    both = ["base", "base + knn"]
    assert names == [
        (["base"], True),
        (both, False),
        (both, True),
        (both, False),
        (["base"], False),
    ]
    assert tables[1] == tables[2] != tables[3]
    assert (folder / "stream.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_prints_the_table(cli, work):
    saved_clicks(work / "datasets", made_rows(drift=TEST))
    assert cli(*command(*MEMORIES["lsh"]))[0] == 0
    table = pd.read_csv("runs/shop-DeepFM/stream.csv").query("slot == 'all'").set_index("name")
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    use = (
        "--mode",
        "evaluate",
        "--model",
        "DeepFM",
        "--dataset",
        "shop",
        "--device",
        "cpu",
        "--slots",
        SLOTS,
    )
    status, stdout, stderr = cli(*use, *MEMORIES["lsh"])
    assert (status, stderr) == (0, "")
    for name in ("base", "base + lsh"):
        assert f"{name} {table['AUC'][name]:.4f} {table['logloss'][name]:.4f}" in " ".join(
            stdout.split()
        )
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


def test_logs_in_the_form_of_the_papers_repository(cli, work, monkeypatch):
    """A line per evaluated epoch, also where an epoch was interrupted before its checkpoint."""
    saved_clicks(work / "datasets", made_rows(), user="user")
    flags = command("--save_every", 2, "--eval_file_name", "quality.log", "--epochs", 4)

    def stop(*anything):
        raise KeyboardInterrupt

    log_epoch = train.log_epoch
    with monkeypatch.context() as patch:  # epoch 3 is logged, and lost
        patch.setattr(
            train,
            "log_epoch",
            lambda epoch, *rest: stop() if epoch == 3 else log_epoch(epoch, *rest),
        )
        assert cli(*flags)[0] == 130
    folder = work / "runs/shop-DeepFM"
    assert (folder / "loss.log").read_text().count("\n") == 3
    assert cli(*flags, "--train_mode", "continue")[0] == 0
    rows = pd.read_csv(folder / "metrics.csv", dtype=str)
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    for name, form, columns in (
        (
            "loss.log",
            rf"{date} epoch: (\d+) step: (\d+), loss is (\S+)",
            ["epoch", "steps", "loss"],
        ),
        (
            "quality.log",
            rf"{date} == EvalCallBack model.eval\(\): dict_values\(\[(\S+)\]\); "
            r"eval_time: (\S+)s",
            ["AUC", "eval_seconds"],
        ),
    ):
        lines = pd.Series((folder / name).read_text().splitlines())
        found = lines.str.extract(f"^{form}$").set_axis(columns, axis=1)
        pd.testing.assert_frame_equal(found, rows.assign(steps="13")[columns], check_names=False)
    assert not (folder / "auc.log").exists()


def test_a_damaged_stream_is_made_again(cli, work):
    saved_clicks(work / "datasets", made_rows(drift=TEST))
    assert cli(*command())[0] == 0
    file = work / "checkpoints/shop-DeepFM/stream.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    status, stdout, stderr = cli(*command(), "--train_mode", "continue")
    assert (status, stderr) == (0, "")
    assert "nothing to do" not in stdout
    assert file.read_bytes() == whole


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_stream_of_another_form_is_refused(work, memory):
    """By a line that names the file; settings can be no other flags than those of the memory."""
    data = saved_clicks(work / "datasets", made_rows())
    model, saved = trained(data, *MEMORIES[memory], epochs=1)
    file = work / "stream.pt"
    Stream(model, saved, file).run()
    whole = file.read_bytes()
    Stream(model, saved, file).run()
    changes = [
        lambda state: state["settings"].update(base={"output": "x"}),
        lambda state: state["settings"]["base"].update(output="x", memory_k=-1),
        lambda state: state["settings"].clear(),
        lambda state: state["chances"].clear(),
        lambda state: state["chances"].update(base=torch.zeros(1)),
        lambda state: state.update(done=4),
        lambda state: state.update(done=99),
        lambda state: state["learners"].clear(),
        lambda state: state["learners"]["base"].update(start="x"),
        lambda state: state["learners"]["base"].update(memory=[1]),
        lambda state: state["learners"]["base"]["memory"].popitem(),
    ]
    for key, value in load_checkpoint(file)["learners"]["base"]["memory"].items():
        other = value[:, :1] if isinstance(value, torch.Tensor) else "x"
        changes.append(
            lambda state, key=key, other=other: state["learners"]["base"]["memory"].update(
                {key: other}
            )
        )
    for change in changes:
        file.write_bytes(whole)
        state = load_checkpoint(file)
        change(state)
        save_checkpoint(file, state)
        with pytest.raises(UserError, match=r"stream.pt does not fit .*; remove it, and"):
            Stream(model, saved, file).run()


def test_users_with_one_impression_each(cli, work):
    """No user has both classes, so there is no gAUC, and nothing is nan."""
    rows = made_rows()
    rows[:, 1] = range(ROWS)
    saved_clicks(work / "datasets", rows, user="user")
    flags = command("--memory", "knn", "--memory_tune", model="LR")
    assert cli(*flags)[0] == 0
    assert cli(*flags, "--train_mode", "continue", "--epochs", 3)[0] == 0
    assert "NaN" not in (work / "runs/shop-LR/summary.json").read_text()
    table = pd.read_csv("runs/shop-LR/metrics.csv")
    assert (table["epoch"].tolist(), list(table)[-2:]) == ([1, 2, 3], ["AUC", "logloss"])


@pytest.mark.parametrize("flags", [("recommend", "--users", "1"), ("export", "--output", "out")])
def test_clicks_are_neither_recommended_nor_exported(cli, work, flags):
    saved_clicks(work / "datasets", made_rows())
    assert cli(*command(model="LR"))[0] == 0
    status, _, stderr = cli("--run_name", "shop-LR", "--device", "cpu", "--mode", *flags)
    assert status == 2
    assert stderr.count("\n") == 1
    assert "is of --model LR, which has only --mode evaluate" in stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--slots", 401), "--slots 401 is more than the 400 rows of the test split"),
        (
            ("--memory_tune", "--memory", "knn", "--slots", 300, "--valid_ratio", 0.05),
            "the 200 rows of the validation",
        ),
    ],
)
def test_more_slots_than_rows(cli, work, flags, words):
    saved_clicks(work / "datasets", made_rows())
    status, _, stderr = cli(*command(*flags))
    assert status == 2
    assert words in stderr
    assert stderr.count("\n") == 1
    assert not (work / "runs").exists()
