"""ItemKNN: items that share users with the user's items.

Shapes: U users, I items, b items of a block, n similarities.
"""

import numpy as np
import torch
from scipy.sparse import csr_array

from engine.topk import stable_topk
from evaluate import BLOCK_SCORES
from families.baselines.linear import SparseLinear
from sources.share import item_counts


class ItemKNN(SparseLinear):
    """The score of an item is the sum of its similarities to those of its neighbours a user has.

    s_ij = (users of both i and j) / (sqrt(n_i n_j) + shrinkage), n_i being the users of item i: the
    cosine, smaller for items with few users. The neighbours of item i are the k other items with
    the largest s_ij; of equal ones, those with the lower index. Sources: Sarwar et al., Item-based
    collaborative filtering, WWW 2001; the shrinkage: Bell & Koren, ICDM 2007.
    """

    def solve(self):
        """Find the neighbours, by blocks of items. Returns 0: there is no loss."""
        train = self.data.train.astype(np.float32)
        by_item = train.T.tocsr()  # (I, U)
        length = torch.as_tensor(item_counts(train)).float().sqrt()  # (I,)
        items, width = train.shape[1], max(BLOCK_SCORES // train.shape[1], 1)
        blocks = []
        for begin in range(0, items, width):
            block = torch.arange(begin, min(begin + width, items))  # (b,)
            common = torch.as_tensor((by_item[begin : begin + width] @ train).toarray())  # (b, I)
            common[block - begin, block] = 0  # no item is its own neighbour
            similarity = common / (length[block, None] * length + self.args.shrinkage)
            # Items without a common user are no neighbours, however few others there are.
            similarity[common == 0] = -torch.inf
            values, neighbours = stable_topk(similarity, min(self.args.neighbours, items), groups=1)
            found, place = (values > -torch.inf).nonzero(as_tuple=True)  # (n,) each
            blocks.append((values[found, place], neighbours[found, place], block[found]))
        values, neighbours, item = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
        self.weights = [csr_array((values, (neighbours, item)), (items, items))]
        return 0.0
