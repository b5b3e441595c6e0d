"""Checkpoints that a stranger made: each ends with one line, and nothing is written or chosen."""

import copy
import shutil

import pytest
import torch
from tools import build, toy_data

from checkpointing import schema
from checkpointing.data_file import load_data_file, save_data
from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.resume import checkpoint_state
from cli.errors import UserError
from main import main
from parse import parse_args
from train import Progress

RUN = "demo-OneBP-MF"
TRAIN = ("--epochs", "2", "--dim", "4")
CONTINUE = (*TRAIN[:1], "3", *TRAIN[2:], "--train_mode", "continue")
RECOMMEND = ("--mode", "recommend", "--run_name", RUN, "--users", "listener-001", "--topk", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a trained run, which no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(list(TRAIN)) == 0
    return folder


@pytest.fixture
def forged(run, cli, work):
    """Run the command on the checkpoint as `change` leaves it, and on nothing else."""
    shutil.copytree(run, work, dirs_exist_ok=True)

    def attempt(change, command):
        for path in (work / "checkpoints" / RUN / name for name in ("last.pt", "best.pt")):
            state = load_checkpoint(path)
            change(state)
            save_checkpoint(path, state)
        before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
        status, stdout, stderr = cli(*command)
        after = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
        return status, stdout, stderr, before == after

    return attempt


def put(*keys_and_value):
    """A change: the entry with these keys has another value; without a value it is absent."""

    def change(state):
        *keys, last, value = keys_and_value
        for key in keys:
            state = state[key]
        if value is ABSENT:
            del state[last]
        else:
            state[last] = value

    return change


ABSENT = object()
R, NONE = {"R": 1.0}, torch.empty(0, dtype=torch.float64)
EXPANDED = torch.zeros(1).expand(10**6, 10**6)
OTHER_FILES = {
    "epoch x": put("epoch", "x"),
    "epoch -1": put("epoch", -1),
    "epoch true": put("epoch", True),
    "no epoch": put("epoch", ABSENT),
    "best epoch later": put("best_epoch", 7),
    "best without metrics": put("best", {}),
    "best of texts": put("best", {"Recall@20": "high"}),
    "since_best a list": put("since_best", [1]),
    "identity a list": put("identity", [1, 2]),
    "identity of tables": put("identity", {"seed": {"a": 1}}),
    "flags a list": put("flags", ["dim"]),
    "flags a text": put("flags", "--dim 4"),
    "flag a table": put("flags", "dim", {"a": 1}),
    "flag of a number": put("flags", {1: 2}),
    "shards a text": put("shards", "ab"),
    "shards of texts": lambda state: state.update(shards=[0, "x"], users=3),
    "shards without users": put("shards", [0, 3]),
    "shards descending": lambda state: state.update(shards=[0, 3, 2], users=3),
    "users before shards": lambda state: state.update(shards=[0, 9], users=3),
    "model a list": put("model", []),
    "model empty": put("model", {}),
    "encoder empty": put("model", "encoder", {}),
    "encoder a number": put("model", "encoder", 3),
    "item absent": put("model", "encoder", "item", ABSENT),
    "item a number": put("model", "encoder", "item", 1.0),
    "item a row": put("model", "encoder", "item", torch.zeros(1, 4)),
    "item of float64": put("model", "encoder", "item", torch.zeros(900, 4, dtype=torch.float64)),
    "item of whole numbers": put("model", "encoder", "item", torch.zeros(900, 4).long()),
    "item nan": put("model", "encoder", "item", torch.full((900, 4), torch.nan)),
    "item infinite": put("model", "encoder", "item", torch.full((900, 4), torch.inf)),
    "item sparse": put("model", "encoder", "item", torch.zeros(900, 4).to_sparse()),
    "item larger than its file": put("model", "encoder", "item", EXPANDED),
    "item of half floats": put("model", "encoder", "item", torch.zeros(900, 4).half()),
    "one more weight": put("model", "encoder", "other", torch.zeros(3)),
    "rows of texts": put("rows", ["a"]),
    "rows too narrow": put("rows", torch.ones(2, 2).double()),
    "rows of other epochs": lambda state: state["rows"].mul_(2),
    "too deep": lambda state: put("model", "deep", nested(30))(state),
}
OTHER_FLAGS = {
    "dim": ("x", -1, 0, 4.5, None, [4], True, 8, 10**9),
    "seed": ("x", -1, None, [2022], 1e300, 5),
    "model": (["OneBP"], "Other", 3, None, "DeepFM", "SVD"),
    "metrics": ([], ["Other"], "Recall", [1], None),
    "cutoffs": ([0], ["a"], 20),
    "encoder": ("LightGCN", "x", None),
    "dataset": ("../other", "/etc", 3, None, ["demo"], "absent"),
    "select": ("x", "valid", None),
    "popularity_weight": ("x", [1.0], float("nan")),
    "lr_dc_epoch": (["x"], 3, [-1]),
    "min_rating": ("x", [1]),
    "refit_epochs": ("x", -1, [1], True),
    "fold": (9, "x"),
    "loss": ("x", 3),
}
# With these a file would be of another run, but none of another form; the last needs memory.
CONSISTENT = [("seed", 5), ("encoder", "LightGCN"), ("dim", 10**9)]
# What only training reads.
OTHER_STATES = {
    "best of other metrics": lambda state: state.update(
        best=R, last=R, rows=torch.empty(0).double()
    ),
    "no generator": put("model", "generator", ABSENT),
    "generator of another type": put("model", "generator", torch.zeros(5056)),
    "generator a number": put("model", "generator", 3),
    "generator that is none": put("model", "generator", torch.ones(5056, dtype=torch.uint8)),
    "optimizer empty": put("model", "optimizer", {}),
    "optimizer a list": put("model", "optimizer", [1]),
    "moments of a row": put("model", "optimizer", "item", "exp_avg", torch.zeros(1, 4)),
    "moments a text": put("model", "optimizer", "item", "exp_avg", "x"),
    "negative steps": put("model", "optimizer", "item", "step", torch.tensor(-3.0)),
    "steps nan": put("model", "optimizer", "item", "step", torch.tensor(torch.nan)),
    "compiled a text": put("model", "compiled", "x"),
}


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


def refused(found, path=f"checkpoints/{RUN}"):
    status, _, stderr, unchanged = found
    assert (status, stderr.count("\n")) == (2, 1), found
    assert "Traceback" not in stderr
    assert path in stderr or "--dataset" in stderr or "no data set" in stderr
    assert unchanged


@pytest.mark.parametrize("command", [CONTINUE, RECOMMEND], ids=["continue", "recommend"])
@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_another_form(forged, name, command):
    refused(forged(OTHER_FILES[name], command))


@pytest.mark.parametrize("name", OTHER_STATES)
def test_a_state_that_training_cannot_go_on_from(forged, name):
    refused(forged(OTHER_STATES[name], CONTINUE))


@pytest.mark.parametrize("flag", OTHER_FLAGS)
def test_flags_of_other_values(forged, flag):
    """In the flags alone, and in the flags and in what the checkpoint says it is of."""
    for value in OTHER_FLAGS[flag]:
        for both in (False, True):

            def change(state, value=value, both=both):
                state["flags"][flag] = value
                if both and flag in state["identity"]:
                    state["identity"][flag] = value

            if both and (flag, value) in CONSISTENT:
                continue
            status, _, stderr, unchanged = forged(change, RECOMMEND)
            told = (status, stderr.count("\n"), unchanged)
            assert told == (2, 1, True), (flag, value, both, stderr)


def test_flags_that_decide_no_training_are_not_taken_over(forged, run, work, tmp_path_factory):
    """None of them: neither where to write, nor what to read, nor on which device."""
    outside = tmp_path_factory.mktemp("outside")
    orders = {
        "output": str(outside / "file"),
        "log_root": str(outside),
        "checkpoint_dir": str(outside),
        "data_dir": str(outside),
        "device": "cuda:7",
        "threads": 99,
        "l2_grid": [0.1, 1.0],
        "mode": "train",
        "train_mode": "new",
        "run_name": "other",
        "history": "file",
        "users": "all",
        "topk": -1,
        "keep_seen": True,
        "blend": "other",
        "config": "file",
        "like": "other",
        "log": "wandb",
        "timeout": -1,
        "no_download": "x",
        "save_every": 0,
        "slots": -1,
        "refit": True,
        "unknown": "x",
    }
    trained = load_checkpoint(run / f"checkpoints/{RUN}/last.pt")["flags"]
    change = put("flags", {**orders, **trained})
    status, stdout, stderr, unchanged = forged(change, RECOMMEND)
    assert (status, stderr, unchanged) == (0, "", True)
    assert not list(outside.iterdir())
    lists = forged(lambda state: None, RECOMMEND)[1]
    assert stdout.count("\n") == lists.count("\n") > 2

    status, stdout, *_ = forged(
        lambda state: state["chosen_flags"].update(orders), (*CONTINUE, "--log_root", "runs")
    )
    assert (status, "warning" in stdout) == (0, False)
    assert not list(outside.iterdir())


def test_a_refit_takes_over_only_what_it_asked_for(cli, work, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    command = ("--model", "Popularity", "--select", "valid", "--refit", "--run_name", "run")
    assert cli(*command)[0] == 0
    path = work / "checkpoints/run/best.pt"
    state = load_checkpoint(path)
    state["chosen_flags"] = {"log_root": str(outside), "checkpoint_dir": str(outside), "seed": 7}
    save_checkpoint(path, state)
    assert cli(*command, "--train_mode", "continue")[0] == 0
    assert not list(outside.iterdir())
    assert load_checkpoint(work / "checkpoints/run-refit/last.pt")["flags"]["seed"] == 2022


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("EASE", put("weights", torch.zeros(1, 32))),
        ("Walk", put("beta", "x")),
        ("ItemKNN", lambda state: state["weights"][0]["indices"].fill_(99)),
        ("ItemKNN", lambda state: state["weights"][0]["indptr"].fill_(99)),
        ("ItemKNN", lambda state: state["weights"][0].pop("data")),
    ],
)
def test_states_of_other_models(model, change):
    """Places outside of a matrix would be read by compiled code, without a check there."""
    trained = build(model)
    trained.solve()
    state = copy.deepcopy(trained.state_dict())
    trained.load_state_dict(state)
    change(state)
    with pytest.raises((ValueError, KeyError)):
        trained.load_state_dict(state)


def test_a_file_of_ranks_is_checked():
    shard = {"belongs_to": {"epoch": 1}, "first": 0, "own": {}, "generator": torch.empty(0)}
    schema.check("users.1.0-of-2.pt", shard)
    for key, value in (("first", -1), ("own", 3), ("generator", []), ("belongs_to", [1])):
        with pytest.raises(ValueError, match=key):
            schema.check("users.1.0-of-2.pt", {**shard, key: value})
        with pytest.raises(ValueError, match=f"no entry {key}"):
            schema.check("users.1.0-of-2.pt", {k: v for k, v in shard.items() if k != key})


def test_data_of_another_form(tmp_path):
    """data.pt and update.pt: places outside of a matrix, names that are paths."""
    path = tmp_path / "data.pt"
    save_data(path, toy_data())
    whole = path.read_bytes()
    assert load_data_file(path)[0].digest == "made"
    changes = [
        put("name", "../other"),
        put("digest", 3),
        put("protocol", [1]),
        put("user_ids", "x"),
        put("user_ids", torch.tensor([91, 49, 93], dtype=torch.uint8)),  # [1]
        put("item_ids", torch.tensor([91], dtype=torch.uint8)),
        put("train", ABSENT),
        put("train", [torch.zeros(3)]),
        put("update", {"parent": "p", "flags": {}}),
        put("update", {"parent": 3, "flags": {}, "new": torch.zeros(1)}),
        put("update", {"parent": "p", "flags": {}, "new": torch.ones(3, dtype=torch.bool)}),
        lambda state: state["train"][1].fill_(99),
        lambda state: state["test"][0].fill_(99),
        lambda state: state["valid"][0][3].fill_(10**6),  # it has no interaction
    ]
    for change in changes:
        path.write_bytes(whole)
        state = load_checkpoint(path)
        change(state)
        save_checkpoint(path, state)
        with pytest.raises(UserError, match=r"data.pt"):
            load_data_file(path)


def test_what_training_writes_is_taken(tmp_path):
    """Before the first epoch and evaluation, too."""
    args = parse_args(["--model", "OneBP"])
    save_checkpoint(tmp_path / "last.pt", checkpoint_state(build("OneBP"), Progress(), args))
    assert load_checkpoint(tmp_path / "last.pt")["best"] == {}
