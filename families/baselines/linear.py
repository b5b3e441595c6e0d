"""Base of the models that score a user by what the user has, without encodings.

Shapes: U users, I items, b users of a block, m interactions of a block.
"""

import numpy as np
import torch
from scipy.sparse import csr_array

from cli.errors import UserError
from engine.tables import UserItems, check_places, csr_tensor
from families.baselines.closed_form import SolvedAtOnce
from sources.share import item_counts


class Linear(SolvedAtOnce):
    """Scores a user from the user's row of X (U, I), the training split.

    A subclass implements `scores_of_rows`, besides `solve`, `state_dict` and `load_state_dict`.
    """

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.seen = UserItems(data.train, device)

    def scores_of_rows(self, x):
        """Scores (b, I) from rows of X, a csr tensor (b, I)."""
        raise NotImplementedError

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I), see evaluate.DotProduct."""
        row, item = self.seen.pairs_of(users)  # (m,) each
        begin = torch.searchsorted(row, torch.arange(len(users) + 1, device=self.device))
        ones = torch.ones(len(item), device=self.device)
        shape = len(users), self.data.shape[1]
        out.copy_(self.scores_of_rows(csr_tensor(begin, item, ones, shape, self.device)))

    def scorer(self):
        return self

    def encodings(self):
        """Raise UserError: there are none."""
        raise UserError(
            f"{self.args.model} scores by the user's items and has no encodings; "
            "take another --model"
        )

    def mean_user(self, trained):
        """The mean row of X (I,) over the users `trained` (U,), bool."""
        counts = item_counts(self.data.train).astype(np.float32)
        return torch.as_tensor(counts, device=self.device) / trained.sum()

    def scores_of(self, user):
        """Scores (I,) of a user with the row `user` (I,)."""
        items = torch.arange(len(user), device=self.device)
        x = csr_tensor([0, len(user)], items, user, (1, len(user)), self.device)
        return self.scores_of_rows(x)[0]


class SparseLinear(Linear):
    """Scores x W1 W2 ..., for the user's row x of X and sparse matrices W (I, I). On the CPU.

    A subclass implements `solve`, which sets `weights`, a list of csr_array.
    """

    def scores_of_rows(self, x):
        arrays = x.values(), x.col_indices(), x.crow_indices()
        scores = csr_array(tuple(array.cpu().numpy() for array in arrays), x.shape)
        for matrix in self.weights:
            scores = scores @ matrix
        return torch.as_tensor(scores.toarray(), device=self.device)

    def state_dict(self):
        """The arrays of the matrices, not copies."""
        names = "data", "indices", "indptr"
        return {
            "weights": [
                {name: torch.as_tensor(getattr(matrix, name)) for name in names}
                for matrix in self.weights
            ]
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        shape = self.data.shape[1], self.data.shape[1]
        self.weights = [
            csr_array(tuple(arrays[name].numpy() for name in ("data", "indices", "indptr")), shape)
            for arrays in state["weights"]
        ]
        for matrix in self.weights:
            check_places(matrix)
