"""What a model needs of the memory: as much as PyTorch then allocates, and refusals."""

import json
import os
import re
import resource

import pytest
import torch
from tools import build, finish, made_data, ratings, start

import families
from cli import launch
from cli.errors import UserError
from families import memory
from parse import parse_args

RANKED = made_data(users=300, items=1000, count=20_000)
RATED = ratings({(0, 0): 4.0, (1, 1): 2.0, (2, 3): 5.0}, {(0, 1): 3.0}, (3, 4))
CPU = torch.device("cpu")


def needed(*flags, data, trains=True):
    """{what: bytes} of the model that the flags name."""
    args = parse_args(["--model", *map(str, flags)])
    family = families.family_of(args.model)
    return memory.needed(family, families.model_class(args), data, args, trains)


def of(parts, words):
    return sum(size for what, size in parts.items() if words in what)


@pytest.mark.parametrize(
    "flags",
    [
        "OneBP",
        "TwoBP --optimizer SGD",
        "OneBP --encoder MLP --layers 3",
        "TwoBP --encoder LightGCN",
        "OneBP --loss ELSA --beta 0.5",
        "CML",
        "SVD",
        "SVDpp",
        "LR",
        "FM",
        "DeepFM --hidden 7 5",
        "DCNv2 --hidden 7 5 --layers 3",
    ],
)
def test_weights_and_moments_are_those_of_the_built_model(work, flags):
    name, *flags = flags.split()
    flags += [] if name == "LR" else ["--dim", 6]
    data = RATED if name.startswith("SVD") else RANKED
    if name in ("LR", "FM", "DeepFM", "DCNv2"):
        data = families.load_data(parse_args(["--model", name]))
    model = build(name, *flags, data=data)
    weights = memory.size_of(model.weights)
    moments = [x for moments in model.optimizer.moments.values() for x in moments]
    parts = needed(name, *flags, data=data)
    assert of(parts, "the weights") == weights > 0
    assert of(parts, "moments") == memory.size_of(dict(enumerate(moments)))
    assert sum(needed(name, *flags, data=data, trains=False).values()) == weights


@pytest.mark.parametrize(
    ("flags", "share"),
    [
        ("TwoBP --compile off --N 50", 0.6),
        ("OneBP --compile off --N 50", 0.9),
        ("OneBP --compile off --sampler inbatch", 0.6),
        ("TwoBP --encoder LightGCN --dim 64", 0.6),
        ("OneBP --loss ELSA --dim 64", 0.5),
        ("TwoBP --sampler dns --candidates 50", 0.0),  # compiled, it may take far less
    ],
)
def test_a_step_takes_at_least_what_is_said_and_not_much_more(work, flags, share):
    """The peak of a step as PyTorch's profiler tells it, over the memory before it."""
    name, *flags = flags.split()
    model = build(name, *flags, data=RANKED)
    batch = next(model.schedule.batches())
    model.optimizer.prepare(0.01)
    how = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
    with torch.profiler.profile(**how) as profile:
        model.step(batch)
    profile.export_chrome_trace("trace.json")
    events = json.loads((work / "trace.json").read_text())["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    held = torch.tensor([event["args"]["Bytes"] for event in events]).cumsum(0)
    parts = needed(name, *flags, data=RANKED)
    said = sum(parts.values()) - of(parts, "the weights") - of(parts, "moments")
    assert share * held.max() < said <= held.max()


def test_the_memories_of_clicks_are_as_large_as_said(work):
    data = families.load_data(parse_args(["--model", "DeepFM"]))
    rows = data.counts()["test"]
    knn = needed("DeepFM", "--memory", "knn", "--hidden", 7, 5, data=data)
    assert of(knn, "--memory knn") == 4 * rows * (5 + 2)
    few = needed("LR", "--memory", "knn", "--memory_size", 9, data=data)
    assert of(few, "--memory knn") == 4 * 9 * (len(data.fields) + 2)
    lsh = needed("FM", "--memory", "lsh", "--memory_k", 3, "--memory_bits", 4, data=data)
    assert of(lsh, "--memory lsh") == 3 * 16 * 3 * 8


@pytest.fixture
def free(monkeypatch):
    """Let so many bytes be free."""

    def free(size):
        monkeypatch.setattr(memory, "free_memory", lambda device: (size, "a test has little"))

    return free


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("OneBP --dim 4000", "dim"),
        ("OneBP --encoder MLP --dim 1500", "dim"),
        ("OneBP --sampler inbatch --batch_size 3000", "batch_size"),
        ("OneBP --N 3000 --compile off", "N"),
        ("DeepFM --hidden 3000 2000 50", "hidden"),
        ("ALS --dim 20000", "dim"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(cli, work, free, flags, named):
    """The flag that is named is lowered as little as can be, to two digits."""
    free(10_000_000)
    flags = ["--model", *flags.split()]
    status, _, stderr = cli(*flags)
    assert status == 2
    assert stderr.startswith("main.py: error: training needs at least ")
    assert stderr.count("\n") == 1
    assert not [path for path in work.iterdir() if path.name in ("runs", "checkpoints")]
    words = re.search(f"and a test has little; take --{named} ([0-9 ]+) or less", stderr)[1].split()
    data = families.load_data(parse_args(flags))
    families.check_memory(parse_args([*flags, f"--{named}", *words]), data, CPU)
    more = int(words[0]) + 10 ** (len(words[0]) - 2)
    with pytest.raises(UserError, match="needs at least"):
        families.check_memory(parse_args([*flags, f"--{named}", str(more), *words[1:]]), data, CPU)


def test_the_batch_size_that_is_named_is_that_of_all_processes(free, monkeypatch):
    free(10_000_000)
    flags, most = ("--sampler", "inbatch", "--batch_size"), []
    for processes in (1, 2):
        monkeypatch.setattr(launch, "world_size", lambda count=processes: count)
        with pytest.raises(UserError) as told:
            families.check_memory(parse_args([*flags, "9000"]), RANKED, CPU)
        most.append(int(re.search("take --batch_size ([0-9]+) or less", str(told.value))[1]))
        families.check_memory(parse_args([*flags, str(most[-1])]), RANKED, CPU)
    assert most[1] == pytest.approx(2 * most[0], rel=0.1)


def test_a_model_that_no_flag_makes_smaller(free):
    free(1_000_000)
    with pytest.raises(UserError, match=r"Walk, ItemKNN and SANSA do without.*no flag helps alone"):
        families.check_memory(parse_args(["--model", "EASE"]), RANKED, CPU)
    families.check_memory(parse_args(["--model", "Walk"]), RANKED, CPU)


def test_a_trained_model_needs_its_weights_alone(cli, work, free):
    assert cli("--epochs", 1, "--dim", 300, "--run_name", "r")[0] == 0
    free(2_000_000)
    assert cli("--mode", "evaluate", "--run_name", "r")[0] == 0
    free(1_000_000)
    status, _, stderr = cli("--mode", "evaluate", "--run_name", "r")
    assert status == 2
    assert "the trained OneBP needs at least 2 MB" in stderr


def test_an_encoder_that_looks_at_its_numbers_is_not_counted(work, free, monkeypatch):
    class Looking(families.model_class(parse_args([]))):
        def make_encoder(self):
            encoder = super().make_encoder()
            encoder.user.mul_(1 / encoder.user.max().item())
            return encoder

    monkeypatch.setattr(families, "model_class", lambda args: Looking)
    free(1e5)
    families.check_memory(parse_args(["--batch_size", "9"]), RANKED, CPU)


def test_a_limit_of_the_process_is_told(work):
    """`ulimit -v`: torch has room, the tables do not. To say it takes no time to load modules."""
    limit = 5 << 30
    process = start(
        *("--encoder", "MLP", "--dim", 20_000),
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    status, _, stderr = finish(process)
    assert "families.memory" in stderr
    assert "sympy" not in stderr  # what PyTorch loads to compute with shapes
    stderr = re.sub("(?m)^import time:.*\n", "", stderr)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "the limit of this process (ulimit -v) leaves" in stderr
    assert "take --dim" in stderr
    assert not list(work.glob("*s"))
