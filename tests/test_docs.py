"""README.md, docs/, datasets/README.md: commands, flags, links, the tree, examples of code."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import write

import families
import inference.flags
import parse
import study
from sweeps.online import flags_of_models
from sweeps.search import checked_space

ROOT = Path(__file__).parent.parent
FRONT, EXTENDING = ROOT / "README.md", ROOT / "docs" / "extending.md"
PAGES = [FRONT, *sorted((ROOT / "docs").glob("*.md")), ROOT / "datasets" / "README.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SLURM = "time signal requeue open"  # of a job file
TORCHRUN = "standalone nproc_per_node nnodes node_rank master_addr max_restarts rdzv_backend"
COMMAND = re.compile(r"(python main\.py|python study\.py|torchrun)( .*)?")
STEP = r"^In `(.+?)`(?:, (.+))?:\n\n```(?:python|text)\n((?:.*\n)+?)```$"
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def declared():
    """{flag: [its declarations]} of main.py and study.py; families may share a name."""
    sections = [*parse.SECTIONS.values(), inference.flags.FLAGS, study.FLAGS]
    sections += [importlib.import_module(module).FLAGS for module in study.COMMANDS.values()]
    sections += [family.flags().values() for family in families.FAMILIES]
    flags = {}
    for section in sections:
        for flag in section:
            flags.setdefault(flag.name, []).append(flag)
    return flags


def blocks(text):
    """The lines of each indented block of a page; a backslash continues a line."""
    found = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    return [re.sub(r"\\\n *", "", block).replace("    ", "", 1).split("\n    ") for block in found]


def commands():
    """Every command in a block or in backquotes, except those that need added code."""
    for page, name in zip(PAGES, NAMES, strict=True):
        text = page.read_text()
        lines = [line.strip() for block in blocks(text) for line in block]
        lines += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", text)]
        for line in dict.fromkeys(lines):
            if COMMAND.fullmatch(line) and page != EXTENDING and "Hinge" not in line:
                yield pytest.param(line, id=f"{name}: {line}")


@pytest.mark.parametrize("command", [*commands()])
def test_a_documented_command_is_valid(command, work, monkeypatch):
    for file in (work / "flags.toml", work / "runs/demo-OneBP-MF/flags.toml"):
        write(file, "dim = 4\n")
    program, words = COMMAND.fullmatch(command).group(1), shlex.split(command)
    if program == "python study.py":
        monkeypatch.setattr(study, "run", check_study)
        if words[2] in study.COMMANDS:
            module = importlib.import_module(study.COMMANDS[words[2]])
            checks = {"search": check_search, "online": flags_of_models}
            check = checks.get(words[2], lambda *given: None)
            monkeypatch.setattr(module, "run", check)
        assert study.main(words[2:]) == 0
        return
    if program == "torchrun":
        places = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**places, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}.items():
            monkeypatch.setenv(name, str(value))
    words = words[words.index("main.py") + 1 :]
    parse.parse_args([word for word in words if word != "--help"])


def check_study(name, given, fixed):
    """What study.run checks before its first run."""
    chosen = study.NAMED[name](fixed) if name else study.Sweep(fixed, dict(given.over))
    study.check_flags(chosen, name, given)
    assert [study.parse_run_flags(chosen.fixed, values) for values in chosen.combinations()]


def check_search(given, fixed):
    """What sweeps.search.run checks before it loads data."""
    assert checked_space(given.space, fixed)


@every_page
def test_a_flag_that_a_page_names_exists(page):
    known = {*declared(), *TORCHRUN.split(), *SLURM.split(), "help"}
    if page == EXTENDING:
        known.add("factors")
    text = re.sub("python benchmarks/.*", "", page.read_text())  # they have flags of their own
    assert {*re.findall(r"(?<![\w-])--([A-Za-z]\w*)", text)} <= known


def test_every_flag_is_in_a_table_with_its_default():
    flags, seen = declared(), set()
    for page in PAGES:
        row = r"^\| `--(\w+)` \| (.*?) ?\| .+ \|$"
        for name, default in re.findall(row, page.read_text(), re.MULTILINE):
            assert default in {shown(flag.default) for flag in flags[name]}, (page.name, name)
            seen.add(name)
    assert not flags.keys() - seen


def shown(default):
    """A default as the pages show it."""
    if default is None or default is False:
        return ""
    return " ".join(map(str, default)) or "none" if isinstance(default, list) else str(default)


@every_page
def test_links_and_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_lines_are_short(page):
    width = 100 if page == FRONT else 120
    assert [line for line in page.read_text().splitlines() if len(line) > width] == []


def test_the_front_page_is_short_and_leads_everywhere():
    text = FRONT.read_text()
    assert len(text.splitlines()) <= 130
    assert len(text.encode()) <= 8 * 1024
    others = {name for name in NAMES if name not in ("README.md", "docs/extending.md")}
    assert not others - {*re.findall(r"\]\(([^)#]+)\)", text)}
    assert len(re.findall(r"^    pip install -r requirements.*$", text, re.MULTILINE)) == 2


def test_the_tree_is_that_of_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git repository")
    files = [Path(file) for file in listed.stdout.split() if (ROOT / file).exists()]
    folders = {parent for file in files for parent in file.parents}
    house = FRONT.read_text().split("## Layout")[1].split("\n## ")[0]
    first_level, folder = set(), Path()
    for line in (line for block in blocks(house) for line in block):
        name, *rest = line.split()
        indented = line.startswith("  ")
        if name.endswith("/"):
            folder = folder.parent / name if indented and len(folder.parts) > 1 else folder / name
            folder = folder if indented else Path(name)
            assert folder in folders, line
            named = [folder / word for word in re.findall(r"[\w/]+\.\w+", " ".join(rest))]
        else:
            named = [Path(word) for word in (name, *rest) if re.fullmatch(r"[\w-]+\.\w+", word)]
        assert set(named) <= set(files), line
        first_level |= {folder.parts[0]} if name.endswith("/") else set(map(str, named))
    there = {file.parts[0] for file in files}
    assert first_level == {name for name in there if not name.startswith(".")}


RUN = [
    pytest.param(block, id=f"{name}: {block[0]}")
    for page, name in zip(PAGES, NAMES, strict=True)
    for marked in page.read_text().split("<!-- run -->\n\n")[1:]
    for block in blocks(marked)[:1]
]


@pytest.mark.parametrize("block", RUN)
def test_a_block_that_is_marked_runs(block, cli, work, monkeypatch):
    """Run its commands in order on demo, for one epoch, or for two if --epochs is given."""
    if "--mode" in block[0]:
        assert cli("--epochs", 1, "--dim", 4)[0] == 0
    for command in block:
        if not command.strip():
            continue
        if command.startswith("printf"):
            subprocess.run(command, shell=True, check=True, cwd=work)
            continue
        program, *words = shlex.split(command)[1:]
        trains = "--mode" not in words and not {*words[:1]} & {*study.COMMANDS}
        if "--epochs" in words:
            words[words.index("--epochs") + 1] = "2"
        elif trains:
            words += ["--epochs", "1"]
        words += ["--device", "cpu"] if trains or {"evaluate", "recommend"} & {*words} else []
        if program == "main.py":
            status, stdout, stderr = cli(*words)
        else:
            status, stdout, stderr = run(ROOT / program, words, work)
        assert (status, stderr) == (0, "")
        assert stdout
        for flag in ("--output", "--history"):
            assert flag not in words or (work / words[words.index(flag) + 1]).exists()


def run(program, words, folder):
    """Run a program of the repository in a new process. Returns (status, stdout, stderr)."""
    command = [sys.executable, str(program), *words]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    return ended.returncode, ended.stdout, ended.stderr


def examples():
    """Of the README and extending.md: ([(file, where in it, code to add)], command to run then)."""
    front = FRONT.read_text().split("## Extend it")[1]
    function, entry = ("\n".join(block) for block in blocks(front)[:2])
    command = re.search(r"`python (main\.py --loss Hinge.*?)`", front).group(1)
    steps = [("model.py", "", function), ("cli/registry.py", "in `LOSSES`", "    " + entry)]
    yield pytest.param(steps, command, id="README")
    for section in EXTENDING.read_text().split("\n## ")[1:]:
        steps = re.findall(STEP, section, re.MULTILINE)
        if steps:
            command = re.search(r"^Then:\n\n    python (.+)$", section, re.MULTILINE).group(1)
            yield pytest.param(steps, command, id=section.splitlines()[0])


@pytest.mark.parametrize(("steps", "command"), [*examples()])
def test_an_example_of_something_to_add(steps, command, tmp_path):
    """In a copy of the repository: add the code, run the command."""
    hidden = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "checkpoints", "runs")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=hidden)
    for name, where, code in steps:
        file = copy / name
        file.parent.mkdir(exist_ok=True)
        text = file.read_text() if file.exists() else ""
        file.write_text(with_code(text, where, code))
    program, *words = shlex.split(command)
    words += [] if "--epochs" in words or "--model" in words else ["--epochs", "1"]
    status, stdout, stderr = run(copy / program, words, tmp_path)
    assert (status, stderr) == (0, "")
    assert "Recall@20" in stdout
    choice, value = words[0], words[1]
    assert value in run(copy / program, [choice, value, "--help"], tmp_path)[1]


def with_code(text, where, code):
    """Add code to the text of a file: at its end, after its docstring, or in a table."""
    if where == "after its docstring":
        end = text.index('"""', 3) + 4
        return text[:end] + "\n" + code + text[end:]
    if where:
        table = re.search(r"`(\w+)`", where).group(1)
        head = re.search(rf"^{table} = [{{(]", text, re.MULTILINE)
        return text[: head.end()] + "\n" + code.rstrip() + "\n" + text[head.end() :]
    return text + "\n\n" + code if text else code
