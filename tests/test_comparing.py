"""docs/comparing.md: the lists of implicit get the metrics of --model ALS, to the digit."""

import json
import re

import pytest
from tools import ROOT


def test_the_program_of_the_page_gets_the_metrics_of_als(cli, work):
    pytest.importorskip("implicit")
    page = (ROOT / "docs/comparing.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert cli("--mode", "split", "--output", "splits")[0] == 0
    exec(program, {})
    judge = ("--mode", "evaluate", "--recommendations", "als.csv", "--run_name", "other-als")
    assert cli(*judge)[0] == 0
    flags = ("--model", "ALS", "--dim", 64, "--reg", 20, "--confidence", 2, "--epochs", 10)
    assert cli(*flags, "--eval_every", 10, "--run_name", "own-als")[0] == 0
    found = []
    for name in ("own-als", "other-als"):
        best = json.loads((work / f"runs/{name}/summary.json").read_text())["best"]
        found.append({metric: value for metric, value in best.items() if metric != "epoch"})
    assert found[0] == found[1]
    assert found[0]["Recall@20"] > 0.3
