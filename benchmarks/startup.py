"""How long `radgen` takes to start, and how much memory: `python benchmarks/startup.py` prints a table.

Each program runs in a process of its own; the programs are interleaved, so that a slow moment of the machine hits all
of them alike, and the median of the repetitions counts. Times are compared with `python -c pass` and with
`python -c "import torch"` in the same run, because an absolute time says little on a shared machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "startup.json"
COMMAND = "import sys; sys.argv = ['radgen', *{args!r}]; from radgen.cli import main; sys.exit(main())"
PROGRAMS = {
    "python -c pass": "pass",
    'python -c "import torch"': "import torch",
    "import radgen": "import radgen",
    "radgen": COMMAND.format(args=[]),
    "radgen --help": COMMAND.format(args=["--help"]),
    "radgen train --help": COMMAND.format(args=["train", "--help"]),
    "radgen completion bash": COMMAND.format(args=["completion", "bash"]),
}


def measure(code: str) -> tuple[float, float]:
    "Seconds and MiB (largest resident set) of a program."
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the program failed: {code}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def table(repeats: int) -> dict[str, dict[str, float]]:
    "Median seconds and MiB of each program."
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for code in PROGRAMS.values():
        measure(code)  # files are read into the system's cache once
    for _ in range(repeats):
        for name, code in PROGRAMS.items():
            found[name].append(measure(code))
    return {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in runs),
            "mib": statistics.median(mib for _, mib in runs),
        }
        for name, runs in found.items()
    }


def main():
    "Measure, print the table and what it is compared with, and write the JSON."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="runs of each program")
    repeats = parser.parse_args().repeats
    rows = table(repeats)
    torch_seconds = rows['python -c "import torch"']["seconds"]
    print(f"{'program':26} {'seconds':>8} {'MiB':>6} {'of import torch':>16}")
    for name, row in rows.items():
        print(f"{name:26} {row['seconds']:8.3f} {row['mib']:6.0f} {row['seconds'] / torch_seconds:15.0%}")
    extra = 1000 * (rows["import radgen"]["seconds"] - rows["python -c pass"]["seconds"])
    print(f"import radgen: {extra:.0f} ms more than python -c pass (at most 50 wanted)")
    for name in ("radgen --help", "radgen train --help"):
        share, mib = rows[name]["seconds"] / torch_seconds, rows[name]["mib"]
        print(f"{name}: {share:.0%} of import torch (at most 50 % wanted), {mib:.0f} MiB (at most 120 wanted)")
    RESULTS.write_text(json.dumps({"repeats": repeats, "programs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
