"""How long and in how much memory a table of a million rows is read, next to pandas' own reading of the file.

Run `python benchmarks/tables.py`. The first run writes the file to work/: IDs, captions of twenty words, concepts,
splits and patients. Times are of both ways in turn, the best of several rounds; memory is the peak of a process of its
own above what the imports take.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from radgen.core.files import write_json
from radgen.data.cells import read_columns
from radgen.data.tables import screen_rows

ROOT = Path(__file__).resolve().parents[1]
ROWS = 1_000_000
WORDS = "axial computed tomography of the chest showing a nodule in right upper lobe with pleural effusion and".split()
COLUMNS = {"id": "id", "caption": "caption", "cuis": "cell", "split": "split", "patient": "group"}


def write_table(path):
    "A table with three thousand combinations of concepts."
    draw = random.Random(0)
    combinations = [";".join(f"C{draw.randrange(10**7):07d}" for _ in range(1 + i % 4)) for i in range(3000)]
    with open(path, "w", encoding="utf-8") as f:
        f.write("id,caption,cuis,split,patient\n")
        for i in range(ROWS):
            text = " ".join(draw.choices(WORDS, k=20))
            split = draw.choices(("train", "valid", "test"), (8, 1, 1))[0]
            f.write(f'row_{i:07d},"{text}, and so on",{draw.choice(combinations)},{split},p{i // 3}\n')


def by_pandas(path):
    "pandas' own reading of the file."
    return pd.read_csv(path)


def cells(path):
    "The columns as text."
    return read_columns(path, list(COLUMNS))


def table(path):
    "The columns, checked row by row, with lists of concepts."
    rows = cells(path).rename(columns=COLUMNS).assign(image="")
    return screen_rows(rows, {}, images=False).table


WAYS = {"pandas.read_csv": by_pandas, "radgen: cells": cells, "radgen: checked table": table}
PEAK = """
import sys
sys.path.insert(0, {folder!r})
import tables

def peak():
    with open("/proc/self/status") as f:  # Linux; a child inherits ru_maxrss of its parent
        return int(f.read().split("VmHWM:")[1].split()[0]) / 1024

before = peak()
kept = tables.WAYS[{way!r}](tables.Path({path!r}))
print(peak() - before)
"""


def seconds(path, rounds=3):
    "The best time of each way, in turn."
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.perf_counter()
            way(path)
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def peak(name, path):
    "Peak memory of a way in MB."
    program = PEAK.format(folder=str(Path(__file__).parent), way=name, path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    path = ROOT / "work" / "million.csv"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_table(path)
    size = path.stat().st_size / 2**20
    times = seconds(path)
    print(f"{ROWS:,} rows, {size:.0f} MB")
    out = {"rows": ROWS, "file_mb": round(size), "ways": {}}
    for name, took in times.items():
        ratio, memory = took / times["pandas.read_csv"], peak(name, path) / size
        print(f"  {name:24} {took:6.2f} s, {ratio:5.2f} of pandas, peak {memory:.2f} of the file's size")
        out["ways"][name] = {"seconds": round(took, 2), "of_pandas": round(ratio, 2), "of_file": round(memory, 2)}
    verdict = out["ways"]["radgen: checked table"]
    print(f"  time at most 3: {'met' if verdict['of_pandas'] <= 3 else 'MISSED'}")
    print(f"  memory at most 4: {'met' if verdict['of_file'] <= 4 else 'MISSED'}")
    write_json(Path(__file__).parent / "results" / "tables.json", out)
