"Images whose patient, study or article is in a later split, too."

import pandas as pd
import pytest

from radgen.data.groups import drop_leaks, leaking_groups


def table(*rows):
    return pd.DataFrame(rows, columns=["group", "split", "keep"]).assign(reason="")


def test_the_earlier_split_loses_the_image():
    rows = table(("a", "train", True), ("a", "valid", True), ("a", "test", True), ("b", "train", True))
    assert drop_leaks(rows).keep.tolist() == [False, False, True, True]
    assert drop_leaks(rows).reason[0] == "group in a later split: test"
    assert drop_leaks(rows, "keep").keep.all()


@pytest.mark.parametrize("last", [("a", "test", False), ("", "test", True), ("b", "test", True)])
def test_dropped_rows_and_unknown_groups_do_not_count(last):
    rows = table(("a", "train", True), ("", "train", True), last)
    assert (leaking_groups(rows) == "").all()


def test_a_table_without_groups_stays_as_it_is():
    rows = table(("a", "train", True), ("a", "test", True)).drop(columns="group")
    pd.testing.assert_frame_equal(drop_leaks(rows), rows)
