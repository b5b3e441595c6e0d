"""Tables of weights and lists of (user, item) pairs: look-ups, gradients and sparse products.

Shapes: M rows that a step reads, R rows of a table, D dim, U users, I items.
"""

import warnings

import numpy as np
import torch
from torch import nn


def take(table, rows):
    """The rows (M,) of a table, (M, D); for None the whole table."""
    return table if rows is None else table.index_select(0, rows)


def overwrite(table, saved):
    """Copy `saved` into a table. Raises ValueError unless it has the same shape and type.

    copy_ alone would repeat rows, or round.
    """
    if saved.shape != table.shape or saved.dtype != table.dtype:
        kinds = (f"{tuple(x.shape)} of {str(x.dtype).split('.')[1]}" for x in (saved, table))
        raise ValueError("a table is {}, not {}".format(*kinds))
    table.copy_(saved)


def shared_places(scratch, rows):
    """For each row, one position in `rows` where it occurs; the same for equal rows: (M,).

    scratch (R,): its entries at `rows` are overwritten with these positions
    rows (M,)
    """
    scratch[rows] = torch.arange(len(rows), device=rows.device)
    return scratch.index_select(0, rows)


def value_and_gradients(function, weights, *arguments):
    """Compute function(weights, *arguments) and its gradients with respect to `weights`.

    Returns (value, {name: gradient}). Compiled, it uses torch.func, because torch.compile does not
    take calls of autograd; in eager mode it uses autograd, which costs less per call.
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
    """A module whose weights are passed as arguments to the functions that compute with them.

    owner: {weight: tower that trains it: "user", "item", or None for a weight of no tower}
    row_of: {weight: what its rows are: "user", "item", or None for anything else}
    """

    def __init__(self):
        super().__init__()
        self.owner, self.row_of = {}, {}

    def register(self, name, tensor, of=None, per=None):
        """Add a weight. It never holds a gradient.

        of: its entry in `owner`, see the class
        per: its entry in `row_of`, see the class
        """
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        self.owner[name], self.row_of[name] = of, per

    def load_state_dict(self, state):
        """Take over what `state_dict` returned. Raises ValueError unless all is of one form."""
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"its weights are {', '.join(state)}")
        for name, table in self.state_dict().items():
            overwrite(table, state[name])

    def per_user(self):
        """Names of the weights with a row per user. Processes divide these rows among them."""
        return {name for name, kind in self.row_of.items() if kind == "user"}


def look_up(table, index):
    """Look up the rows of a table (R, D) at an index tensor of any shape.

    Returns (*index.shape, D), or the whole table for None.
    """
    if index is None:
        return table
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)  # (n, D) -> (*shape, D)


class SparseProduct(torch.autograd.Function):
    """Product matrix @ x of a sparse matrix, differentiable with respect to x.

    Its gradient uses a transposed matrix prepared by the caller. Autograd would transpose in each
    step.
    """

    @staticmethod
    def forward(ctx, x, matrix, transposed):
        """Returns (m, D) for x (n, D), matrix (m, n) and its transposed (n, m)."""
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.transposed @ gradient, None, None


class UserItems:
    """The (user, item) pairs of a matrix on the device, for look-up by user.

    indptr (U + 1,), int64, and indices (nnz,), int32, as in a csr_array.
    """

    def __init__(self, matrix, device):
        """matrix: csr_array (U, I)."""
        self.indptr = torch.as_tensor(matrix.indptr.astype(np.int64), device=device)
        self.indices = torch.as_tensor(matrix.indices.astype(np.int32), device=device)

    def pairs_of(self, users):
        """The pairs of the given users (n,), sorted by position of the user in `users`.

        Returns (that position, item), two flat tensors of equal length.
        """
        row, place = self.places_of(users)
        return row, self.indices[place].long()

    def places_of(self, users):
        """As pairs_of, but (position of the user in `users`, place of the pair in `indices`)."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
        offset = torch.arange(len(row), device=users.device) - (count.cumsum(0) - count)[row]
        return row, start[row] + offset


def check_places(matrix):
    """Raise ValueError if a csr_array has places outside of it, which compiled code would read.

    SciPy looks at indptr only if its last number is above 0.
    """
    matrix.check_format(full_check=True)
    if (np.diff(matrix.indptr) < 0).any():
        raise ValueError("indptr must not descend")


def csr_tensor(indptr, indices, values, shape, device):
    """A sparse matrix from its three arrays or tensors.

    Silences PyTorch's warning that sparse CSR support is in beta.
    """
    arrays = indptr, indices, values
    indptr, indices, values = (torch.as_tensor(array, device=device) for array in arrays)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            indptr.long(), indices.long(), values, shape, check_invariants=False
        )
