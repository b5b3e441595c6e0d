"""Where a value comes from; one line for each kind of mistake."""

import pytest

import families
from cli.shared_flags import DATASETS
from families.two_tower import PRESETS
from parse import flags_of, parse_args, serves
from regularizers.flags import GRANULARITIES


def defaults(model="OneBP"):
    """{flag: default} for a model."""
    return {name: flag.default for name, flag in flags_of(model).items()}


def test_given_beats_suggested_beats_default():
    args = parse_args(["--dataset", "1m", "--lr", "0.5"])
    assert (args.dataset, args.lr, args.dim, args.l2, args.eval_every) == ("1M", 0.5, 128, 1e-6, 1)
    assert args.origin["lr"] == args.origin["dataset"] == "command line"
    assert args.origin["dim"] == "suggested for 1M"
    assert args.origin["eval_every"] == "default"
    assert set(args.origin) == set(vars(args))
    assert parse_args(["--dataset", "mine"]).dim == defaults()["dim"]


def test_suggested_parameters_of_the_paper():
    table = {
        "100k": (1024, 1e-5, 5e-4, 32, 0.99, 5),
        "1M": (1024, 1e-6, 1e-3, 128, 0.99, 5),
        "Gowalla": (1024, 0, 5e-4, 1024, 0.999, 5),
        "Yelp2018": (1024, 0, 5e-5, 2048, 0.999, 5),
    }
    for name, expected in table.items():
        args = parse_args(["--dataset", name])
        assert (
            tuple(getattr(args, flag) for flag in ("batch_size", "l2", "lr", "dim", "beta", "N"))
            == expected
        )
        assert (args.lr_dc, args.lr_dc_epoch) == (1, [])
    assert {flag for values in DATASETS.values() for flag in values} <= defaults().keys()


def test_preset():
    args = parse_args(["--dataset", "100k", "--preset", "cosine", "--epochs", "7"])
    assert (args.lr, args.lr_schedule, args.epochs, args.dim) == (2e-2, "cosine", 7, 32)
    assert [args.origin[flag] for flag in ("lr", "epochs", "dim")] == [
        "preset cosine",
        "command line",
        "suggested for 100k",
    ]
    args = parse_args(["--dataset", "gowalla", "--preset", "best", "--dim", "64"])
    assert (args.sampler, args.similarity, args.dim, args.batch_size) == (
        "inbatch",
        "cosine",
        64,
        1024,
    )
    assert all(
        set(flags) <= defaults().keys() for sets in PRESETS.values() for flags in sets.values()
    )


def test_other_spellings():
    flags = "--train_mode continue_train --model onebp --lr_dc 0.1 --lr_dc_epoch 20 60 80"
    flags += " --dataset DEMO"
    args = parse_args(flags.split(" "))
    assert (args.train_mode, args.model, args.lr_dc_epoch, args.dataset) == (
        "continue",
        "OneBP",
        [20, 60, 80],
        "demo",
    )
    assert parse_args(["--train_mode", "new_train"]).train_mode == "new"
    assert parse_args(["--lr_dc_epoch"]).lr_dc_epoch == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--epoch 3", "did you mean --epochs?"),
        ("--learning_rate 3", "unrecognized arguments: --learning_rate"),
        ("stray", "unrecognized arguments: stray"),
        ("--dim", "--dim: expected one argument"),
        ("--dim 0", "--dim: '0' is not a whole number from 1"),
        ("--dim 1.5", "--dim: '1.5' is not a whole number"),
        ("--lr 0", "--lr: '0' is not a number above 0"),
        ("--lr nan", "--lr: 'nan' is not a number above 0"),
        ("--lr inf", "--lr: 'inf' is not a number above 0"),
        ("--timeout 1e300", "--timeout: '1e300' is not a number above 0 up to 1000000.0"),
        ("--l2 -1", "--l2: '-1' is not a number from 0"),
        ("--beta 1.01", "--beta: '1.01' is not a number from 0 up to 1"),
        ("--temperature 0", "--temperature: '0' is not a number above 0"),
        ("--test_ratio 1", "--test_ratio: '1' is not a number above 0 up to 0.9"),
        ("--model GMF", "--model: 'GMF' is not one of OneBP, TwoBP"),
        ("--train_mode resume", "--train_mode: 'resume' is not one of new, continue"),
        ("--aggregation max", "'max' is not one of mean, sequential, last"),
        ("--lr_dc_epoch 0", "--lr_dc_epoch: '0' is not a whole number from 1"),
        ("--run_name a/b", "'a/b' is not a plain name for a file or folder"),
        (f"--run_name {'a' * 231}", "has over 230 bytes; shorten it"),
        ("--run_name a\x07b", "is not a plain name for a file or folder"),
        (
            "--preset cosine --dataset 1M",
            "there is no --preset cosine for 1M, only for 100k",
        ),
        ("--valid_ratio 0.1", "--valid_ratio needs --select valid"),
        ("--lr_dc 0.5", "--lr_dc needs --lr_dc_epoch"),
        ("--lr_dc_epoch 20 60", "--lr_dc_epoch needs --lr_dc"),
        (
            "--lr_schedule cosine --lr_dc_epoch 5",
            "need --lr_schedule step; here it is cosine (command line)",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, flags, words):
    with pytest.raises(SystemExit) as exit:
        parse_args(flags.split())
    stderr = capsys.readouterr().err
    assert exit.value.code == 2
    assert stderr.startswith("main.py: error: ")
    assert stderr.count("\n") == 1
    assert words in stderr


def test_a_word_of_blanks_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_args(["\t"])
    assert "error: unrecognized arguments: '\\t' (" in capsys.readouterr().err


@pytest.mark.parametrize("model", families.models())
def test_help_shows_the_flags_of_the_model_with_their_defaults(capsys, model):
    with pytest.raises(SystemExit) as exit:
        parse_args(["--model", model, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert exit.value.code == 0
    suggested = families.family_of(model).suggested.get(model, {}).get("", {})
    for name, flag in flags_of(model).items():
        assert (f"--{name} " in text) == serves(name, model)
        default = suggested.get(name, flag.default)
        if serves(name, model) and isinstance(default, (float, str)):
            assert f"(default: {default})" in text
    others = [family for family in families.FAMILIES if model not in family.models]
    assert len(others) == 3
    assert all(f"{', '.join(family.models)} {family.title}" in text for family in others)


TRAITS = {"gradients", "epochs", "dim", "pairs", "ranking", "personal", "lists", "updates"}


def test_declarations_fit_each_other():
    """Choices, traits and suggested flags that a declaration names exist."""
    for family in families.FAMILIES:
        traits = {trait for model in family.models.values() for trait in model.has}
        assert traits <= TRAITS
        for model in family.models:
            declared = flags_of(model)
            for flag in declared.values():
                assert flag.needs in TRAITS | {None}
                for choice, values in flag.only.items():
                    assert set(values) <= set(declared[choice].convert.choices)
            suggested = [*family.suggested.get(model, {}).values(), *family.datasets.values()]
            suggested += [flags for sets in family.presets.values() for flags in sets.values()]
            assert all(flags.keys() <= declared.keys() for flags in suggested)
        assert all(model in family.models for model in family.suggested)
        assert all(flag in defaults(model) for model in family.models for flag in family.flags())


def test_a_flag_of_two_families_is_that_of_the_model():
    assert flags_of("EASE")["N"].help != flags_of("OneBP")["N"].help
    assert (
        serves("layers", "DCNv2"),
        serves("layers", "FM"),
        serves("layers", "OneBP"),
    ) == (True, False, True)


def test_replace_leaves_the_original():
    args = parse_args(["--lr", "0.5"])
    other = args.replace(origin="refit", refit_epochs=3, lr=1.0, eval_every=7)
    assert (other.lr, other.eval_every, other.last_epoch) == (1.0, 7, 3)
    assert (other.origin["lr"], other.origin["dim"]) == ("refit", "suggested for demo")
    assert (args.lr, args.refit_epochs, args.given("lr"), other.given("lr")) == (
        0.5,
        None,
        True,
        False,
    )
    assert other.replace(lr=2.0).refit_epochs == 3


def test_what_flags_decide():
    args = parse_args(["--lr_schedule", "cosine"])
    trained = args.training_flags()
    assert {"lr", "batch_size", "dataset", "epochs", "refit_epochs", "select"} <= trained.keys()
    assert "epochs" not in parse_args([]).training_flags()
    free = {
        "device",
        "log_root",
        "run_name",
        "train_mode",
        "memory",
        "users",
        "patience",
        "l2_grid",
    }
    assert not free & trained.keys()
    assert args.deciding("stream").keys() == {
        "memory",
        "slots",
        "incremental",
        "incremental_lr",
    } | {
        f"memory_{name}"
        for name in ["tune", "key", "k", "lambda", "tau", "gamma", "bits", "size", "sigma"]
    }
    places = {
        "device",
        "threads",
        "data_dir",
        "log_root",
        "checkpoint_dir",
        "no_download",
        "verify_data",
        "timeout",
        "config",
        "like",
    }
    assert vars(args).keys() - args.common_flags().keys() == places
    assert {
        "dataset",
        "valid_ratio",
        "split_seed",
        "threshold",
        "select",
        "regularizer",
    } <= args.loading_flags().keys()
    assert not {"lr", "epochs", "device"} & args.loading_flags().keys()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--layers 3", "--layers does nothing with --encoder MF, only with LightGCN or MLP"),
        (
            "--sampler inbatch --N 5",
            "--N does nothing with --sampler inbatch, only with uniform or popularity or dns",
        ),
        ("--alpha 1", "--alpha does nothing with --sampler uniform, only with popularity"),
        ("--sampler dns --alpha 1", "--alpha does nothing with --sampler dns"),
        (
            "--sampler popularity --candidates 9",
            "--candidates does nothing with --sampler popularity, only with dns",
        ),
        ("--gamma 1", "--gamma does nothing with --loss InfoNCE, only with BSL or DirectAU"),
        ("--reg 1", "--reg does nothing with --model OneBP, only with EASE or SANSA or ALS or SVD"),
        ("--model EASE --lr 1", "--lr does nothing with --model EASE, only with OneBP or TwoBP"),
        ("--model ALS --encoder MLP", "--encoder does nothing with --model ALS"),
        (
            "--model Popularity --dim 3",
            "--dim does nothing with --model Popularity, only with OneBP or TwoBP or ALS",
        ),
        ("--sampler none", "--loss InfoNCE needs negatives"),
        ("--loss DirectAU --sampler uniform", "--loss DirectAU has no negatives"),
        (
            "--loss DirectAU --temperature 1",
            "--temperature does nothing with --loss DirectAU, only with",
        ),
        ("--mode recommend --history=", "--history: it is empty"),
        ("--loss BPR --sampler inbatch", "corrects a softmax, which --loss BPR is not"),
        (
            "--sampler dns --candidates 3",
            "keeps --N 5 of the candidates, so --candidates 3 is too few",
        ),
        ("--topk 5", "--topk does nothing with --mode train, only with recommend"),
        (
            "--mode evaluate --output x",
            "--output does nothing with --mode evaluate, only with split or recommend or export",
        ),
        (
            "--mode recommend",
            "needs --users (ids, @FILE, all) or --history (a file), and not both",
        ),
        ("--mode recommend --users 1 --history x", "and not both"),
        ("--mode recommend --users 1 --passes 2", "--passes belongs to --history"),
        ("--mode export", "--mode export needs --output"),
        ("--refit", "--refit needs --select valid, which chooses the number of epochs"),
        ("--mode evaluate --refit --select valid", "--refit does nothing with --mode evaluate"),
        (
            "--fold 1 --test_ratio 0.2",
            "--fold names a split that is made already: leave --test_ratio out",
        ),
        ("--fold 6", "--fold: '6' is not a whole number from 1 up to 5"),
        (
            "--model SVD --beta 0.9",
            "--beta does nothing with --model SVD, only with OneBP or TwoBP",
        ),
        ("--margin 1", "--margin does nothing with --model OneBP, only with CML"),
        (
            "--model CML --sampler none",
            "--sampler does nothing with --model CML, only with OneBP or TwoBP",
        ),
        (
            "--model Walk --walk_beta auto",
            "--walk_beta auto chooses on the validation split: add --select valid, or give a",
        ),
        ("--model Walk --walk_beta x --select valid", "'x' is not a number from 0, or auto"),
        ("--model EASE --reg 0", "--reg 0 leaves EASE without a solution"),
        ("--mode evaluate --train_mode new", "--train_mode does nothing with --mode evaluate"),
        (
            "--regularizer lambdaopt --l2 1e-3",
            "--l2 does nothing with --regularizer lambdaopt, only with decay or l2",
        ),
        (
            "--regularizer lambdaopt --l2_grid 1 0",
            "--l2_grid does nothing with --regularizer lambdaopt",
        ),
        (
            "--regularizer lambdaopt --refit",
            "leaves --regularizer lambdaopt no validation split to tune its strengths",
        ),
        (
            "--model EASE --regularizer lambdaopt",
            "--regularizer does nothing with --model EASE, only with OneBP or",
        ),
        ("--model SVD --regularizer l2", "--regularizer does nothing with --model SVD"),
        ("--model CML --regularizer lambdaopt", "--regularizer does nothing with --model CML"),
        (
            "--granularity ui",
            "--granularity does nothing with --regularizer decay, only with lambdaopt",
        ),
        (
            "--regularizer l2 --lambda_lr 1",
            "--lambda_lr does nothing with --regularizer l2, only with lambdaopt",
        ),
        ("--lambda_interval 2", "--lambda_interval does nothing with --regularizer decay"),
        ("--lambda_clip 2", "--lambda_clip does nothing with --regularizer decay"),
        ("--lambda_grad full", "--lambda_grad does nothing with --regularizer decay"),
        (
            "--regularizer lambdaopt --granularity iu",
            "--granularity: 'iu' is not one of global, dimension",
        ),
        (
            "--regularizer lambdaopt --lambda_grad half",
            "--lambda_grad: 'half' is not one of truncated, full",
        ),
        (
            "--regularizer lambdaopt --lambda_interval 0",
            "--lambda_interval: '0' is not a whole number from 1",
        ),
        ("--regularizer lambdaopt --lambda_clip 0", "--lambda_clip: '0' is not a number above 0"),
        ("--regularizer lambdaopt --lambda_lr 0", "--lambda_lr: '0' is not a number above 0"),
        (
            "--regularizer lambdaopt --lambda_grad full --encoder LightGCN",
            "--lambda_grad full differentiates gradients",
        ),
        (
            "--regularizer l2",
            "--regularizer l2 needs its strength, --l2, or several to try, --l2_grid",
        ),
        ("--regularizer none", "--regularizer: 'none' is not one of decay, l2, lambdaopt"),
        ("--threads 100000", "--threads: '100000' is not a whole number from 1 up to "),
        (
            "--memory knn",
            "--memory does nothing with --model OneBP, only with LR or FM or DeepFM or DCNv2",
        ),
        (
            "--model SVD --incremental",
            "--incremental does nothing with --model SVD, only with LR or",
        ),
        (
            "--model EASE --threshold 2",
            "--threshold does nothing with --model EASE, only with LR or",
        ),
        ("--slots 3", "--slots does nothing with --model OneBP"),
        ("--model LR --dim 3", "--dim does nothing with --model LR"),
        (
            "--model FM --dataset 1m",
            "1M is not for --model FM, only demo, criteo, ml-1m-ctr, AmazonElectronics_x1, ",
        ),
        (
            "--dataset Criteo",
            "criteo is for --model LR or FM or DeepFM or DCNv2, not OneBP",
        ),
        (
            "--model FM --hidden 3",
            "--hidden does nothing with --model FM, only with DeepFM or DCNv2",
        ),
        ("--model DeepFM --layers 3", "--layers does nothing with --model DeepFM"),
        ("--model DCNv2 --layers 0", "--layers: '0' is not a whole number from 1"),
        ("--model DCNv2 --N 3", "--N does nothing with --model DCNv2"),
        (
            "--model DeepFM --encoder MLP",
            "--encoder does nothing with --model DeepFM, only with OneBP or TwoBP",
        ),
        ("--model DeepFM --refit", "--refit does nothing with --model DeepFM"),
        (
            "--model DeepFM --memory_k 5",
            "--memory_k does nothing with --memory none, only with knn or lsh",
        ),
        (
            "--model DeepFM --memory_tune",
            "--memory_tune does nothing with --memory none, only with knn or lsh",
        ),
        (
            "--model DeepFM --memory knn --memory_bits 5",
            "--memory_bits does nothing with --memory knn, only with lsh",
        ),
        (
            "--model DeepFM --memory lsh --memory_size 5",
            "--memory_size does nothing with --memory lsh, of one size",
        ),
        (
            "--model DeepFM --memory lsh --memory_bits 21",
            "--memory_bits: '21' is not a whole number from 1 up to 20",
        ),
        (
            "--model DeepFM --memory lsh --memory_gamma 2",
            "--memory_gamma: '2' is not a number from 0 up to 1",
        ),
        ("--model DeepFM --memory lsh --memory_tau 0", "--memory_tau: '0' is not a number above 0"),
        ("--model DeepFM --memory none --slots 0", "--slots: '0' is not a whole number from 1"),
        ("--model DeepFM --memory lru", "--memory: 'lru' is not one of none, knn, lsh"),
        ("--model LR --memory knn --memory_tune --select test", "leave --select test out"),
        (
            "--model LR --memory knn --memory_tune --memory_k 5",
            "--memory_k is what --memory_tune chooses",
        ),
        (
            "--model LR --memory knn --memory_lambda 1 --memory_tune",
            "--memory_lambda is what --memory_tune chooses",
        ),
        ("--model DeepFM --incremental_lr 1", "--incremental_lr needs --incremental"),
        (
            "--model DeepFM --eval_file_name metrics.csv",
            "--eval_file_name metrics.csv is another file of the run",
        ),
        (
            "--model DeepFM --loss_file_name auc.log",
            "--loss_file_name auc.log is another file of the run",
        ),
    ],
)
def test_what_contradicts_is_refused_before_any_data_is_loaded(capsys, flags, words):
    test_mistakes_are_one_line(capsys, flags, words)


def test_values_that_follow_from_the_model():
    assert parse_args(["--loss", "DirectAU"]).sampler == "none"
    ease = parse_args(["--model", "EASE", "--dataset", "1M"])
    assert (ease.epochs, ease.reg, ease.origin["reg"]) == (1, 1000.0, "suggested for EASE")
    assert parse_args(["--model", "EASE", "--dataset", "mine"]).reg == 500.0
    assert parse_args(["--model", "ALS", "--dataset", "100k"]).epochs == 10
    svd = parse_args(["--model", "SVD", "--dataset", "ML-100K"])
    assert (svd.dataset, svd.reg, svd.epochs) == ("ml-100k", 0.1, 20)


def test_values_that_follow_from_a_model_of_clicks():
    fm, deep, cross = (
        parse_args(["--model", name, "--dataset", "CRITEO"]) for name in ("FM", "DeepFM", "DCNv2")
    )
    assert (fm.select, fm.origin["select"], fm.threshold) == ("valid", "suggested for FM", 10)
    assert (deep.eval_file_name, deep.loss_file_name, deep.memory) == (
        "auc.log",
        "loss.log",
        "none",
    )
    assert (cross.layers, parse_args(["--model", "DCNv2", "--layers", "4"]).layers) == (3, 4)
    assert "layers" in deep.ignored()
    assert "layers" not in cross.ignored()  # although --encoder MF would ignore it
    for memory, count in (("knn", 100), ("lsh", 32)):
        args = parse_args(["--model", "DeepFM", "--memory", memory])
        assert (args.memory_k, args.origin["memory_k"]) == (count, f"suggested for {memory}")
        assert (
            parse_args(["--model", "DeepFM", "--memory", memory, "--memory_k", "7"]).memory_k == 7
        )
    args = parse_args(
        ["--model", "LR", "--memory", "lsh", "--incremental", "--memory_size", "9", "--memory_tune"]
    )
    assert (args.memory_size, args.memory_tune, args.incremental_lr) == (9, True, None)


def test_lambdaopt_holds_back_what_it_tunes_on():
    args = parse_args(["--regularizer", "lambdaopt"])
    assert (args.select, args.valid_ratio) == ("valid", 0.25)
    assert args.origin["select"] == args.origin["valid_ratio"] == "suggested for lambdaopt"
    given = parse_args(["--regularizer", "lambdaopt", "--select", "test", "--valid_ratio", "0.5"])
    assert (given.select, given.valid_ratio, given.origin["select"]) == (
        "test",
        0.5,
        "command line",
    )
    assert (
        parse_args(["--regularizer", "l2", "--l2", "1"]).select,
        parse_args([]).valid_ratio,
    ) == ("test", None)


def test_short_forms_of_granularity():
    assert len(GRANULARITIES) == 9
    for short, granularity in GRANULARITIES.items():
        initials = "".join(word[0] for word in granularity.replace("-", "+").split("+"))
        assert short == initials
        for word in (short, granularity, short.upper()):
            assert (
                parse_args(["--regularizer", "lambdaopt", "--granularity", word]).granularity
                == granularity
            )


def test_default_run_name():
    assert (
        parse_args(["--dataset", "100K", "--encoder", "MLP", "--model", "TwoBP"]).default_run_name
        == "100k-TwoBP-MLP"
    )
    assert parse_args(["--model", "EASE"]).default_run_name == "demo-EASE"
    assert (
        parse_args(["--model", "SVD", "--fold", "3", "--dataset", "ml-100k"]).default_run_name
        == "ml-100k-u3-SVD"
    )


def test_preset_of_a_click_model():
    args = parse_args(
        ["--model", "DeepFM", "--dataset", "Criteo", "--preset", "x4_001", "--dim", "8"]
    )
    assert (args.batch_size, args.hidden, args.threshold, args.dim) == (10_000, [1000] * 5, 10, 8)
    assert args.origin["hidden"] == "preset x4_001"
