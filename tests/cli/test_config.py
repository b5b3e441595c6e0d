"""Flags in a file: read as the command line is, written so that they come back the same."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tools import write

import families
from cli.config import as_toml, converted, tomllib
from parse import flags_of, parse_args

TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
NUMBERS = some.one_of(some.integers(0, 2**31), some.floats(0, allow_nan=False)).map(repr)
USUAL = some.sampled_from(["1", "2", "0.5", "1e-05", "auto", "2003-01-31"])


def test_every_value_of_every_flag_comes_back():
    declared = {name: flag for model in families.models() for name, flag in flags_of(model).items()}
    for flag in declared.values():
        if flag.convert is None:
            values = some.booleans()
        elif hasattr(flag.convert, "choices"):
            values = some.sampled_from(flag.convert.choices)
        else:
            values = some.one_of(USUAL, NUMBERS, TEXTS).map(lambda w, f=flag: taken(f.convert, w))
            values = values.filter(lambda value: value is not None)
        if flag.nargs:
            values = some.lists(values, min_size=flag.nargs == "+", max_size=3)
        comes_back(flag, values)


def comes_back(flag, values):
    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=HealthCheck)
    @given(values)
    def check(value):
        text = as_toml("title", {"section": {flag.name: value}})
        assert converted(flag, tomllib.loads(text)[flag.name]) == value

    check()


def taken(convert, word):
    """What a converter makes of a word, or None."""
    try:
        return convert(word)
    except Exception:
        return None


@pytest.fixture
def refused(work, capsys):
    """The line that answers a file of flags and words of a command line."""

    def line(content, *words):
        write(work / "f.toml", content)
        return line_of("--config", "f.toml", *words)

    def line_of(*words):
        with pytest.raises(SystemExit) as exit:
            parse_args(words)
        stderr = capsys.readouterr().err
        assert (exit.value.code, stderr.count("\n")) == (2, 1)
        return stderr.removeprefix("main.py: error: ").rpartition(" (python main.py")[0]

    line.of = line_of
    return line


def parsed(content, *words):
    """The Flags of a file and words of a command line."""
    with open("f.toml", "w") as file:
        file.write(content)
    return parse_args(["--config", "f.toml", *words])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("epoch = 3", "f.toml, line 1: there is no flag epoch; did you mean epochs?"),
        ("dim = 8\n\n# more\n--lr = 1", "f.toml, line 4: there is no flag --lr; did you mean lr?"),
        ("hidden = [\n1,\n2]\n\nzzz = 1\n", "f.toml, line 5: there is no flag zzz"),
        ("dim = 0", "f.toml, line 1: dim: '0' is not a whole number from 1 up to 2147483647"),
        ("dim = 1.5", "f.toml, line 1: dim: '1.5' is not a whole number from 1 up to 2147483647"),
        ("lr = inf", "f.toml, line 1: lr: 'inf' is not a number above 0"),
        ("dim = '8'", "f.toml, line 1: dim: write 8 without quotes"),
        ("user_column = 1", "f.toml, line 1: user_column: write 1 in quotes"),
        ("refit = 1", "f.toml, line 1: refit is true or false, without quotes"),
        ("dim = true", "f.toml, line 1: dim is true or false; write one number, or one text in"),
        ("dim = [8]", "f.toml, line 1: dim is a list; write one number"),
        ("[dim]\nx=1", "f.toml, line 1: dim is a table; write one number, or one text in quotes"),
        ("test_from = 2003-01-31", "f.toml, line 1: test_from is a date without quotes; write"),
        ("lr_dc_epoch = 3", "f.toml, line 1: lr_dc_epoch is a list, as [N]"),
        ("l2_grid = []", "f.toml, line 1: l2_grid is a list, as [X]"),
        ('dataset = "a\\u0000"', "f.toml, line 1: dataset has a character 0"),
        ("model = 'GMF'", "f.toml, line 1: model: 'GMF' is not one of OneBP, TwoBP"),
        ("dim = 1\ndim = 2", "f.toml, line 2: this name stands there twice; keep one of the two"),
        ("dim: 8", "f.toml, line 1: no TOML (Expected '=' after a key in a key/value pair); a"),
        ('{"dim": 8}', "f.toml, line 1: no TOML (Invalid statement); a line is as lr = 0.1 or"),
        (f"seed = {'9' * 5000}", "f.toml: no TOML (Exceeds the limit"),
        ("config = 'g.toml'", "f.toml, line 1: a file of flags names no other"),
        ("neighbours = 3", "f.toml, line 1: --neighbours does nothing with --model OneBP, only"),
        ("dim = 8\ngamma = 3", "f.toml, line 2: --gamma does nothing with --loss InfoNCE, only"),
        ("preset = 'fast'", "f.toml, line 1: there is no --preset fast for demo, only for 100k"),
        ("lr_dc_epoch = [2]", "--lr_dc_epoch needs --lr_dc, the factor"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(refused, content, line):
    assert refused(content).startswith(line)


def test_files_that_are_no_files_of_flags(refused, work):
    (work / "binary").write_bytes(b"dim = 8\n\x89PNG\xff")
    os.mkfifo(work / "pipe")
    (work / "runs/old").mkdir(parents=True)
    assert refused.of("--config", "binary") == (
        "binary, line 2: no UTF-8 text; it is no file of flags"
    )
    assert refused.of("--config", "none").startswith("cannot read flags from none: No such file")
    assert refused.of("--config", "runs").startswith("runs is a folder; give its flags.toml, or")
    assert refused.of("--config", "pipe").startswith("pipe is no regular file, and cannot be read")
    assert refused.of("--like", "x").startswith("--like x: no run at runs/x; give the name")
    assert refused.of("--like", "./x").startswith("--like ./x: no run at x; give")
    assert refused.of("--like", "old").startswith("--like old: runs/old has no flags.toml")
    assert refused.of("--like", "old", "--config", "f").startswith("--config and --like both")
    message = "--config does nothing with --mode evaluate, only with train or describe or split"
    assert refused("dim = 8", "--mode", "evaluate") == message


def test_the_command_line_beats_the_file_and_the_file_what_is_suggested(work):
    args = parsed("dataset = 'demo'\ndim = 8\nlr = 0.005\nN = 7", "--N", "9", "--seed", "3")
    assert (args.dim, args.lr, args.N, args.seed, args.l2) == (8, 0.005, 9, 3, 3e-5)
    assert [args.origin[flag] for flag in ("dim", "lr", "N", "l2")] == [
        "file f.toml",
        "suggested for demo",  # lr: the file says the same
        "command line",
        "suggested for demo",
    ]
    assert (args.given("dim"), args.given("lr"), args.given("N")) == (True, False, True)
    assert parsed("\ufeffdim = 8\r\nepochs = 3\r\n").epochs == 3


def test_a_preset_that_is_typed_beats_the_file(work):
    content = "dataset = '100k'\nlr = 0.5\ndim = 8\npreset = 'cosine'"
    assert (parsed(content).lr, parsed(content).lr_schedule) == (0.5, "cosine")
    args = parsed(content, "--preset", "fast")
    assert (args.lr, args.dim, args.loss) == (0.05, 384, "ELSA")
    tuned = parsed("select = 'test'\nlr = 0.5", "--regularizer", "lambdaopt")
    assert (tuned.select, tuned.lr) == ("valid", 0.5)


def test_what_the_command_line_leaves_without_effect_is_left_out(work):
    content = "model = 'OneBP'\nN = 7\nbeta = 0.9\nl2 = 0.1\npreset = 'paper'\nseed = 3"
    ease = parsed(content, "--model", "EASE")
    assert (ease.seed, ease.N, ease.beta, ease.l2) == (3, 5, 0.99, 3e-5)
    assert parsed(content, "--loss", "DirectAU").N == 5
    assert parsed(content, "--l2_grid", "1", "2", "--select", "valid").l2 == 3e-5
    assert parsed(content, "--model", "CML").N == 20  # another flag of this name
    assert parsed("aggregation = 'last'", "--loss", "ELSA").aggregation == "mean"
    assert parsed("popularity_weight = 0.5", "--model", "Popularity").popularity_weight == 0


@pytest.mark.parametrize(
    "words",
    [
        "--regularizer l2 --l2 3e-5 --lr_dc 1 --lr_dc_epoch 2",
        "--l2_grid 1 2 --patience 3",
        "--loss ELSA --epochs 3",
        "--loss DirectAU --gamma 3 --popularity_weight auto --select valid --refit",
        "--regularizer lambdaopt --granularity dui --split last",
        "--dataset 100K --preset fast --fold 1",
        "--dataset Gowalla --preset best --sampler dns",
        "--model Walk --walk_beta auto --select valid",
        "--model ALS --min_rating 4 --split time --test_from 2003-01-31 --user_column 1",
        "--model CML --separator ; --format table",
        "--model SVDpp --dataset ml-100k --fold 2",
        "--model DeepFM --memory lsh --memory_tune --incremental --hidden 8 8",
        "--model DCNv2 --memory knn --incremental --numeric a b --eval_file_name a\"b'c",
    ],
)
def test_flags_of_a_run_give_the_same_flags_again(work, words):
    """flags.toml holds all that has an effect, and nothing that is refused when it is given."""
    args = parse_args(words.split())
    text = as_toml("title", args.repeating())
    again = parsed(text, "--device", "cpu")
    places = {"config", "device"}
    idle = args.ignored()
    for flag, value in vars(args).items():
        assert flag in places | idle or getattr(again, flag) == value, flag
    assert as_toml("title", again.repeating()) == text
    assert not {"device", "data_dir", "threads", "run_name", "mode"} & tomllib.loads(text).keys()


def test_a_file_holds_when_suggestions_change(work, monkeypatch):
    """It repeats the run with the values of then."""
    args = parse_args(["--model", "DeepFM", "--memory", "knn"])
    text = as_toml("title", args.repeating())
    family = families.family_of("DeepFM")
    monkeypatch.setitem(family.suggested, "DeepFM", {"": {"dim": 999, "epochs": 1, "layers": 9}})
    monkeypatch.setitem(family.presets, "paper", {"demo": {"lr": 5.0}})
    again = parsed(text)
    flags = ["dim", "epochs", "lr", "memory_k", "batch_size", "patience"]
    assert [getattr(again, flag) for flag in flags] == [getattr(args, flag) for flag in flags]


def test_like_takes_no_places(work):
    folder = work / "runs/first"
    content = "dim = 8\ndevice = 'cpu'\nrun_name = 'first'\nthreads = 1\ntrain_mode = 'continue'"
    write(folder / "flags.toml", content)
    for words in (["first"], ["./runs/first"], [str(folder)]):
        args = parse_args(["--like", *words])
        assert (args.dim, args.run_name, args.train_mode, args.device) == (8, None, "new", "auto")
    elsewhere = parse_args(["--log_root", "elsewhere", "--like", "runs/first", "--model", "TwoBP"])
    assert (elsewhere.dim, elsewhere.log_root, elsewhere.model) == (8, "elsewhere", "TwoBP")
    args = parse_args(["--config", str(folder / "flags.toml")])
    assert (args.run_name, args.train_mode, args.device) == ("first", "continue", "cpu")
