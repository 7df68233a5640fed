"""How fast phantoms are drawn and written, with one worker and with all: `python benchmarks/phantoms_rate.py`."""

import os
import tempfile
import time
from pathlib import Path

from radgen.core.files import write_json
from radgen.data.phantoms import make_phantoms

N = 400  # images per round


def rate(
    workers: int,  # processes
) -> float:  # images per second
    "Draw and write `N` phantoms in a temporary folder."
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_phantoms(Path(folder) / "p", n_train=N, n_valid=0, n_test=0, workers=workers)
        return N / (time.perf_counter() - start)


if __name__ == "__main__":
    cores = os.cpu_count()
    rounds = [(rate(1), rate(cores)) for _ in range(3)]  # interleaved, the best of three each
    single = max(one for one, _ in rounds)
    all_cores = max(many for _, many in rounds)
    print("workers  images/s")
    print(f"{1:7}  {single:8.0f}")
    print(f"{cores:7}  {all_cores:8.0f}")
    print(f"ratio    {all_cores / single:8.2f}")
    result = {
        "images_per_s": {"1": round(single, 1), str(cores): round(all_cores, 1)},
        "ratio": round(all_cores / single, 3),
        "n": N,
    }
    write_json(Path(__file__).parent / "results" / "phantoms_rate.json", result)
