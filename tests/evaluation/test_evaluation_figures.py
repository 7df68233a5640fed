"""Which images the figures of the report show."""

from radgen.evaluation.figures import spread_over


def test_spread_over_takes_every_type():
    types = ["x"] * 50 + ["y"] * 2 + ["z"]
    chosen = [types[i] for i in spread_over(types, 6)]
    assert chosen == ["x", "x", "x", "y", "y", "z"]
