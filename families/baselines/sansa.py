"""SANSA: EASE with sparse matrices, for many items, from the library sansa.

Shapes: U users, I items.
"""

import logging

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from cli.errors import UserError
from families.baselines.linear import SparseLinear

QUIET = logging.NullHandler()


class SANSA(SparseLinear):
    """Scores X + X W1 W2: I + W1 W2, with sparse matrices, takes the place of EASE's weights.

    The library factorises X^T X + reg I incompletely, after it has scaled the items, and inverts
    the factor approximately; each matrix keeps the share --density of its numbers. It runs on the
    CPU. Source: Spisak et al., Scalable approximate nonsymmetric autoencoder for collaborative
    filtering, RecSys 2023.
    """

    def __init__(self, data, args, device):
        """See Recommender. Raises UserError if --density is below what the library can do."""
        super().__init__(data, args, device)
        least = 2 / data.shape[1]
        if args.density < least:
            raise UserError(
                f"--density {args.density:g} is below 2 / {data.shape[1]} items, the least that "
                f"SANSA can do; give at least {least:.2g}"
            )

    def start_training(self, state=None):
        """See Recommender. Raises UserError if the library is not installed."""
        # The library tells all its steps, on stderr if the root logger has no handler.
        logging.getLogger().addHandler(QUIET)
        try:
            import sansa
            from sksparse.cholmod import analyze_AAt  # noqa: F401, what sansa calls, gone from 0.5
        except ImportError as error:
            raise UserError(
                f"--model SANSA needs the package sansa ({error}): "
                'pip install sansa "scikit-sparse<0.5"'
            ) from None
        logging.getLogger("sansa").setLevel(logging.WARNING)
        config = sansa.SANSAConfig(
            l2=self.args.reg,
            weight_matrix_density=self.args.density,
            gramian_factorizer_config=sansa.ICFGramianFactorizerConfig(),
            lower_triangle_inverter_config=sansa.UMRUnitLowerTriangleInverterConfig(),
        )
        self.library = sansa.SANSA(config)
        super().start_training(state)

    def solve(self):
        """Compute the matrices. Returns 0: the library tells no loss."""
        train = csr_matrix(self.data.train, dtype=np.float32)
        # The library does not take items without interactions.
        known = np.flatnonzero(np.bincount(train.indices, minlength=train.shape[1]))
        try:
            self.library.fit(train[:, known])
        except (ArithmeticError, IndexError, ValueError) as error:
            raise UserError(f"sansa failed ({error}); change --density or --reg") from None
        shape = train.shape[1], train.shape[1]
        parts = [matrix.tocoo() for matrix in self.library.weights]
        self.weights = [
            csr_array((part.data, (known[part.row], known[part.col])), shape) for part in parts
        ]
        return 0.0

    def scores_of_rows(self, x):
        # The product of the matrices has -1 on its diagonal, where EASE's weights have 0.
        return super().scores_of_rows(x) + x.to_dense()
