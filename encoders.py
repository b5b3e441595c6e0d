"""Encoders, the towers of a model: from its weights to the encodings of users and items.

Shapes: U users, I items, D dim, B batch, N negatives. An encoder is built from (train, args, generator): the training
part, csr_array (U, I); the flags; the generator, on the device where the weights shall live. Its parameters `user`
(U, D) and `item` (I, D) are the input tables; what else the users' tower has is called user_..., the items' item_....
It computes from weights that are handed to it, by name, for gradients are taken by them (see optimizer.Adam).
"""

import math

import numpy as np
import torch
from torch import nn

from ranks import OWN, total
from utils import csr_tensor


class Weights(nn.Module):
    """Weights that are handed to what computes with them."""

    def register(self, name, tensor):
        """Add a weight. Gradients are never kept in it."""
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))


class Encoder(Weights):
    """Base: the two tables, Xavier-normal at the start."""

    by_row = False  # whether an encoding depends on its own row of the tables alone, and on no other weight
    compiles = True  # whether torch.compile takes it whole
    users_are_rows = True  # whether under OneBP a user's encoding is the user's row of the table

    def __init__(self, train, args, generator):
        super().__init__()
        for name, count in zip(("user", "item"), train.shape, strict=True):
            everywhere = total(count) if name == OWN else count
            table = torch.empty(count, args.dim, device=generator.device)
            std = math.sqrt(2 / (everywhere + args.dim))
            self.register(name, nn.init.normal_(table, std=std, generator=generator))

    def forward(self, weights, users=None, items=None):
        """Encodings of `users` and of `items`, index tensors of any shape (None: all): two tensors (*shape, D)."""
        raise NotImplementedError


def rows(table, index):
    """The rows (*shape, D) of a table at an index tensor of any shape, or the whole table (R, D) for None."""
    if index is None:
        return table
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)  # (n, D) -> (*shape, D)


class MF(Encoder):
    """Matrix factorisation: an encoding is a row of its table."""

    by_row = True

    def forward(self, weights, users=None, items=None):
        return rows(weights["user"], users), rows(weights["item"], items)


class MLP(Encoder):
    """Towers of --layers linear layers, with ReLU between them, over the rows of the tables.

    The users of OneBP have no tower: their table holds what the items' tower put out, moved.
    """

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        device = generator.device
        for tower in ("user", "item") if args.model == "TwoBP" else ("item",):
            matrices = [torch.empty(args.dim, args.dim, device=device) for _ in range(args.layers)]
            for matrix in matrices:
                nn.init.xavier_normal_(matrix, generator=generator)
            self.register(f"{tower}_matrices", torch.stack(matrices))  # (L, D, D)
            self.register(f"{tower}_biases", torch.zeros(args.layers, args.dim, device=device))  # (L, D)

    def forward(self, weights, users=None, items=None):
        return self.tower(weights, "user", users), self.tower(weights, "item", items)

    def tower(self, weights, name, index):
        """The encodings (*shape, D) of one kind, users or items."""
        x = rows(weights[name], index)  # (*shape, D)
        if f"{name}_matrices" not in weights:
            return x
        layers = zip(weights[f"{name}_matrices"].unbind(), weights[f"{name}_biases"].unbind(), strict=True)
        for number, (matrix, bias) in enumerate(layers):
            x = (x.relu() if number else x) @ matrix + bias
        return x


class LightGCN(Encoder):
    """LightGCN: the mean of --layers + 1 layers, the first the tables, each other one the neighbours' sum of the last.

    In that sum a user u and an item i that interacted in training give each other 1 / sqrt(|N_u| |N_i|) of their row.
    Source: He et al., arXiv 2002.02126.
    """

    compiles = False  # torch.compile does not take sparse products
    users_are_rows = False

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        self.layers = args.layers
        scale = [1 / np.sqrt(np.maximum(np.diff(matrix.indptr), 1)) for matrix in (train, train.tocsc())]  # (U,), (I,)
        weighted = train.tocoo().astype(np.float32)
        weighted.data = (scale[0][weighted.coords[0]] * scale[1][weighted.coords[1]]).astype(np.float32)
        matrices = weighted.tocsr(), weighted.T.tocsr()
        self.graph = [csr_tensor(m.indptr, m.indices, m.data, m.shape, generator.device) for m in matrices]

    def forward(self, weights, users=None, items=None):
        from_items, from_users = self.graph  # (U, I) and (I, U)
        layer = total = weights["user"], weights["item"]  # (U, D), (I, D)
        for _ in range(self.layers):
            layer = Spread.apply(layer[1], from_items, from_users), Spread.apply(layer[0], from_users, from_items)
            total = total[0] + layer[0], total[1] + layer[1]
        return tuple(rows(part / (self.layers + 1), index) for part, index in zip(total, (users, items), strict=True))


class Spread(torch.autograd.Function):
    """A sparse product whose gradient takes the transposed matrix, made ready, instead of transposing in every step."""

    @staticmethod
    def forward(ctx, x, matrix, transposed):
        """x (n, D), matrix (m, n), transposed (n, m) -> (m, D)"""
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.transposed @ gradient, None, None
