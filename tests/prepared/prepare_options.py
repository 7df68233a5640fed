"Options for tests of preparation."

from radgen.prepared.config import PrepareConfig


def options(raw, **more):
    "Options that prepare a folder next to the raw data."
    return PrepareConfig(raw, raw.parent / "out", **{"llm": "rules", "workers": 1, **more})
