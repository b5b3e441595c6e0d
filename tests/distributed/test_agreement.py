"""What ranks must have in common is compared; their random numbers differ."""

import os

import pytest
import torch
from rank_tools import CPU, made_model
from tools import (
    on_ranks,
    save_arrays,
    write,
)

from cli.errors import should_report
from distributed import agreement, collectives
from main import train_model
from parse import parse_args


def random_start():
    """This rank's encodings of users before training, and its first negatives."""
    model = made_model("OneBP", 4)
    return model.weights["user"].clone(), next(model.schedule.batches())[2]


def test_ranks_draw_different_random_numbers():
    """PyTorch's generator on a CPU takes the low 32 bits of its seed alone."""
    users, negatives = zip(*on_ranks(random_start, count=3), strict=True)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        size = min(len(users[one]), len(users[other]))
        assert not (users[one][:size] == users[other][:size]).any()
        size = min(negatives[one].shape[1], negatives[other].shape[1])
        assert (negatives[one][:, :size] == negatives[other][:, :size]).float().mean() < 0.3


def started_with(folder, words):
    """What main.py does on this rank in the folder, with its own one of `words`."""
    os.chdir(folder)
    train_model(parse_args(["--dataset", "shop", *words[collectives.rank()].split()]), CPU)


@pytest.mark.parametrize(
    ("words", "others", "message"),
    [
        ("--seed 1", "--seed 2", "rank 1 has --seed 2, the first one 1"),
        ("--data_dir datasets", "--data_dir other", "rank 1 has data with digest"),
        ("--data_dir datasets", "--data_dir absent", "rank 1: no data set 'shop'"),
        (
            "--data_dir datasets",
            "--data_dir arrays",
            "rank 1 has a data set of arrays True, the first one False",
        ),
        ("--train_mode continue", "--train_mode continue", "no checkpoint at"),
    ],
)
def test_ranks_need_the_same_flags_and_data(work, words, others, message):
    for number, folder in enumerate(("datasets", "other")):
        pairs = [
            f"u{user},i{item}\n" for user in range(9) for item in range(9) if user != item + number
        ]
        write(work / folder / "shop" / "interactions.csv", "user_id,item_id\n" + "".join(pairs))
    save_arrays(work / "arrays" / "shop")
    for error in on_ranks(started_with, work, (words, others)):
        assert message in str(error)
        assert should_report(error)


def changed_weights():
    """What the check says after a rank changed one bit of the items."""
    model = made_model("OneBP", 4)
    agreement.check_tables_equal(model.shared_weights())
    if collectives.rank() == 1:
        model.weights["item"].view(torch.int32)[3, 5] ^= 1
    model.evaluate("test")


def test_weights_that_differ_stop_the_run():
    for error in on_ranks(changed_weights):
        assert "'item' are no longer the same on all 2 ranks" in str(error)


def test_fingerprint_tells_places_and_bits_apart():
    table = torch.randn(100, 8)
    seen = {agreement.fingerprint(table)}
    for place in range(100):
        changed = table.clone()
        changed.view(torch.int32)[place, place % 8] ^= 1 << place % 32
        seen.add(agreement.fingerprint(changed))
        seen.add(agreement.fingerprint(table.roll(place + 1, 0)) if place < 99 else place)
    assert len(seen) == 201
