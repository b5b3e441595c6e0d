"""Baselines without gradients (Popularity, EASE, ALS), and collaborative metric learning (CML)."""
