"""Names of the files that a run leaves in its folder. Loads without torch."""

METRICS, SUMMARY, LOG, CURVES = "metrics.csv", "summary.json", "log.txt", "curves.png"
USERS, GROUPS = "users.parquet", "groups.png"
STREAM, STREAM_CURVES = "stream.csv", "stream.png"
TENSORBOARD = "tensorboard"
RUN_FILES = (METRICS, SUMMARY, LOG, CURVES, USERS, GROUPS, STREAM, STREAM_CURVES, TENSORBOARD)
DESCRIPTION, DESCRIPTION_FIGURE = "description.json", "description.png"  # of --mode describe
