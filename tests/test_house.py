"""The rules of the house: imports go down, rooms form no circle, --help loads no torch."""

import ast
import os
import subprocess
import sys

import pytest
from tools import ROOT

import study

# Declarations that load without torch, whatever their folder.
DECLARATIONS = ("inference.flags", "regularizers.flags", "reports.names")
# Floors from the top; a room imports rooms on lower floors only. A module that is not named belongs
# to the room of its folder.
FLOORS = (
    {"main", "study"},
    {"sweeps"},
    {"parse"},
    {"families"},
    {"inference", "dataloader"},
    {"train", "model", "regularizers"},
    {"recommender", "checkpointing"},
    {"evaluate", "sampler"},
    {"engine.metrics"},
    {"sources"},
    {"reports"},
    {"distributed"},
    {"engine", "utils"},
    {*DECLARATIONS},
    {"cli"},
)
TORCH_FREE = ("parse", "families", "sweeps.search", *DECLARATIONS)
SKIPPED = {"tests", "benchmarks", "docs", "datasets"}


def modules():
    """{module: its file} of the program."""
    paths = [
        path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith(".")
    ]
    files = {path.relative_to(ROOT).with_suffix(""): path for path in paths}
    names = {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}
    return {name: path for name, path in names.items() if name.split(".")[0] not in SKIPPED}


def imported(path, known):
    """The modules of the program that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module}
    return found & known


def floor_of(module):
    """(number of the floor, room) of a module."""
    parts = module.split(".")
    for room in (module, ".".join(parts[:2]), parts[0]):
        for number, rooms in enumerate(FLOORS):
            if room in rooms:
                return number, room
    raise AssertionError(f"{module} is on no floor")


def test_imports_go_down():
    known, wrong = modules(), []
    for module, path in known.items():
        floor, room = floor_of(module)
        for other in imported(path, known.keys()):
            below, other_room = floor_of(other)
            if other_room != room and below <= floor:
                wrong.append(f"{module} imports {other}, which is not on a lower floor")
    assert wrong == []


def test_modules_form_no_circle():
    """Also inside of a room.

    families/__init__.py and the families' own files are one module here.
    """
    known = modules()
    left = {module: imported(path, known.keys()) - {module} for module, path in known.items()}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def test_families_do_not_import_each_other():
    known = modules()
    for module, path in known.items():
        parts = module.split(".")
        if parts[0] == "families" and len(parts) > 2:
            others = {
                other for other in imported(path, known.keys()) if other.startswith("families.")
            }
            assert {other.split(".")[1] for other in others} <= {parts[1]}, module


def test_no_file_asks_for_a_model_by_name():
    """But the families, a default, and the studies of the paper, which compare OneBP and TwoBP.

    Popularity is also the baseline beside every result.
    """
    sys.path.insert(0, str(ROOT))
    import families

    allowed = {"families", "sweeps.studies", "model", "parse"}
    for module, path in modules().items():
        if module.split(".")[0] in allowed or module in allowed:
            continue
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & families.models().keys() - {"Popularity"}, module


def test_engine_knows_no_flag():
    """What only computes, moves or draws takes plain values: none of its functions has `args`."""
    plain = ("engine", "distributed", "checkpointing.files", "reports.figures")
    for module, path in modules().items():
        if module.startswith(plain):
            tree = ast.walk(ast.parse(path.read_text()))
            assert "args" not in {node.arg for node in tree if isinstance(node, ast.arg)}, module


@pytest.mark.parametrize("name", [*TORCH_FREE, *study.COMMANDS.values()])
def test_declarations_load_without_torch(name):
    code = f"import sys, {name}; assert not {{'torch', 'numpy'}} & sys.modules.keys()"
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": ""}
    )


def test_a_room_has_a_sentence():
    """A folder's __init__.py is one docstring; families/__init__.py also names the families."""
    for path in ROOT.glob("*/"):
        if any(path.glob("*.py")) and path.name not in SKIPPED:
            for file in (path / "__init__.py", *path.glob("*/__init__.py")):
                tree = ast.parse(file.read_text())
                assert ast.get_docstring(tree), file
                assert len(tree.body) == 1 or path.name == "families", file


def test_files_are_short():
    long = {
        m: n for m, path in modules().items() if (n := len(path.read_text().splitlines())) > 350
    }
    assert long == {}


def test_the_first_level_is_short():
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert len([name for name in entries if name.endswith(".py")]) <= 10
    assert len(entries - {"runs", "checkpoints", "studies"}) <= 30
