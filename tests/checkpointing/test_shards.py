"""Checkpoints of several ranks: whole, divided anew, told where they do not fit."""

import shutil

import pytest
import torch
from rank_tools import PIECES, made_model, trained_and_loaded
from tools import (
    checkpoint,
    on_ranks,
    toy_data,
)

from checkpointing.files import save_checkpoint
from checkpointing.last_and_best import Checkpoints
from checkpointing.shards import drop_stale, load
from cli.errors import UserError
from distributed import collectives
from sources.share import own_share


def test_only_files_of_ranks_are_stale(tmp_path):
    for name in ("users.1.0-of-2.pt", "users.2.0-of-2.pt", "users.old.pt", "users.3.pt"):
        (tmp_path / name).touch()
    drop_stale(tmp_path, {2})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "users.2.0-of-2.pt",
        "users.3.pt",
        "users.old.pt",
    ]


def saved_and_loaded(folder, lr=0.05):
    """The moments of this rank's piece of the items after an epoch, and those a new model loads."""
    model, again = trained_and_loaded(folder, lr, "OneBP", 5)
    assert torch.equal(model.weights["item"], again.weights["item"])
    assert model.optimizer.ways == again.optimizer.ways == PIECES
    return [torch.stack(one.optimizer.optimizer.moments["item"]) for one in (model, again)]


def test_moments_of_pieces_become_whole_in_a_checkpoint(tmp_path):
    """40 items on 3 ranks: the last one has a piece of 14 rows of which the table lacks 2."""
    found = on_ranks(saved_and_loaded, tmp_path, count=3)
    for before, after in found:
        assert before.shape == (2, 14, 8)
        assert torch.equal(before, after)
    state = load(tmp_path / "last.pt")["model"]["optimizer"]["item"]
    whole = torch.cat([before for before, _ in found], dim=1)[:, :40]
    assert torch.equal(torch.stack([state["exp_avg"], state["exp_avg_sq"]]), whole)
    assert (state["exp_avg_sq"] > 0).all()


def best_written_late(folder):
    """The items after the first of two epochs, the best, and those in best.pt, written later."""
    model, seen = made_model("OneBP", 5), []
    checkpoints = Checkpoints(folder, 2, model.data)
    for epoch in (1, 2):
        model.train_epoch(0.05, lambda: None)
        checkpoints.update(checkpoint(epoch, 1, model=model.state_dict()), epoch == 1, epoch == 2)
        seen.append(model.weights["item"].clone())
    collectives.all_reduce_int(0)  # the first one has written
    return seen[0], [
        load(folder / f"{name}.pt", model.data)["model"]["encoder"]["item"]
        for name in ("best", "last")
    ]


def test_a_best_epoch_that_is_written_late_is_as_it_was(tmp_path):
    for items, (best, last) in on_ranks(best_written_late, tmp_path):
        assert torch.equal(items, best)
        assert not torch.equal(items, last)


def test_files_of_ranks_that_were_swapped_are_told(tmp_path):
    on_ranks(saved_and_loaded, tmp_path)
    first, second = (tmp_path / f"users.1.{rank}-of-2.pt" for rank in (0, 1))
    first.rename(tmp_path / "third")
    second.rename(first)
    (tmp_path / "third").rename(second)
    with pytest.raises(UserError, match=r"users.1.0-of-2.pt does not belong to"):
        load(tmp_path / "last.pt")


def test_a_file_of_another_run_or_kind_is_told(tmp_path):
    for name, lr in (("one", 0.05), ("other", 0.06)):
        on_ranks(saved_and_loaded, tmp_path / name, lr)
    own, common = (tmp_path / "one" / name for name in ("users.1.1-of-2.pt", "last.pt"))
    load(common)
    reasons = {tmp_path / "other" / own.name: "does not belong to", common: r".*has no entry"}
    for stranger, reason in reasons.items():
        shutil.copy(stranger, own)
        with pytest.raises(UserError, match=rf"users.1.1-of-2.pt {reason}"):
            load(common)
    own.unlink()
    with pytest.raises(UserError, match=r"users.1.1-of-2.pt, a part of .*last.pt, is absent"):
        load(common)
    shutil.copy(tmp_path / "other" / own.name, common)
    with pytest.raises(UserError, match=r"last.pt .*has no entry epoch"):
        load(common)


def saved_apart(folder):
    saved_and_loaded(folder / str(collectives.rank()))


def test_checkpoints_in_folders_that_are_not_shared_are_told(tmp_path):
    for error in on_ranks(saved_apart, tmp_path):
        assert "users.1.1-of-2.pt, of rank 1, is not here" in str(error)


def test_recover_drops_what_a_kill_left(tmp_path):
    """Killed after last.pt of epoch 3 was written, before the files of epoch 2 were removed."""
    for epoch in (2, 3):
        (tmp_path / f"users.{epoch}.0-of-2.pt").touch()
    save_checkpoint(tmp_path / "best.pt", checkpoint(3))
    Checkpoints(tmp_path, 1).recover(3, 3)
    assert not (tmp_path / "users.2.0-of-2.pt").exists()
    assert (tmp_path / "users.3.0-of-2.pt").exists()


def too_large(folder):
    load(folder / "last.pt", own_share(toy_data(20)))


def test_a_checkpoint_of_fewer_users_is_told(tmp_path):
    on_ranks(saved_and_loaded, tmp_path, count=2)
    assert "is of other data" in str(on_ranks(too_large, tmp_path)[1])
