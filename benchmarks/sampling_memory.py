"""Peak memory of `radgen sample` over the number of images: it must not grow.

`python benchmarks/sampling_memory.py [--n 64 1024 4096]` draws images of one step with an untrained tiny model, each
number in a process of its own, and writes benchmarks/results/sampling_memory.json."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import resource, sys
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample
run, n, out = sys.argv[1:]
sample(SampleConfig(run, n=int(n), split="train", steps=1, batch_size=64, device="cpu", out=out))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def make_run(home: Path) -> Path:
    "A run of no steps on a few phantoms."
    from radgen.data.phantoms import make_phantoms
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare
    from radgen.training.config import TrainConfig
    from radgen.training.train import train

    prepared = prepare(PrepareConfig(make_phantoms(home / "raw", 60, 10, 10), home / "prepared", llm="rules"))
    options = dict(size="tiny", encoder="minilm", steps=1, name="r", device="cpu", preview_every=0)
    return train(TrainConfig(prepared.dir, image_size=64, batch_size=4, runs=home / "runs", **options)).dir


def peak(run: Path, n: int, out: Path) -> float:
    "MB of a process that draws n images."
    command = [sys.executable, "-c", CHILD, str(run), str(n), str(out)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, nargs="+", default=[64, 1024, 4096])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        rows = [{"images": n, "peak_mb": round(peak(run, n, Path(folder) / str(n)), 1)} for n in args.n]
    for row in rows:
        print(row)
    Path(__file__).with_name("results").joinpath("sampling_memory.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
