"Dropping rows, the rows of a split, and batches on several processes."

import pandas as pd
import pytest

from crash import crash_at_100
from radgen.core.errors import ConfigError, DataError
from radgen.data.cuis import select_rows
from radgen.data.rows import drop_rows, map_batches, require_rows, split_rows


NAMES = {"C0000001": "CT", "C0000002": "Chest", "C0000003": "Cyst"}


def toy(*cuis, split="train"):
    return pd.DataFrame({"id": [str(i) for i in range(len(cuis))], "cuis": list(cuis), "split": split})


def test_what_was_dropped_stays_dropped():
    table = toy(["C0000001"], ["C0000003"]).assign(keep=[False, True], reason=["leak", ""])
    out = select_rows(table, ["C0000001"], NAMES)
    assert out.keep.tolist() == [False, False]
    assert out.reason.tolist() == ["leak", "CUI not selected: C0000003 Cyst"]
    assert drop_rows(out, pd.Series(["late", "late"])).reason.tolist() == out.reason.tolist()


def test_an_empty_selection_is_named():
    out = select_rows(toy(["C0000001"], ["C0000001", "C0000002"]), ["C0000003"], NAMES)
    message = "no training image is left after the selection of concepts: 0 of 2; most were dropped for"
    with pytest.raises(ConfigError, match=f"{message} 'CUI not selected'; choose"):
        require_rows(out)
    require_rows(select_rows(toy(["C0000001"]), ["C0000001"], NAMES))


@pytest.mark.parametrize("rows, have", [([["C0000001"]], "train"), ([], "none, since it is empty")])
def test_split_that_is_absent_is_an_error(rows, have):
    with pytest.raises(ConfigError, match=f"^the table has no images of split 'test': choose one of {have}\\.$"):
        split_rows(toy(*rows), "test")


def test_two_processes_give_the_results_in_order():
    results = map_batches(sum, list(range(320)), 2, "adding", progress=False)
    assert list(results) == [sum(range(i, i + 64)) for i in range(0, 320, 64)]


def test_crash_of_a_process_names_the_images():
    with pytest.raises(DataError, match="a process died while adding the images from .* try --workers 1"):
        list(map_batches(crash_at_100, list(range(1000)), 2, "adding", progress=False))
