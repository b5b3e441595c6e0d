"""A table's Gram matrix and sums of its rows, which processes that all have the table compute.

Shapes: I rows, D dim, m sums.
"""

import torch

from distributed import collectives

SMALLEST = 1e-12  # length of a row, as in torch.nn.functional.normalize
BLOCK = 1 << 17  # numbers that a CPU computes with at a time, so that they stay in its cache


class SumsAndGram(torch.autograd.Function):
    """M A (m, D) and A^T A (D, D), differentiable by W (I, D): A is W with rows of length 1.

    Each process has its own M, and multiplies its part of the rows of A.

    For the gradients S by M A and G by A^T A, A gets R = M^T S + A (G + G^T): one product of A's
    size, where autograd makes two. W gets (R - (R A^T)_ii A) / |W| in each row i.
    """

    @staticmethod
    def forward(ctx, table, matrix, transposed):
        """table (I, D): W, the same in all processes

        matrix (m, I), transposed (I, m): M and M^T, sparse
        """
        a, length = torch.empty_like(table), table.new_empty(len(table), 1)
        for rows in blocks(table):
            torch.linalg.vector_norm(table[rows], dim=1, keepdim=True, out=length[rows])
            torch.div(table[rows], length[rows].clamp_(min=SMALLEST), out=a[rows])
        size = -(-len(a) // collectives.world_size())
        ctx.own = slice(collectives.rank() * size, (collectives.rank() + 1) * size)
        ctx.transposed = transposed
        ctx.save_for_backward(a, length)
        return matrix @ a, collectives.all_reduce_(a[ctx.own].T @ a[ctx.own])

    @staticmethod
    def backward(ctx, by_sums, by_gram):
        """The gradients of all processes add up to that by the sum of their losses."""
        a, length = ctx.saved_tensors
        symmetric = collectives.all_reduce_(by_gram + by_gram.T)
        result = torch.empty_like(a)
        torch.mm(a[ctx.own], symmetric, out=result[ctx.own])
        for others in (slice(ctx.own.start), slice(ctx.own.stop, None)):
            result[others] = 0
        result.addmm_(ctx.transposed, by_sums)  # in place: much faster than a new matrix
        for rows in blocks(a):
            along = (result[rows] * a[rows]).sum(1, keepdim=True)
            result[rows].addcmul_(along, a[rows], value=-1).div_(length[rows])
        return result, None, None


def blocks(table):
    """Yield slices of the rows of a table, with about BLOCK numbers each; on a GPU all rows."""
    height = len(table) if table.is_cuda else max(BLOCK // table.shape[1], 1)
    for start in range(0, len(table), max(height, 1)):
        yield slice(start, start + height)
