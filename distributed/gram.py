"""The Gram matrix of a table that all processes have, each of which multiplies a part of its rows.

Shapes: I rows, D dim.
"""

import torch

from distributed import collectives


class GramMatrix(torch.autograd.Function):
    """A^T A (D, D), differentiable by A (I, D). Each process multiplies its part of the rows of A.

    For a gradient G by the result, A gets A (G + G^T): one product of A's size. Autograd makes two.
    """

    @staticmethod
    def forward(ctx, a):
        """a (I, D): the same in all processes"""
        size = -(-len(a) // collectives.world_size())
        ctx.own = slice(collectives.rank() * size, (collectives.rank() + 1) * size)
        ctx.save_for_backward(a)
        return collectives.all_reduce_(a[ctx.own].T @ a[ctx.own])

    @staticmethod
    def backward(ctx, gradient):
        """The rows of this process, for the sum over all processes' losses; else 0."""
        (a,) = ctx.saved_tensors
        symmetric = collectives.all_reduce_(gradient + gradient.T)
        result = torch.zeros_like(a)
        torch.mm(a[ctx.own], symmetric, out=result[ctx.own])
        return result
