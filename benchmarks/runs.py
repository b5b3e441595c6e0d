"""How long do whole runs take, start and compilation included, and how much memory?

python benchmarks/runs.py [--data_dir datasets] [--rounds 3]

Every line is `python main.py` in a new process. A cold start compiles into an empty cache; a warm
start finds the compiled code in the cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, options, show, spread


def run(flags, data_dir, cache):
    """Run main.py. Returns (seconds, summary.json). cache: folder of compiled code"""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "main.py", *flags.split()]
        command += ["--data_dir", data_dir, "--run_name", "run"]
        begin = time.perf_counter()
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        return seconds, json.loads((Path(folder) / "runs/run/summary.json").read_text())


def main():
    given = options(__doc__, rounds=3)
    data_dir = Path(given.data_dir).resolve()
    rows = {}
    with tempfile.TemporaryDirectory() as shared:
        for name, flags, fresh in (
            ("100k, 1 epoch, eager", "--compile off", False),
            ("100k, 1 epoch, compiled, cold", "--compile on", True),
            ("100k, 1 epoch, compiled, warm", "--compile on", False),
        ):
            times = []
            for number in range(given.rounds):
                cache = Path(shared) / (f"fresh{number}" if fresh else "fresh0")
                times.append(run(f"--dataset 100k --epochs 1 {flags}", data_dir, cache)[0])
            rows[name] = spread(times)
        for flags in (
            "--dataset Gowalla --dim 64 --epochs 2 --lr 1e-3",
            "--dataset Gowalla --dim 1024 --epochs 1",
        ):
            seconds, summary = run(f"{flags} --compile on", data_dir, Path(shared) / "fresh0")
            memory = {"peak memory, MB": f"{summary['peak_memory_mb']:.0f}"}
            rows[f"{flags.removeprefix('--dataset ')}, compiled, cold"] = {
                "median, s": f"{seconds:.1f}",
                **memory,
            }
    show(f"Whole runs of main.py, {given.rounds} rounds (Gowalla: one)", rows)


if __name__ == "__main__":
    main()
