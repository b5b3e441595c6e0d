"""The Gram matrix and the sums of a loss over all items, also on several ranks that divide it."""

import pytest
import torch
from rank_tools import made_model, whole
from tools import on_ranks
from torch.nn import functional

from distributed.gram import SumsAndGram, matmul_precision

FLAGS = ("--loss", "ELSA", "--batch_size", 13, "--optimizer", "SGD")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("block", [6, 1000])
def test_sums_and_gram_and_their_gradient_are_those_of_autograd(block, monkeypatch):
    """Also with blocks of two rows, and a row of zeros, which stays one."""
    monkeypatch.setattr("distributed.gram.BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    table, sums, gram = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((11, 3), (4, 3), (3, 3))
    )
    table[5] = 0
    matrix = (torch.rand(4, 11, generator=generator) < 0.4).double()
    matrix[:, 5] = 0
    gradients = []
    for fast in (True, False):
        leaf = table.clone().requires_grad_()
        a = functional.normalize(leaf, dim=1)
        found = matrix @ a, a.T @ a
        if fast:
            expected = found
            found = SumsAndGram.apply(leaf, matrix.to_sparse_csr(), matrix.T.to_sparse_csr())
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        ((found[0] * sums).sum() + (found[1] * gram).sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_a_precision_holds_inside_and_ends_also_with_an_error():
    def fail():
        with matmul_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise KeyError

    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_low_precision_is_near_the_highest_and_leaves_the_sums_alone():
    """On a machine without products of low precision all are equal."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(200, 64, generator=generator)
    matrix = (torch.rand(8, 200, generator=generator) < 0.4).float()
    matrices = matrix.to_sparse_csr(), matrix.T.to_sparse_csr()
    found = []
    for precision in ("highest", "medium"):
        leaf = table.clone().requires_grad_()
        sums, gram = SumsAndGram.apply(leaf, *matrices, precision)
        (gram.square().sum() + sums.sum()).backward()
        found.append((sums.detach(), gram.detach(), leaf.grad))
    exact, near = found
    assert torch.equal(exact[0], near[0])
    for one, other in zip(exact[1:], near[1:], strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0.02 * one.abs().max().item())


def one_step(*made):
    """This rank's weights before and after a step, its users, the step's sums, its loss."""
    model = made_model(*made)
    before = {name: table.clone() for name, table in model.weights.items()}
    users, matrix, transposed, size = next(model.schedule.batches())
    model.optimizer.prepare(0.5)
    loss = model.step((users, matrix, transposed, size))
    model.optimizer.finish()
    assert (transposed.to_dense() == matrix.to_dense().T).all()
    sums = matrix.to_dense(), size
    return before, dict(model.weights), users + model.data.first, sums, loss


@pytest.mark.parametrize("groups", [4, 5])
@pytest.mark.parametrize(("kind", "count"), [("OneBP", 2), ("TwoBP", 2), ("OneBP", 3)])
def test_a_step_is_that_of_one_process(kind, groups, count):
    """The loss to float32, and the weights: also those of a moved user, with --beta."""
    flags = (*FLAGS, "--beta", 0.5) if kind == "OneBP" else FLAGS
    befores, afters, users, sums, losses = zip(
        *on_ranks(one_step, kind, groups, *flags, count=count), strict=True
    )
    model = made_model(kind, groups, *flags)
    for name, table in model.weights.items():
        table.copy_(whole(name, befores))
    assert len({len(own) for own in users}) == 2  # the ranks have different shares
    pieces, sizes = zip(*sums, strict=True)
    matrix = torch.cat(pieces, 1)[:, : model.data.shape[1]]  # the last piece may reach beyond
    assert all(torch.equal(size, matrix.sum(1)) for size in sizes)
    some, others = matrix.bool().chunk(2)
    known = torch.as_tensor(model.data.train[torch.cat(users).numpy()].toarray())
    assert torch.equal(some ^ others, known.bool())
    model.optimizer.prepare(0.5)
    matrices = matrix.to_sparse_csr(), matrix.T.to_sparse_csr()
    loss = model.train_step((torch.cat(users), *matrices, sizes[0]))
    assert sum(own.item() for own in losses) == pytest.approx(loss.item(), rel=1e-6)
    for name, table in model.weights.items():
        torch.testing.assert_close(whole(name, afters), table, rtol=1e-5, atol=1e-6)


def uneven_epoch():
    model = made_model("OneBP", 5, "--loss", "ELSA", "--batch_size", 5)
    sizes = [len(batch[0]) for batch in model.schedule.batches()]
    loss = model.train_epoch(0.05, lambda: None)
    model.evaluate("test")  # compares the items of the ranks
    return sizes, loss


def test_a_rank_may_have_no_users_left():
    found = on_ranks(uneven_epoch, count=3)
    losses = [loss for _, loss in found]
    assert any(0 in sizes for sizes, _ in found)
    assert losses == [losses[0]] * 3
    assert 0 < losses[0] < 2
