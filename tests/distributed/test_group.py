"""Runs of several processes: as one process, interrupted, killed, cut off."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rank_tools import (
    CPU,
    FLAGS,
    children,
    made_model,
    own_flags,
    rows,
    succeed,
    wait_for_epoch,
    whole,
    write_clicks,
)
from scipy.sparse import csr_array
from tools import (
    PATIENCE,
    ROOT,
    finish,
    on_ranks,
    torchrun,
    toy_data,
    train_on_ranks,
    write,
)

from model import OneBP
from parse import parse_args
from sources.share import own_share

# A run until something ends it. So long a one would be compiled, which nothing depends on.
ENDLESS = ("--epochs", 10_000, "--compile", "off")
CLICKS = ("--model", "LR", "--dataset", "shop", "--patience", 10_000)


LEFT = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, "ROOT")
from distributed import collectives, group
def threads():
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
with group.process_group(torch.device("cpu"), 60):
    import torch._dynamo
    collectives.all_reduce_int(1)
    before = threads()
sys.stdout.write(f"threads: {before}, then {threads()}\\n")
"""


def test_nothing_of_a_group_is_left_at_the_end(work):
    """Threads of gloo that still run when Python ends can abort the process."""
    output = succeed(torchrun(program=write(work / "left.py", LEFT.replace("ROOT", str(ROOT)))))
    assert len(re.findall(r"threads: [1-9]\d*, then 0\n", output)) == 2


def test_one_rank_is_bit_equal_to_no_torchrun(cli, work):
    succeed(torchrun("--epochs", 3, *FLAGS, "--run_name", "one", count=1))
    assert cli("--epochs", 3, *FLAGS, "--run_name", "none")[0] == 0
    assert (
        Path("checkpoints/one/last.pt").read_bytes()
        == Path("checkpoints/none/last.pt").read_bytes()
    )
    pd.testing.assert_frame_equal(rows("one"), rows("none"))


def test_two_ranks_go_on_as_if_never_interrupted_also_as_one(cli, work):
    """2 -> 2 is exact, in new processes; 2 -> 1 -> 2 trains on; one process has two's metrics."""
    flags = ("--model", "TwoBP", *FLAGS)
    train_on_ranks("--epochs", 4, *flags, "--run_name", "whole")
    train_on_ranks("--epochs", 2, *flags, "--run_name", "cut")
    output = succeed(
        torchrun("--epochs", 4, *flags, "--run_name", "cut", "--train_mode", "continue")
    )
    assert output.count("epoch 4/4") == 1  # only the first rank speaks
    files = sorted(path.name for path in Path("checkpoints/whole").iterdir())
    assert files == ["best.pt", "last.pt", "users.4.0-of-2.pt", "users.4.1-of-2.pt"]
    for name in files:
        assert (
            Path("checkpoints/whole", name).read_bytes()
            == Path("checkpoints/cut", name).read_bytes()
        ), name
    pd.testing.assert_frame_equal(rows("whole"), rows("cut"))

    use = ("--run_name", "whole", "--model", "TwoBP")
    status, output, errors = cli("--mode", "evaluate", *use)
    assert (status, errors) == (0, "")
    found = float(
        next(line.split()[1] for line in output.splitlines() if line.startswith("Recall@20"))
    )
    assert found == pytest.approx(rows("whole")["Recall@20"].iloc[-1], abs=5e-5)
    users = [pd.read_parquet(f"runs/{name}/users.parquet") for name in ("whole", "whole-evaluate")]
    pd.testing.assert_frame_equal(*users, atol=1e-6)
    assert len(users[0]) == 600
    status, output, errors = cli("--mode", "recommend", "--users", "listener-600", *use)
    assert (status, errors) == (0, "")
    assert "listener-600" in output

    on = (*flags, "--run_name", "cut", "--train_mode", "continue")
    status, output, errors = cli("--epochs", 6, *on)
    assert (status, errors) == (0, "")
    assert "another kind of device or number of ranks" in output
    assert "another kind of device or number of ranks" in train_on_ranks("--epochs", 8, *on)[0]
    losses = rows("cut")["loss"]
    assert len(losses) == 8
    assert losses.is_monotonic_decreasing
    assert sorted(json.loads(Path("runs/cut/summary.json").read_text())["dataset"]) == sorted(
        json.loads(Path("runs/whole/summary.json").read_text())["dataset"]
    )


def test_evaluation_is_that_of_one_process(work):
    chosen = ["--ranking", "pairs", "--metrics", "Recall", "Coverage", "Gini", "Novelty"]
    found = on_ranks(evaluated, *chosen)
    args = parse_args([*chosen, *map(str, FLAGS)])
    model = OneBP(toy_data(20), args, CPU)
    for name, table in model.weights.items():
        table.copy_(whole(name, [weights for weights, _ in found]))
    for _, (metrics, popularity) in found:
        assert metrics == pytest.approx(model.evaluate("test"), abs=1e-6)
        assert popularity == pytest.approx(model.baselines()["Popularity"], abs=1e-6)


def evaluated_first_users(part):
    """The metrics of this rank where only the users of the first one have anything in a split."""
    data, args = (
        toy_data(),
        own_flags(parse_args([*map(str, FLAGS), "--ranking", "pairs", "--select", part])),
    )
    some = csr_array(data.test.multiply(np.arange(data.shape[0])[:, None] < 5))
    some.eliminate_zeros()
    model = OneBP(own_share(replace(data, **{part: some})), args, CPU)
    return model.evaluate(part), model.evaluator.metrics


@pytest.mark.parametrize("part", ["test", "valid"])
def test_a_rank_may_have_nobody_to_rank_for(part):
    (first, names), (second, _) = on_ranks(evaluated_first_users, part)
    assert first == second
    assert list(first) == list(names)


def evaluated(*flags):
    model = made_model("OneBP", 20, *flags)
    return dict(model.weights), (model.evaluate("test"), model.baselines()["Popularity"])


def test_a_killed_rank_comes_back_and_the_run_ends_as_if_undisturbed(work):
    flags = ("--epochs", 30, *FLAGS, "--save_every", 1)
    train_on_ranks(*flags, "--run_name", "whole")
    process = torchrun(*flags, "--run_name", "killed", restarts=3)
    for epochs in (5, 15):
        wait_for_epoch("killed", epochs)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
    output = succeed(process)
    assert "continuing after epoch" in output
    for name in ("last.pt", "best.pt"):
        assert (
            Path("checkpoints/whole", name).read_bytes()
            == Path("checkpoints/killed", name).read_bytes()
        ), name
    pd.testing.assert_frame_equal(rows("whole"), rows("killed"))


def test_a_restart_before_the_run_has_begun_does_not_take_an_earlier_one_for_it(work):
    flags = ("--epochs", 2, *FLAGS, "--run_name", "again")
    train_on_ranks(*flags)
    process = torchrun(*flags, "--l2", 0.5, restarts=3)
    limit = time.time() + PATIENCE
    while len(children(process.pid)) < 2:
        assert time.time() < limit
        time.sleep(0.01)
    os.kill(children(process.pid)[-1], signal.SIGKILL)  # it is still importing
    succeed(process)
    assert json.loads(Path("runs/again/summary.json").read_text())["flags"]["l2"] == 0.5
    assert Path("runs/again.1").is_dir()


@pytest.mark.parametrize("flags", [FLAGS, CLICKS])
def test_a_rank_that_does_not_answer_ends_the_run_with_a_line(work, flags):
    write_clicks(work)
    process = torchrun(*ENDLESS, *flags, "--run_name", "silent", "--timeout", 3)
    wait_for_epoch("silent", 2)
    silent = children(process.pid)[-1]
    os.kill(silent, signal.SIGSTOP)
    time.sleep(6)
    os.kill(silent, signal.SIGKILL)  # torchrun would wait half a minute for it
    status, _, errors = finish(process)
    assert status != 0
    assert "error: another process failed" in errors
    assert "--train_mode continue" in errors


def terminal(process):
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C


def scheduler(process):
    process.terminate()


def notice(process):
    for rank in children(process.pid):
        os.kill(rank, signal.SIGUSR1)


@pytest.mark.parametrize("end", [terminal, scheduler, notice])
def test_a_signal_says_once_how_to_go_on_and_that_does(work, end):
    process = torchrun("--epochs", 10_000, *FLAGS, "--run_name", "stopped", start_new_session=True)
    wait_for_epoch("stopped", 3)
    end(process)
    _, _, errors = finish(process)
    (line,) = (line for line in errors.splitlines() if line.startswith("interrupted"))
    assert f"torchrun --standalone --nproc_per_node=2 -- {ROOT / 'main.py'} --epochs 10000" in line
    assert line.endswith("--train_mode continue")
    done = len(rows("stopped")) + 1
    words = ("--epochs", done, *FLAGS, "--run_name", "stopped", "--train_mode", "continue")
    assert f"epoch {done}/{done}" in train_on_ranks(*words)[0].replace("  ", " ")


@pytest.fixture
def nodes():
    """Two network namespaces, joined by a link: [(name, interface, address)] of each."""
    found = [
        (f"onebp{os.getpid()}n{number}", f"ob{os.getpid()}v{number}"[-15:], f"10.9.0.{number + 1}")
        for number in (0, 1)
    ]
    try:
        for name, _, _ in found:
            ip("netns", "add", name)
        ip("link", "add", found[0][1], "type", "veth", "peer", "name", found[1][1])
        for name, interface, address in found:
            ip("link", "set", interface, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            for device in ("lo", interface):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here ({error})")
    else:
        yield found
    finally:
        for name, _, _ in found:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def start_nodes(nodes, *words):
    """Start torchrun in each of the nodes, as the README does."""
    processes = []
    for number, (name, interface, _) in enumerate(nodes):
        how = [
            "--nnodes=2",
            f"--node_rank={number}",
            "--nproc_per_node=1",
            f"--master_addr={nodes[0][2]}",
        ]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *how]
        command += [str(ROOT / "main.py"), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(
            subprocess.Popen(command, env={**os.environ, "GLOO_SOCKET_IFNAME": interface}, **pipes)
        )
    return processes


def test_two_nodes_train_as_two_ranks_of_one(work, nodes):
    train_on_ranks("--epochs", 2, *FLAGS, "--run_name", "one-node")
    for process in start_nodes(nodes, "--epochs", 2, *FLAGS, "--run_name", "two-nodes"):
        succeed(process)
    pd.testing.assert_frame_equal(rows("one-node"), rows("two-nodes"))


@pytest.mark.parametrize("flags", [FLAGS, CLICKS])
def test_a_link_that_is_cut_ends_both_nodes_with_a_line(work, nodes, flags):
    write_clicks(work)
    processes = start_nodes(nodes, *ENDLESS, *flags, "--run_name", "cut", "--timeout", 5)
    wait_for_epoch("cut", 2)
    ip("-n", nodes[0][0], "link", "set", nodes[0][1], "down")
    begin = time.time()
    for process in processes:
        status, _, errors = finish(process)
        assert status != 0
        assert "error: another process failed" in errors
    assert time.time() - begin < 60  # without --timeout it would be 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--encoder LightGCN", "--encoder LightGCN runs in one process; start it without torchrun"),
        ("--loss DirectAU --sampler none", "--loss DirectAU runs in one process"),
        ("--model EASE", "--model EASE runs in one process"),
        ("--regularizer lambdaopt --select valid", "--regularizer lambdaopt runs in one process"),
        ("--mode evaluate", "--mode evaluate runs in one process"),
        ("--select valid --refit", "--refit runs in one process"),
        ("--regularizer l2 --select valid --l2_grid 1 0.1", "--l2_grid runs in one process"),
    ],
)
def test_what_cannot_be_divided_is_refused(words, message, monkeypatch, capsys):
    places = {
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 29500,
    }
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as exit:
            parse_args(words.split())
        assert exit.value.code == 2
        assert (message in capsys.readouterr().err) == (rank == "0")
