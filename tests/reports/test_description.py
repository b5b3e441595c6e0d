"""--mode describe as a command: what it prints, leaves, and refuses."""

import json

import pytest
from matplotlib.figure import Figure
from study_tools import is_png, small_shop
from tools import save_arrays, write

from dataloader import load_dataset
from reports.description import aligned, conclusion
from reports.description_figure import LongTail, Periods, ShareTested, Variance
from sources.description import describe

DESCRIBE = ("--mode", "describe")


def shop_with_times(work):
    rows = [
        f"u{user},i{(user * 7 + item * 11) % 40},{1_000_000_000 + 86_400 * (user + 5 * item)}\n"
        for user in range(40)
        for item in range(15)
    ]
    write(work / "datasets/shop/interactions.csv", "user,item,timestamp\n" + "".join(rows))


def test_the_demo(cli, work):
    status, stdout, stderr = cli(*DESCRIBE)
    assert (status, stderr) == (0, "")
    found = json.loads((work / "runs/demo-description/description.json").read_text())
    assert found["dataset"]["digest"][:12] in stdout
    assert found["test"]["like_random"] is True
    assert "interactions   40,722  7.541% of all pairs" in stdout
    assert "The test split is like a random one" in stdout
    assert is_png(work / "runs/demo-description/description.png")
    assert not (work / "checkpoints").exists()
    assert sorted(path.name for path in (work / "runs").iterdir()) == ["demo-description"]


def test_the_data_are_those_of_training_with_the_same_flags(cli, work):
    shop_with_times(work)
    flags = ("--dataset", "shop", "--split", "last", "--select", "valid", "--run_name", "here")
    status, stdout, _ = cli(*DESCRIBE, *flags)
    assert status == 0
    described = json.loads((work / "runs/here/description.json").read_text())
    assert cli(*flags, "--epochs", 1, "--dim", 4)[0] == 0
    summary = json.loads((work / "runs/here/summary.json").read_text())
    assert described["dataset"] == summary["dataset"]
    assert described["split"] == summary["protocol"]["split"]
    assert "the last 1 of each user" in stdout
    assert [line.split()[1] for line in stdout.splitlines() if line.startswith("valid")] == ["40"]


def test_times_are_shown(cli, work):
    shop_with_times(work)
    status, stdout, _ = cli(*DESCRIBE, "--dataset", "shop", "--split", "time")
    assert status == 0
    # The first interaction is of 2001-09-09; user 39's last is 39 + 5 * 14 days later.
    assert "2001-09-09 01:46:40" in stdout
    assert "2001-12-27 01:46:40" in stdout
    found = json.loads((work / "runs/shop-description/description.json").read_text())
    assert found["time"]["period"] == "week"


def test_arrays_and_a_split_of_ones_own(cli, work):
    save_arrays(work / "datasets/big")
    assert cli(*DESCRIBE, "--dataset", "big")[0] == 0
    write(work / "datasets/rated/train.csv", "user,item,rating\nu,a,1\nu,b,2\nv,a,3\n")
    write(work / "datasets/rated/test.csv", "user,item,rating\nv,b,5\n")
    status, stdout, _ = cli(*DESCRIBE, "--dataset", "rated", "--model", "SVD")
    assert status == 0
    assert "train and test as the files have them" in stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--lr", 1), "--lr does nothing with --mode describe, only with train or evaluate or"),
        (("--device", "cpu"), "--device does nothing with --mode describe"),
        (("--users", "all"), "--users does nothing with --mode describe"),
        (("--encoder", "MLP"), "--encoder does nothing with --mode describe"),
        (("--model", "SVD", "--reg", 1), "--reg does nothing with --mode describe"),
        (("--label", "x"), "--label does nothing with --model OneBP"),
        (("--dataset", "nothing"), "no data set 'nothing'"),
    ],
)
def test_mistakes_are_one_line(cli, work, flags, words):
    status, _, stderr = cli(*DESCRIBE, *flags)
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr
    assert not (work / "runs").exists()


def test_it_runs_in_one_process(cli, monkeypatch):
    places = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**places, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    status, _, stderr = cli(*DESCRIBE)
    assert status == 2
    assert "--mode describe runs in one process; start it without torchrun" in stderr


def test_clicks(cli, work):
    clicks = [0, 1, 1, 0, 1, 1, 0, 1, 0, 1]
    rows = [f"{click},c{row % 3},{row}\n" for row, click in enumerate(clicks)]
    write(work / "datasets/ads/clicks.csv", "label,colour,number\n" + "".join(rows))
    how = ("--model", "LR", "--dataset", "ads", "--test_ratio", 0.2, "--valid_ratio", 0.2)
    status, stdout, stderr = cli(*DESCRIBE, *how)
    assert (status, stderr) == (0, "")
    found = json.loads((work / "runs/ads-description/description.json").read_text())
    assert found["splits"]["test"] == {"rows": 2, "clicks": 1, "share": 0.5}
    assert sum(split["clicks"] for split in found["splits"].values()) == 6
    assert found["values"]["colour"] == 3 + 1
    assert "colour" in stdout
    assert not (work / "runs/ads-description/description.png").exists()


FOUND = {
    "variance_ratio": 3.0,
    "variance_ratio_error": 0.1,
    "popular_items": "alike",
    "like_random": False,
    "undivided": 0.0,
    "groups": [{"share": 0.3, "share_if_random": 0.2}],
}


def test_what_the_conclusion_says():
    def says(split="test", **changes):
        return conclusion(split, FOUND | changes).replace("\n", " ")

    text = says()
    assert "The test split is not random: variance 3.00 (a random split: 1 ± 0.10)." in text
    assert "Validate on a split that is made in the same way" in text
    assert "popular items are in it" not in text
    assert "Validate" not in says("valid")
    more = says(popular_items="more")
    assert "more often than by chance: 30.0% of their interactions, not 20.0%." in more
    assert "is like a random one" in says(like_random=True)
    assert "Validate" not in says(like_random=True)
    assert "80.0% of the test split are of users without other" in says(undivided=0.8)
    assert "divides no user" in says(like_random=None, variance_ratio=None)


def test_columns_are_aligned():
    assert aligned([["a", "1", "x"], ["bcd", "1,000", ""]], (0, 2)) == "a        1  x\nbcd  1,000"


def test_the_panels_show_the_numbers(work):
    shop_with_times(work)
    data = load_dataset("shop", "datasets", validate=True, details=True)
    described = describe(data)
    numbers, panels = described.numbers, described.panels
    kinds = [LongTail, ShareTested, Variance, Periods]
    assert [type(panel) for panel in panels] == kinds
    drawn = []
    for panel in panels:
        axes = Figure().subplots()
        panel.draw(axes)
        drawn.append(axes)
    tail, share, variance, periods = drawn
    assert [line.get_label() for line in tail.lines] == ["users", "items"]
    assert tail.lines[1].get_ydata()[0] == numbers["interactions_of_items"]["100 %"]
    groups = numbers["test"]["groups"]
    mean, own = share.lines
    assert list(own.get_ydata()) == [group["share"] for group in groups]
    assert list(mean.get_ydata()) == [group["share_if_random"] for group in groups]
    heights = [bar.get_height() for bar in variance.patches]
    assert heights == [group["variance_ratio"] or 0 for group in groups]
    # Each split's bars stand on those of the splits before.
    assert sum(bar.get_height() for bar in periods.patches) == numbers["interactions"]
    top = max(bar.get_y() + bar.get_height() for bar in periods.patches)
    counts = numbers["time"]["counts"].values()
    assert top == max(map(sum, zip(*counts, strict=True)))
    # Without colour: lines differ by dash and marker, bars by gray and hatch.
    assert len({(line.get_linestyle(), line.get_marker()) for line in tail.lines}) == 2
    faces = {(bar.get_facecolor(), bar.get_hatch()) for bar in periods.patches}
    assert len(faces) == 3
    assert all(len(set(face[:3])) == 1 for face, _ in faces)


def test_without_times_there_are_three_panels(work):
    small_shop(work)
    data = load_dataset("shop", "datasets", details=True)
    assert len(describe(data).panels) == 3
