"""Exact resume in new processes, kill -9 at any moment, Ctrl-C, and checkpoints that do not fit."""

import io
import itertools
import json
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from tools import PATIENCE, checkpoint, finish, start, write

from checkpointing import files
from checkpointing.files import load_checkpoint, save_checkpoint
from cli.errors import UserError
from parse import parse_args
from reports.names import SECONDS
from reports.run import Run

RUN = "demo-OneBP-MF"


def run(*flags):
    status, stdout, stderr = finish(start(*flags))
    assert status == 0, stderr
    return stdout


def without_times(path):
    return pd.read_csv(path).drop(columns=["train_seconds", "eval_seconds"])


@pytest.mark.parametrize(
    "flags",
    [
        "--dim 8 --model OneBP",
        "--dim 8 --model TwoBP --lr_dc 0.5 --lr_dc_epoch 2 4",
        "--dim 8 --compile on --batch_size 32 --l2 0",  # Adam by the row
        "--dim 8 --compile on --model TwoBP --threads 2",
        "--dim 8 --compile on --model SVD --lr_schedule step --batch_size 512",
    ],
)
def test_resume_is_exact(cli, work, flags):
    """Six epochs in one go, or three and then three in a new process: the same bytes."""
    flags = flags.split()
    for epochs, name in ((6, "whole"), (3, "parts")):
        torch.compiler.reset()
        assert cli("--epochs", epochs, "--run_name", name, *flags)[0] == 0
    again = ("--epochs", 6, "--run_name", "parts", "--train_mode", "continue", *flags)
    stdout = run(*again)
    assert "continuing after epoch 3" in stdout
    assert "warning" not in stdout
    for name in ("last.pt", "best.pt"):
        whole, parts = (work / "checkpoints" / folder / name for folder in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    pd.testing.assert_frame_equal(
        *(without_times(f"runs/{name}/metrics.csv") for name in ("whole", "parts"))
    )
    assert "parts is done: epoch 6 of 6, nothing to do" in cli(*again)[1]


@pytest.mark.parametrize(
    "flags",
    [
        "--encoder LightGCN --sampler popularity --loss BPR",
        "--encoder MLP --sampler dns --loss BCE --model TwoBP",
        "--sampler inbatch --similarity cosine --temperature 0.1 --loss BSL",
        "--encoder MLP --loss DirectAU",
        "--model SVDpp --lr_schedule step",
        "--model CML --lr_schedule step",
        "--model EASE",
        "--model Walk",
        "--model ItemKNN",
        "--model Popularity",
    ],
)
def test_resume_is_exact_with_every_module(cli, work, flags):
    """The same in this process. A model solved at once has nothing left to do, and says so."""
    solved = {"EASE", "Walk", "ItemKNN", "Popularity"} & set(flags.split())
    size = ["--save_every", 1] if solved else ["--dim", 8]
    for epochs, name, mode in ((4, "whole", "new"), (2, "parts", "new"), (4, "parts", "continue")):
        count = [] if size[0] == "--save_every" else ["--epochs", epochs]
        status, stdout, stderr = cli(
            *flags.split(), *size, *count, "--run_name", name, "--train_mode", mode
        )
        assert (status, stderr) == (0, "")
    assert ("nothing to do" in stdout) == (not count)
    for name in ("last.pt", "best.pt"):
        whole, parts = (work / "checkpoints" / folder / name for folder in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def wait_for_rows(path, rows):
    limit = time.time() + PATIENCE
    while time.time() < limit:
        if path.exists() and path.read_text().count("\n") > rows:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {rows} rows in {path}")


def test_killed_runs_end_like_an_undisturbed_one(cli, work):
    flags = ("--epochs", 14, "--dim", 8)
    assert cli(*flags, "--run_name", "whole")[0] == 0
    for attempt, rows in enumerate((3, 8)):
        mode = "continue" if attempt else "new"
        process = start(*flags, "--train_mode", mode, "--save_every", 1)
        wait_for_rows(work / f"runs/{RUN}/metrics.csv", rows)
        time.sleep(random.random() * 0.1)
        process.kill()
        finish(process)
        load_checkpoint(work / f"checkpoints/{RUN}/last.pt")
    rows = (work / f"runs/{RUN}/metrics.csv").read_text().splitlines()
    later = ",".join(["13", *rows[-1].split(",")[1:]])  # of an epoch after the checkpoint
    # and one that a kill cut off
    (work / f"runs/{RUN}/metrics.csv").write_text("\n".join([*rows, later, "14,0.5"]))
    assert cli(*flags, "--train_mode", "continue")[0] == 0
    for name in ("last.pt", "best.pt"):
        assert (work / f"checkpoints/{RUN}/{name}").read_bytes() == (
            work / f"checkpoints/whole/{name}"
        ).read_bytes()
    pd.testing.assert_frame_equal(
        *(without_times(f"runs/{name}/metrics.csv") for name in ("whole", RUN))
    )


def test_kill_while_saving(tmp_path):
    """Forty children that only save are killed at random; the file is always one state, whole.

    On a busy machine a child saves little in its time: then some more children.
    """
    path = tmp_path / "last.pt"
    states = [checkpoint(epoch, table=torch.full((500, 400), float(epoch))) for epoch in (1, 2)]
    save_checkpoint(path, states[0])
    seen, limit = set(), time.time() + PATIENCE
    for number in itertools.count():
        if number >= 40 and seen == {1, 2}:
            break
        assert time.time() < limit  # the children did save
        child = os.fork()
        if child == 0:
            while True:
                for state in states:
                    save_checkpoint(path, state)
        time.sleep(random.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load_checkpoint(path)
        assert torch.equal(found["table"], states[found["epoch"] - 1]["table"])
        seen.add(found["epoch"])


def test_interrupt_says_how_to_go_on(cli, work):
    process = start("--epochs", 5000, "--dim", 8, "--run_name", "long run", "--eval_every", 2)
    wait_for_rows(work / "runs/long run/metrics.csv", 4)
    process.send_signal(signal.SIGINT)
    status, _, stderr = finish(process)
    assert status == 130
    assert stderr.count("\n") == 1
    assert "interrupted after epoch" in stderr
    assert "--run_name 'long run' --eval_every 2 --train_mode continue" in stderr
    epoch = load_checkpoint(work / "checkpoints/long run/last.pt")["epoch"]
    flags = (
        "--epochs",
        epoch + 2,
        "--dim",
        8,
        "--run_name",
        "long run",
        "--eval_every",
        2,
        "--train_mode",
        "continue",
    )
    assert f"continuing after epoch {epoch}" in cli(*flags)[1]


def test_interrupt_while_loading(work):
    process, limit = start("--epochs", 5000), time.time() + PATIENCE
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.time() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, _, stderr = finish(process)
    assert status == 130
    assert stderr.count("\n") == 1


@pytest.fixture
def trained(cli):
    assert cli("--epochs", 2, "--dim", 8)[0] == 0
    return cli


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--run_name", "other"), "no checkpoint at checkpoints/other/last.pt; check --run_name"),
        (("--dim", 16), "has dim 8, this command 16"),
        (("--model", "TwoBP", "--run_name", RUN), "has model OneBP, this command TwoBP"),
        (("--split_seed", 5), "has digest "),
        (("--seed", 5), "has seed 2022, this command 5"),
        (("--select", "valid"), "has select test, this command valid"),
    ],
)
def test_a_checkpoint_of_something_else(trained, work, flags, words):
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    status, _, stderr = trained("--epochs", 4, "--dim", 8, "--train_mode", "continue", *flags)
    assert status == 2
    assert stderr.count("\n") == 1
    assert words in stderr
    # nothing written
    assert before == {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}


def test_a_checkpoint_of_another_data_set(trained, work):
    write(
        work / "datasets/toy/interactions.csv",
        "user,item\n" + "".join(f"u{n % 40},i{n}\n" for n in range(200)),
    )
    status, _, stderr = trained(
        "--dataset", "toy", "--dim", 8, "--run_name", RUN, "--train_mode", "continue"
    )
    assert status == 2
    assert "has dataset demo, this command toy" in stderr


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return open, ("pwned", "w")


@pytest.mark.parametrize(
    "name",
    [
        "cut to half",
        "cut by a byte",
        "changed byte",
        "empty",
        "text",
        "tensor",
        "other dict",
        "code",
    ],
)
def test_damaged_and_foreign_checkpoints(trained, work, name):
    path = work / f"checkpoints/{RUN}/last.pt"
    content = path.read_bytes()
    objects = {"tensor": torch.ones(3), "other dict": {"epoch": 3}, "code": Payload()}
    middle = len(content) // 2
    contents = {
        "cut to half": content[:middle],
        "cut by a byte": content[:-1],
        "empty": b"",
        "text": b"hi",
    }
    contents["changed byte"] = (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )
    if name in objects:
        torch.save(objects[name], path)
    else:
        path.write_bytes(contents[name])
    status, _, stderr = trained("--epochs", 4, "--dim", 8, "--train_mode", "continue")
    assert status == 2
    assert stderr.count("\n") == 1
    assert f"checkpoints/{RUN}/last.pt" in stderr
    assert "--train_mode new" in stderr
    assert not (work / "pwned").exists()


def test_a_checkpoint_without_a_part(trained, work):
    path = work / f"checkpoints/{RUN}/last.pt"
    state = load_checkpoint(path)
    del state["model"]["generator"]
    save_checkpoint(path, state)
    status, _, stderr = trained("--epochs", 4, "--dim", 8, "--train_mode", "continue")
    assert status == 2
    assert "does not fit this model ('generator')" in stderr


def test_moments_of_another_shape(trained, work):
    path = work / f"checkpoints/{RUN}/last.pt"
    state = load_checkpoint(path)
    state["model"]["optimizer"]["item"]["exp_avg"] = torch.zeros(2, 2)
    save_checkpoint(path, state)
    status, _, stderr = trained("--epochs", 4, "--dim", 8, "--train_mode", "continue")
    assert status == 2
    assert "a table is (2, 2) of float32, not (900, 8) of float32" in stderr


def save_for_ever(path):
    for epoch in itertools.count(1):
        save_checkpoint(path, checkpoint(epoch, table=torch.full((3000, 400), float(epoch))))


def test_interrupt_while_saving(tmp_path):
    """Ctrl-C waits until the file is whole, and is a KeyboardInterrupt then."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint(0, table=torch.zeros(3000, 400)))
    for delay in (0.005, 0.02, 0.04):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, delay)
        with pytest.raises(KeyboardInterrupt):
            save_for_ever(path)
        state = load_checkpoint(path)
        assert (state["table"] == state["epoch"]).all()
        assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_damaged_metrics_are_written_anew(trained, work):
    """From the checkpoint, with a line; only the seconds of the damaged row are lost."""
    path = work / f"runs/{RUN}/metrics.csv"
    header, first, second = path.read_text().splitlines()
    before = without_times(path)
    path.write_bytes(
        "\n".join([header, first, second.replace("2,", "zwei,", 1), "\xff", first[:-3]]).encode(
            "latin-1"
        )
    )
    status, stdout, _ = trained("--epochs", 4, "--dim", 8, "--train_mode", "continue")
    assert status == 0
    assert f"warning: runs/{RUN}/metrics.csv: 1 of 2 rows were absent, damaged or edited" in stdout
    assert path.read_text().splitlines()[:2] == [header, first]
    table = pd.read_csv(path)
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    assert table["train_seconds"].isna().tolist() == [False, True, False, False]
    pd.testing.assert_frame_equal(without_times(path)[:2], before)
    seconds = json.loads((work / f"runs/{RUN}/summary.json").read_text())["seconds"]
    assert seconds["train"] == pytest.approx(table["train_seconds"].sum())


def test_edited_results_of_a_finished_run_are_written_anew(trained, work):
    """A run that is done is not trained again, and ends as it was."""
    metrics, summary = (work / f"runs/{RUN}" / name for name in ("metrics.csv", "summary.json"))
    again = ("--epochs", 2, "--dim", 8, "--train_mode", "continue")
    assert "nothing to do" in trained(*again)[1]
    rows, results = metrics.read_text(), json.loads(summary.read_text())
    header, first, second = rows.splitlines()

    better = re.sub(r",[^,]*$", ",0.9", second)
    for text in (f"{header}\n{first}\n{better}\n", header, ""):
        metrics.write_text(text)
        stdout = trained(*again)[1]
        assert "rows were absent, damaged or edited" in stdout
        assert "nothing to do" in stdout
        assert without_times(metrics).equals(pd.read_csv(io.StringIO(rows)).drop(columns=SECONDS))

    edited = {**results, "best": {**results["best"], "Recall@20": 0.9}}
    for text in (summary.read_text()[:700], "", "[1]", "{}", json.dumps(edited)):
        summary.write_text(text)
        status, stdout, _ = trained(*again)
        assert status == 0
        assert f"warning: runs/{RUN}/summary.json is damaged or of another run" in stdout
        found = json.loads(summary.read_text())
        assert [found[name] for name in ("best", "last")] == [results["best"], results["last"]]
        assert "nothing to do" in trained(*again)[1]


def test_a_checkpoint_of_another_kind_of_device(trained, work):
    path = work / f"checkpoints/{RUN}/last.pt"
    state = load_checkpoint(path)
    # as long as a CUDA generator's
    state["model"]["generator"] = torch.zeros(16, dtype=torch.uint8)
    save_checkpoint(path, state)
    status, stdout, _ = trained(
        "--epochs", 3, "--dim", 8, "--train_mode", "continue", "--device", "cpu"
    )
    assert status == 0
    assert "warning: the checkpoint is of another kind of device" in stdout
    assert "epoch 3/3" in stdout


def test_changed_flags_are_named(trained):
    status, stdout, _ = trained(
        "--epochs", 3, "--dim", 8, "--lr", 0.001, "--train_mode", "continue"
    )
    assert status == 0
    assert "warning: --lr was 0.005 up to epoch 2, now it is 0.001" in stdout


def test_a_new_run_keeps_the_previous_one(trained, work):
    old = (work / f"checkpoints/{RUN}/last.pt").read_bytes()
    for number in (1, 2):
        assert (
            f"the earlier run of this name is now runs/{RUN}.{number}"
            in trained("--epochs", 3, "--dim", 8)[1]
        )
    assert (work / f"checkpoints/{RUN}.1/last.pt").read_bytes() == old
    assert [
        len(pd.read_csv(f"runs/{name}/metrics.csv")) for name in (f"{RUN}.1", f"{RUN}.2", RUN)
    ] == [2, 3, 3]


def test_a_new_run_where_all_lies_in_one_folder(trained):
    together = ("--dim", 8, "--log_root", "all", "--checkpoint_dir", "all")
    for epochs in (1, 2):
        assert trained("--epochs", epochs, *together)[0] == 0
    assert [len(pd.read_csv(f"all/{name}/metrics.csv")) for name in (f"{RUN}.1", RUN)] == [1, 2]
    assert [load_checkpoint(f"all/{name}/last.pt")["epoch"] for name in (f"{RUN}.1", RUN)] == [1, 2]


def test_one_process_per_run(trained, work):
    process = start("--epochs", 5000, "--dim", 8, "--compile", "off")
    # the new process has set the trained run aside
    wait_for_rows(work / f"runs/{RUN}.1/metrics.csv", 1)
    wait_for_rows(work / f"runs/{RUN}/metrics.csv", 1)
    status, _, stderr = trained("--epochs", 2, "--dim", 8)
    process.kill()
    finish(process)
    assert status == 2
    assert f"run {RUN} is under way in another process" in stderr
    assert trained("--epochs", 2, "--dim", 8)[0] == 0  # a killed process holds nothing


def test_one_process_per_folder_of_logs_and_of_checkpoints(work):
    """Also where two runs of a name share only one of the two; a refused one writes nothing."""
    own = ["--run_name", "run", "--log_root", "a", "--checkpoint_dir", "a"]
    with Run(parse_args(own), []):
        for flag in ("--log_root", "--checkpoint_dir"):
            args = parse_args([*own, flag, "b"])
            with pytest.raises(UserError, match="run run is under way"), Run(args, []):
                pass
        with Run(parse_args([*own, "--log_root", "b", "--checkpoint_dir", "b"]), []):
            pass
    assert [path for path in work.rglob("*") if path.is_file()] == []


def test_what_a_killed_run_left_is_removed(work):
    args = parse_args(["--run_name", "run"])
    left = [work / folder / "run" / ".file.elsewhere.1.tmp" for folder in ("runs", "checkpoints")]
    for path in left:
        write(path, "")
    with Run(args, []):
        assert not any(path.exists() for path in left)


@pytest.mark.parametrize("flag", ["--log_root", "--checkpoint_dir"])
def test_a_folder_that_cannot_be_made_costs_no_earlier_run(trained, work, flag):
    write(work / "file", "not a folder")
    before = {path for path in work.rglob("*") if path.is_file()}
    status, _, stderr = trained("--epochs", 3, "--dim", 8, flag, "file")
    assert status == 2
    assert "file" in stderr
    assert {path for path in work.rglob("*") if path.is_file()} == before


def test_best_always_fits_last(tmp_path):
    """Whichever write is the last before a kill, `recover` leaves the best state last.pt names."""
    from checkpointing.last_and_best import Checkpoints

    def state(epoch, best_epoch):
        return checkpoint(epoch, best_epoch, table=torch.full((3,), float(epoch)))

    def folder(name):
        checkpoints = Checkpoints(tmp_path / name, 1)
        checkpoints.update(state(1, 1), improved=True, final=False)
        return checkpoints

    def recover(checkpoints):
        last = load_checkpoint(checkpoints.last_file)
        checkpoints.recover(last["epoch"], last["best_epoch"])

    checkpoints = folder("before last.pt")
    save_checkpoint(checkpoints.next_file, state(2, 2))
    recover(checkpoints)
    assert load_checkpoint(checkpoints.best_file)["epoch"] == 1
    assert not checkpoints.next_file.exists()

    checkpoints = folder("after last.pt")
    save_checkpoint(checkpoints.next_file, state(2, 2))
    save_checkpoint(checkpoints.last_file, state(2, 2))
    recover(checkpoints)
    assert load_checkpoint(checkpoints.best_file)["epoch"] == 2


def test_a_best_state_that_does_not_fit_is_told_before_training(cli, work):
    flags = ["--dim", 8, "--save_every", 1]
    for name, epochs, more in (("r", 2, ()), ("short", 1, ()), ("dim", 2, ("--dim", 4))):
        assert cli(*flags, *more, "--epochs", epochs, "--run_name", name)[0] == 0

    def of(name):
        return load_checkpoint(work / f"checkpoints/{name}/best.pt")

    last, best = (work / f"checkpoints/r/{name}.pt" for name in ("last", "best"))
    before, whole, state = last.read_bytes(), best.read_bytes(), of("r")
    encoder = state["model"]["encoder"]
    swapped = {**encoder, "user": encoder["item"], "item": encoder["user"]}
    for content, line in (
        (of("short"), "best.pt is not of epoch 2, the best by checkpoints/r/last.pt; put it back"),
        (of("dim"), "best.pt has dim 4, this command 8"),
        ({**state, "model": {**state["model"], "encoder": swapped}}, "best.pt does not fit this"),
        (None, "no checkpoint at checkpoints/r/best.pt"),
    ):
        best.unlink()
        if content:
            save_checkpoint(best, content)
        run = (*flags, "--run_name", "r", "--epochs", 4, "--train_mode", "continue")
        status, _, stderr = cli(*run)
        assert (status, stderr.count("\n")) == (2, 1)
        assert line in stderr
        assert last.read_bytes() == before
        best.write_bytes(whole)
    assert cli(*run)[0] == 0


def test_a_folder_in_the_place_of_a_file_is_told_before_training(cli, work):
    flags = ["--dim", 8, "--run_name", "whole"]
    assert cli(*flags, "--epochs", 1)[0] == 0
    last = (work / "checkpoints/whole/last.pt").read_bytes()
    (work / "runs/whole/summary.json").unlink()
    (work / "runs/whole/summary.json").mkdir()
    status, _, stderr = cli(*flags, "--epochs", 2, "--train_mode", "continue")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "summary.json is a folder, in the place of a file; rename or remove it" in stderr
    assert (work / "checkpoints/whole/last.pt").read_bytes() == last


def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint(1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        text = r"cannot write .*last.pt \(File too large\); free disk space or set --checkpoint_dir"
        with pytest.raises(UserError, match=text):
            save_checkpoint(path, checkpoint(2, table=torch.ones(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_larger_than_the_memory_is_told(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint(1, table=torch.ones(1000)))
    size = path.stat().st_size
    monkeypatch.setattr(files, "free_memory", lambda device: (size - 1, "a test has little"))
    with pytest.raises(UserError, match=r"last\.pt needs 0 MB, and a test has little"):
        load_checkpoint(path)
    monkeypatch.setattr(files, "free_memory", lambda device: (size, "a test has little"))
    assert load_checkpoint(path)["epoch"] == 1
