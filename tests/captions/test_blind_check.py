"The blind check of rewritten captions: shares, Wilson's intervals, and files that are refused."

import numpy as np
import pandas as pd
import pytest

from radgen.captions.blind_check import BLIND, blind_check, plot_blind
from radgen.core.errors import DataError


@pytest.fixture
def marks():
    "20 rows of two systems; the second has 5 errors in sides, and one row of each is hard to read."
    rows = []
    for system, errors in (("ours", 0), ("llama3", 5)):
        for i in range(20):
            row = {"row": i, "system": system, **dict.fromkeys(BLIND, 0), "readable": int(i != 0)}
            rows.append(row | {"side": int(i < errors)})
    return pd.DataFrame(rows)


def test_blind_check_counts_errors_with_wilsons_interval(marks, tmp_path):
    marks.to_csv(tmp_path / "marks.csv", index=False)
    table = blind_check(tmp_path / "marks.csv")
    t = table.set_index(["system", "kind"])
    assert t.errors["llama3", "side"] == 5
    assert t.errors["llama3", "any error"] == 5
    assert t.errors["ours", "any error"] == 0
    assert t.errors["ours", "hard to read"] == 1
    p, z, n = 0.25, 1.959964, 20  # Wilson's interval by its formula
    middle = (p + z * z / 2 / n) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / (1 + z * z / n)
    interval = (t.low["llama3", "side"], t.high["llama3", "side"])
    assert interval == pytest.approx((middle - half, middle + half), abs=1e-5)
    fig = plot_blind(table)
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["ours, 20 rows", "llama3, 20 rows"]


def test_blind_check_refuses_other_marks_and_missing_columns(marks, tmp_path):
    for wrong, message in (
        (marks.assign(side=2), "marks other than 0 and 1"),
        (marks.drop(columns="normal"), "no column normal"),
    ):
        wrong.to_csv(tmp_path / "wrong.csv", index=False)
        with pytest.raises(DataError, match=message):
            blind_check(tmp_path / "wrong.csv")
