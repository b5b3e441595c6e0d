"""What the README tells its reader to write and to run."""

import re
import shlex
import shutil
import subprocess
import sys

from tools import ROOT, finish, start

from sources.demo import demo_interactions

README = (ROOT / "README.md").read_text()


def test_the_example_of_a_loss(work):
    """In a copy of the repository: the function, the line in the registry, and the command."""
    function = (
        re.search(r"^    def hinge.*?\n\n", README, re.MULTILINE | re.DOTALL)
        .group()
        .replace("\n    ", "\n")[4:]
    )
    entry = re.search(r'^ *("Hinge": "losses:hinge",)$', README, re.MULTILINE).group(1)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, work)
    losses, registry = work / "losses.py", work / "registry.py"
    losses.write_text(losses.read_text() + "\n\n" + function)
    registry.write_text(registry.read_text().replace("LOSSES = {\n", f"LOSSES = {{\n    {entry}\n"))
    command = [
        sys.executable,
        "main.py",
        "--loss",
        "Hinge",
        "--gamma",
        "0.5",
        "--epochs",
        "2",
        "--device",
        "cpu",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=work)
    assert (run.returncode, run.stderr) == (0, "")
    assert "epoch 2/2" in run.stdout
    assert (
        "Hinge"
        in subprocess.run(
            [sys.executable, "main.py", "--help"], capture_output=True, text=True
        ).stdout
    )


def test_the_commands_that_use_a_trained_model(cli, work):
    assert cli("--epochs", 1, "--dim", 4)[0] == 0
    (work / "new.csv").write_text(f"user,item\nsomebody,{demo_interactions()[1][0]}\n")
    commands = re.findall(r"^    python main\.py (--mode .*)$", README, re.MULTILINE)
    assert len(commands) == 5
    for words in commands:
        status, stdout, stderr = finish(start(*shlex.split(words)))
        assert (status, stderr) == (0, "")
        assert stdout
    for file in ("recs.csv", "new-recs.csv", "encodings/users.npy", "encodings/README.md"):
        assert (work / file).stat().st_size
