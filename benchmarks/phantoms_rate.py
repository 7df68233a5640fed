"""How fast phantoms are drawn and written, with one worker and with all: `python benchmarks/phantoms_rate.py`."""

import os, tempfile, time
from pathlib import Path

from radgen.core.files import write_json
from radgen.data.phantoms import make_phantoms


def rate(workers: int, n: int = 400) -> float:  # images a second
    with tempfile.TemporaryDirectory() as d:
        began = time.perf_counter()
        make_phantoms(Path(d) / "p", n_train=n, n_valid=0, n_test=0, workers=workers)
        return n / (time.perf_counter() - began)


if __name__ == "__main__":
    cores = os.cpu_count()
    rounds = [(rate(1), rate(cores)) for _ in range(3)]  # interleaved, the best of three each
    one, all_ = (max(r[i] for r in rounds) for i in (0, 1))
    print(f"workers  images/s\n{1:7}  {one:8.0f}\n{cores:7}  {all_:8.0f}\nratio    {all_ / one:8.2f}")
    write_json(
        Path(__file__).parent / "results" / "phantoms_rate.json",
        {"images_per_s": {"1": round(one, 1), str(cores): round(all_, 1)}, "ratio": round(all_ / one, 3), "n": 400},
    )
