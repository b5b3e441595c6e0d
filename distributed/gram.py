"""A table's Gram matrix and sums of its rows, which processes compute from a piece each.

Shapes: I rows of the piece that this process has, all if it is the only one, D dim, m sums.
"""

from contextlib import contextmanager

import torch

from distributed import collectives

SMALLEST = 1e-12  # length of a row, as in torch.nn.functional.normalize
BLOCK = 1 << 17  # numbers that a CPU computes with at a time, so that they stay in its cache


class SumsAndGram(torch.autograd.Function):
    """M A (m, D) and A^T A (D, D), differentiable by W (I, D): A is W with rows of length 1.

    Both are summed over the processes. Then all compute the same loss from them, and each has the
    gradient of its own piece of W: only these two are exchanged, whatever the number of rows.

    For the gradients S by M A and G by A^T A, A gets R = M^T S + A (G + G^T): one product of A's
    size, where autograd makes two. W gets (R - (R A^T)_ii A) / |W| in each row i.
    """

    @staticmethod
    def forward(ctx, table, matrix, transposed, precision="highest"):
        """table (I, D): W; matrix (m, I), transposed (I, m): M and M^T, sparse

        precision: of the dense products, see matmul_precision

        Returns M A (m, D) and A^T A (D, D), summed over the processes.
        """
        # Divide the rows of W by their lengths, block by block.
        a, length = torch.empty_like(table), table.new_empty(len(table), 1)
        for rows in blocks(table):
            torch.linalg.vector_norm(table[rows], dim=1, keepdim=True, out=length[rows])
            torch.div(table[rows], length[rows].clamp_(min=SMALLEST), out=a[rows])
        # The sums are on their way while the Gram matrix is computed.
        sums = collectives.start_all_reduce(matrix @ a)
        with matmul_precision(precision):
            gram = collectives.start_all_reduce(a.T @ a)
        ctx.transposed, ctx.precision = transposed, precision
        ctx.save_for_backward(a, length)
        return sums(), gram()

    @staticmethod
    def backward(ctx, by_sums, by_gram):
        """The gradient of W (I, D), from those of M A (m, D) and A^T A (D, D); see the class."""
        a, length = ctx.saved_tensors
        # Add in place: a product of a sparse matrix that makes a new one takes many times longer.
        result = torch.zeros_like(a).addmm_(ctx.transposed, by_sums)  # (I, D)
        with matmul_precision(ctx.precision):
            result.addmm_(a, by_gram + by_gram.T)
        # From R, which is `result` up to here, to the gradient of W.
        for rows in blocks(a):
            along = (result[rows] * a[rows]).sum(1, keepdim=True)
            result[rows].addcmul_(along, a[rows], value=-1).div_(length[rows])
        return result, None, None, None


@contextmanager
def matmul_precision(precision):
    """Products of float32 matrices are computed with this precision, and as before afterwards.

    precision: see torch.set_float32_matmul_precision. medium: factors of 8 bits, on CPUs and GPUs
        that have such products, and sums of 24; high: of 10 bits, on GPUs; highest: of 24
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def blocks(table):
    """Yield slices of the rows of a table, with about BLOCK numbers each; on a GPU all rows."""
    height = len(table) if table.is_cuda else max(BLOCK // table.shape[1], 1)
    for start in range(0, len(table), max(height, 1)):
        yield slice(start, start + height)
