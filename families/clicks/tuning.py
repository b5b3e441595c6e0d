"""--memory_tune: the settings of the memory that predict the streamed validation split best."""

TUNED = (
    "memory_key",
    "memory_k",
    "memory_tau",
    "memory_lambda",
)  # flags that --memory_tune chooses, from these
KEYS, COUNTS = ("hidden", "embedding"), {"knn": (25, 50, 100, 200), "lsh": (16, 32, 64, 128)}
STRENGTHS, TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0), (0.03, 0.1, 0.3)
TUNED_ROWS = 200_000  # the latest validation rows, at most
