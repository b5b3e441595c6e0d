"""Using a trained model: evaluate it again, recommend items, export its encodings."""
