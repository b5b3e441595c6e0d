"""A new family: a folder, and its line in families/__init__.py. No other file is touched."""

import json
import shutil
import subprocess
import sys

from tools import ROOT

FAMILY = '''
"""Scores at random, a baseline that must not beat any other."""

from cli.family import Family, Model
from cli.flags import Flag, number


def load_data(args):
    from dataloader import load_interactions

    return load_interactions(args, ratings=False)


FAMILY = Family(
    title="random scores",
    models={
        "Random": Model("families.chance.model:Random", frozenset({"pairs", "ranking", "epochs"}))
    },
    load_data=load_data,
    sections={"random scores": [Flag("spread", 1.0, number(0), "standard deviation of a score")]},
    suggested={"Random": {"": {"epochs": 3}}},
)
'''

MODEL = '''
"""A model that scores at random."""

import torch

from recommender import Recommender


class Random(Recommender):
    """Encodings of one number, drawn anew in each epoch."""

    steps_per_epoch = 1

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.table = torch.zeros(sum(data.shape), 1, device=device)

    def train_epoch(self, lr, on_step):
        self.table.normal_(std=self.args.spread, generator=self.generator)
        on_step()
        return 0.0

    def encodings(self):
        return self.table.split(self.data.shape)

    def state_dict(self):
        return {"table": self.table, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.table.copy_(state["table"])
        self.generator.set_state(state["generator"])
'''

COMMANDS = """
import sys
import main

for line in sys.stdin.read().splitlines():
    status = main.main(line.split())
    print("status", status)
"""


def run(folder, *lines):
    """Run main.py's main for each command line, in one process: the completed process."""
    return subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=folder,
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )


def test_a_new_family_trains_continues_and_is_evaluated(tmp_path):
    house = tmp_path / "house"
    shutil.copytree(
        ROOT, house, ignore=shutil.ignore_patterns(".*", "tests", "docs", "runs", "checkpoints")
    )
    folder = house / "families" / "chance"
    folder.mkdir()
    for name, text in {
        "__init__": '"""Random scores."""',
        "family": FAMILY,
        "model": MODEL,
    }.items():
        (folder / f"{name}.py").write_text(text.lstrip())
    families = house / "families" / "__init__.py"
    text = families.read_text()
    text = text.replace("FAMILIES = (", "FAMILIES = (CHANCE, ")
    text = text.replace(
        "\n\nFAMILIES", "\nfrom families.chance.family import FAMILY as CHANCE\n\nFAMILIES"
    )
    families.write_text(text)

    flags = "--model Random --spread 2 --log_root"
    done = run(
        house,
        f"{flags} whole",
        f"{flags} halves --checkpoint_dir other --epochs 1",
        f"{flags} halves --checkpoint_dir other --train_mode continue",
        f"{flags} halves --mode evaluate",
    )
    assert done.stderr == ""
    assert done.stdout.count("status 0") == 4
    assert "flags, suggested for Random: epochs=3" in done.stdout
    whole, halves = (
        json.loads((house / root / "demo-Random" / "summary.json").read_text())
        for root in ("whole", "halves")
    )
    assert whole["flags"]["spread"] == 2
    assert whole["last"] == halves["last"]
    assert 0 < whole["last"]["Recall@20"] < whole["baselines"]["Popularity"]["Recall@20"]
    assert f"Recall@20    {whole['best']['Recall@20']:.4f}" in done.stdout

    wrong = run(house, "--spread 2")
    assert "--spread does nothing with --model OneBP, only with Random" in wrong.stderr
    wrong = run(house, "--model Random --sprad 2")
    assert "did you mean --spread?" in wrong.stderr
    shown = run(house, "--model Random --help").stdout
    assert "standard deviation of a score" in shown
    assert "--lr " not in shown
