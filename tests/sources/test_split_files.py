"""--mode split: the files that it writes have the same splits, in both formats."""

import pytest
from tools import save_arrays, write

import families
from parse import parse_args
from sources.interactions import SPLITS

SPLIT = ("--mode", "split", "--output", "made")


def load(folder, dataset, *flags):
    words = ("--data_dir", folder, "--dataset", dataset, *flags)
    return families.load_data(parse_args([str(word) for word in words]))


@pytest.mark.parametrize("flags", [(), ("--select", "valid")])
def test_the_csv_files_are_the_same_data(cli, work, flags):
    assert cli(*SPLIT, *flags)[0] == 0
    assert load("made", "csv", *flags).digest == load("datasets", "demo", *flags).digest
    valid = work / "made/lightgcn/valid.txt"
    assert valid.exists() == bool(flags)


def test_the_files_in_lightgcns_format_have_the_numbers_of_the_lists(cli, work):
    assert cli(*SPLIT)[0] == 0
    data = load("datasets", "demo")
    lists = {}
    for kind in ("user", "item"):
        lines = (work / f"made/lightgcn/{kind}_list.txt").read_text().splitlines()
        assert lines[0] == "org_id remap_id"
        lists[kind] = {number: id for id, number in (line.rsplit(" ", 1) for line in lines[1:])}
    for split in SPLITS:
        matrix, found = getattr(data, split).tocoo(), set()
        if not matrix.nnz:
            continue
        for line in (work / f"made/lightgcn/{split}.txt").read_text().splitlines():
            user, *items = line.split(" ")
            found |= {(lists["user"][user], lists["item"][item]) for item in items}
        expected = zip(*matrix.coords, strict=True)
        assert found == {(data.user_ids[user], data.item_ids[item]) for user, item in expected}


def test_odd_ids_and_ratings_come_back(cli, work):
    rows = 'user,item,rating\n"a,1",x y,1\n"say ""hi""",x y,2.5\n"a,1",007,0\n'
    write(work / "datasets/odd/train.csv", rows)
    write(work / "datasets/odd/test.csv", 'user,item,rating\n"say ""hi""",007,4\n')
    assert cli(*SPLIT, "--dataset", "odd", "--model", "SVD")[0] == 0
    names = ("made", "csv"), ("datasets", "odd")
    found, expected = (load(*name, "--model", "SVD") for name in names)
    assert found.digest == expected.digest
    assert found.train.sum() == 3.5


def test_arrays_are_written_by_number(cli, work):
    save_arrays(work / "datasets/big")
    assert cli(*SPLIT, "--dataset", "big")[0] == 0
    found, expected = load("made", "csv"), load("datasets", "big")
    assert found.counts() == expected.counts()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mode", "split"), "--mode split needs --output, the folder to write to"),
        ((*SPLIT, "--model", "LR"), "--model LR takes none"),
        ((*SPLIT, "--dim", 3), "--dim does nothing with --mode split"),
        ((*SPLIT, "--output", "."), "--output . exists: name a folder that does not"),
        ((*SPLIT, "--dataset", "nothing"), "no data set 'nothing'"),
    ],
)
def test_mistakes_are_one_line(cli, work, flags, words):
    status, _, stderr = cli(*flags)
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr
    assert not (work / "made").exists()
