"""Operations on tables of weights and of sparse pairs, whose gradients and look-ups every model needs.

Shapes: M rows that a step reads, R rows of a table, D dim, U users, I items.
"""

import warnings

import numpy as np
import torch
from torch import nn

from distributed.collectives import all_reduce_


def take(table, rows):
    """The rows (M, D) of a table, or for None all of it."""
    return table if rows is None else table.index_select(0, rows)


def merge(mark, rows):
    """One place for each distinct row: rows (M,) -> (M,), the place of one of its occurrences. mark (R,): scratch."""
    mark[rows] = torch.arange(len(rows), device=rows.device)
    return mark.index_select(0, rows)


def value_and_gradients(function, weights, *arguments):
    """function(weights, *arguments) and its gradients by `weights`, {name: tensor}, in the same form.

    torch.compile takes torch.func whole, but not autograd; in eager mode autograd costs less per call.
    """
    if torch.compiler.is_compiling():
        gradients, value = torch.func.grad_and_value(function)(weights, *arguments)
        return value, gradients
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        value = function(leaves, *arguments)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


class Weights(nn.Module):
    """Weights that are handed to what computes with them."""

    def register(self, name, tensor):
        """Add a weight. Gradients are never kept in it."""
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))


def rows(table, index):
    """The rows (*shape, D) of a table at an index tensor of any shape, or the whole table (R, D) for None."""
    if index is None:
        return table
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)  # (n, D) -> (*shape, D)


class SparseProduct(torch.autograd.Function):
    """A sparse product whose gradient takes the transposed matrix, made ready, instead of transposing in every step."""

    @staticmethod
    def forward(ctx, x, matrix, transposed):
        """x (n, D), matrix (m, n), transposed (n, m) -> (m, D)"""
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.transposed @ gradient, None, None


class UserItems:
    """A part's pairs on the device, to look up by user: indptr (U+1,), int64, and indices (nnz,), int32."""

    def __init__(self, matrix, device):
        self.indptr = torch.as_tensor(matrix.indptr.astype(np.int64), device=device)
        self.indices = torch.as_tensor(matrix.indices.astype(np.int32), device=device)

    def of(self, users):
        """Pairs of the given users (n,): (row in `users`, item), two flat tensors of equal length, sorted by row."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
        offset = torch.arange(len(row), device=users.device) - (count.cumsum(0) - count)[row]
        return row, self.indices[start[row] + offset].long()


def item_counts(train):
    """Training interactions of each item (I,)."""
    counts = np.bincount(train.indices, minlength=train.shape[1])
    return all_reduce_(torch.from_numpy(counts)).numpy()


def csr_tensor(indptr, indices, values, shape, device):
    """A sparse matrix from its three arrays or tensors. PyTorch calls them beta; the products used here are not."""
    indptr, indices, values = (
        torch.as_tensor(part, device=device) for part in (indptr, indices, values)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            indptr.long(), indices.long(), values, shape, check_invariants=False
        )
