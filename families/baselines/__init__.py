"""Baselines: solved at once (Popularity, EASE, SANSA, Walk, ItemKNN), by iterations (ALS, CML)."""
