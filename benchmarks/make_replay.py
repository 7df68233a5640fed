"""Send the requests of the default phantoms to SmolLM2 and record its responses in radgen/captions/replay.jsonl.

Run it (two threads, about five minutes when all is new) after a change of the phantoms' captions, the cleaner or the
prompt:

    python benchmarks/make_replay.py
"""

from pathlib import Path

from radgen.captions.prompt import replay_path
from radgen.captions.rewrite import transform_captions, write_replay
from radgen.data.cuis import choose_cuis, select_rows
from radgen.data.explore import count_cuis
from radgen.data.phantoms import make_phantoms
from radgen.data.rocov2 import read_rocov2

data = read_rocov2(make_phantoms(Path(__file__).resolve().parents[1] / "work" / "phantoms"))
table = select_rows(data.table, choose_cuis(count_cuis(data.table, data.names), 10), data.names)
kept = table[table.keep]
n = write_replay(kept, data.names)
verdicts = transform_captions(table, data.names).query("keep").verdict.str.split(": ").str[0]
print(f"{n:,} requests, {replay_path().stat().st_size / 1e3:.0f} kB")
print(verdicts.value_counts(normalize=True).round(3).to_string())
