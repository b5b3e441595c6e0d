"""Names of the files that a run leaves in its folder. Loads without torch."""

from cli.config import NAME as FLAGS

SECONDS = ["train_seconds", "eval_seconds"]  # columns of metrics.csv
METRICS, SUMMARY, LOG, CURVES = "metrics.csv", "summary.json", "log.txt", "curves.png"
USERS, GROUPS = "users.parquet", "groups.png"
STREAM, STREAM_CURVES = "stream.csv", "stream.png"
TENSORBOARD = "tensorboard"
TRACKED = ("wandb", "wandb.json", "mlflow.json")  # of --log wandb and mlflow
RUN_FILES = (FLAGS, METRICS, SUMMARY, LOG, CURVES, USERS, GROUPS, STREAM, STREAM_CURVES)
RUN_FILES += (TENSORBOARD, *TRACKED)
# Of all files in the folders of a run.
SUFFIXES = (".csv", ".json", ".txt", ".png", ".parquet", ".toml", ".log", ".pt")
DESCRIPTION, DESCRIPTION_FIGURE = "description.json", "description.png"  # of --mode describe
