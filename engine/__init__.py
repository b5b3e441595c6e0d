"""What makes training and evaluation fast: optimizers, negatives, top-k, tables. It knows no flag."""
