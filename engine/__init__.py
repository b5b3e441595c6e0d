"""Fast parts of training and evaluation: optimizers, negatives, top-k, tables. Knows no flags."""
