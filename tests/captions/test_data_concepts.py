"The concepts of a data set come from the data, the captions or labels; nothing is ignored without a word."

from pathlib import Path

import pandas as pd
import pytest

from radgen.captions.data_concepts import concepts_kind, require_names, selects_by_concepts, with_concepts
from radgen.core.errors import ConfigError, DataError
from radgen.data.source_options import SourceOptions
from radgen.data.tables import LABEL, RawData

CHEST, XRAY, EFFUSION = "C0817096", "C1306645", "C0032227"


def data(cuis=None, names=None, **labels):
    "Two rows, with the concepts and the columns of labels that are given."
    table = pd.DataFrame(
        {
            "id": ["a", "b"],
            "caption": ["Chest X-ray with pleural effusion.", "Chest X-ray without pleural effusion."],
            "cuis": pd.Series(cuis or [[], []], dtype=object),
            "split": "train",
            **{LABEL + name: cells for name, cells in labels.items()},
        }
    )
    return RawData(table, table.head(0), names or {}, has_concepts=cuis is not None)


def options(concepts, **more):
    return SourceOptions(Path("t.csv"), concepts=concepts, **more)


def named(found):
    "The names of the concepts of each row."
    return [{found.names[cui] for cui in cuis} for cuis in found.table.cuis]


def test_captions_give_what_they_affirm():
    cuis = with_concepts(data(), options("captions")).table.cuis
    assert {XRAY, CHEST} <= set(cuis[1]) < set(cuis[0])


def test_auto_takes_the_datas_concepts_and_else_the_captions_without_a_selection():
    own = data([[XRAY], [CHEST]])
    assert concepts_kind(own, options("auto")) == "data"
    assert with_concepts(own, options("auto")).table.cuis.tolist() == [[XRAY], [CHEST]]
    assert selects_by_concepts(own, options("auto"))
    assert concepts_kind(data(), options("auto")) == "captions"
    assert not selects_by_concepts(data(), options("auto"))
    assert selects_by_concepts(data(), options("captions"))


def test_none_leaves_no_concept():
    found = with_concepts(data([[XRAY], [CHEST]]), options("none"))
    assert found.table.cuis.tolist() == [[], []]
    assert not selects_by_concepts(found, options("none"))


@pytest.mark.parametrize(
    "labels",
    [
        {"finding_labels": ["Effusion|Mass", "No Finding"]},
        {"labels": ["['pleural effusion', 'mass']", "['normal']"]},
        {"pleural_effusion": ["1.0", "0.0"]},
        {"pleural_effusion": ["1", "-1"], "edema": ["", "0"]},
    ],
    ids=["words", "list", "one flag", "flags"],
)
def test_labels_become_concepts(labels):
    found = with_concepts(data(**labels), options("labels:" + ",".join(labels)))
    assert any("effusion" in name.lower() for name in named(found)[0])
    assert named(found)[1] == set()
    assert not [column for column in found.table if column.startswith(LABEL)]


def test_labels_of_which_none_is_known_are_an_error():
    message = r"no label of labels:tags has a concept \(Wurstigkeit \(2\)\): give --label-map a CSV of label,CUI"
    with pytest.raises(ConfigError, match=message):
        with_concepts(data(tags=["Wurstigkeit", "Wurstigkeit"]), options("labels:tags"))


def test_unknown_labels_are_counted(capsys):
    with_concepts(data(tags=["Wurstigkeit|Mass", "Wurstigkeit"]), options("labels:tags"))
    assert "Wurstigkeit (2)" in capsys.readouterr().err


def test_a_file_maps_labels(tmp_path):
    (tmp_path / "map.csv").write_text("label,CUI,Canonical name\nErguss,C0032227,Pleural effusion\n")
    found = with_concepts(data(tags=["Erguss", ""]), options("labels:tags", label_map=tmp_path / "map.csv"))
    assert found.table.cuis.tolist() == [[EFFUSION], []]


def test_labels_need_their_column():
    with pytest.raises(ConfigError, match="needs a table with that column"):
        with_concepts(data(), options("labels:tags"))


def test_concepts_without_names_stop_unless_they_count():
    found = with_concepts(data([[XRAY, "C9999999"], [XRAY]]), options("data"))
    with pytest.raises(DataError, match="1 of 2 rows have concepts without a name, for example C9999999 .*--names"):
        require_names(found, named=False, unnamed="drop")
    require_names(found, named=False, unnamed="keep")
    require_names(found, named=True, unnamed="drop")
    require_names(with_concepts(data([[XRAY], [XRAY]]), options("data")), named=False, unnamed="drop")
