"Reading a folder in ROCOv2 layout: each kind of bad input gives its sentence, or its line in the rejects."

import re
import shutil

import pytest
from sample_folder import NAMES, add, make_folder

from radgen.core.errors import DataError
from radgen.data.rocov2 import read_rocov2
from radgen.data.tables import CURATED


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "roco")


def test_good_folder(folder):
    data = read_rocov2(folder)
    assert list(data.table.columns) == ["id", "caption", "cuis", "image", "split"]
    assert len(data.table) == 9
    assert data.rejects.empty
    assert list(data.rejects.columns) == ["id", "split", "reason"]
    assert data.table.split.tolist() == ["train"] * 3 + ["valid"] * 3 + ["test"] * 3
    assert data.table.cuis[0] == ["C0040405", "C0817096"]
    assert data.table.image[2].endswith("R_train_002.png")
    assert data.names["C0817096"] == "Chest"


def test_train_alone_is_enough(folder):
    for split in ("valid", "test"):
        shutil.rmtree(folder / f"{split}_images")
        for f in folder.glob(f"{split}_*.csv"):
            f.unlink()
    assert set(read_rocov2(folder).table.split) == {"train"}


def test_text_without_images(folder):
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / f"{split}_images")
    assert (read_rocov2(folder, images=False).table.image == "").all()
    (folder / "train_captions.csv").unlink()
    assert len(read_rocov2(folder, images=False, captions=False).table) == 9


def test_bom_header_spelling_quotes_and_line_breaks(folder):
    (folder / "train_captions.csv").write_bytes(
        (
            '\ufeffid,CAPTION\r\nR_train_000,"None, ""quoted""\nin two lines"\r\n'
            "R_train_001,NA\r\nR_train_002,Röntgen 胸部\r\n"
        ).encode()
    )
    (folder / "cui_mapping.csv").write_text(NAMES.replace("Canonical name", "Canonical_Name"))
    table = read_rocov2(folder).table
    assert table.caption[:3].tolist() == ['None, "quoted"\nin two lines', "NA", "Röntgen 胸部"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(
        DataError, match=r"no folder .*nowhere: expected the ROCOv2 layout: cui_mapping.csv.*train_images/\.$"
    ):
        read_rocov2(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["cui_mapping.csv", "train_captions.csv", "train_concepts.csv", "test_captions.csv", "valid_concepts.csv"]
)
def test_a_missing_csv(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"no file {name} in .*roco: expected the ROCOv2 layout"):
        read_rocov2(folder)


def test_a_missing_image_folder(folder):
    shutil.rmtree(folder / "train_images")
    with pytest.raises(DataError, match="no folder train_images in .*roco: expected"):
        read_rocov2(folder)


@pytest.mark.parametrize(
    "name,text,message",
    [
        (
            "train_captions.csv",
            "ID,Text\na,b\n",
            "no column Caption in train_captions.csv in .*roco: its header must be ID,Caption",
        ),
        ("train_concepts.csv", "name,CUIs\na,b\n", "no column ID in train_concepts.csv"),
        ("cui_mapping.csv", "CUI,Label\nC0040405,CT\n", "no column Canonical name in cui_mapping.csv"),
        ("train_captions.csv", "", "train_captions.csv in .*roco is empty: it needs the header ID,Caption"),
        ("train_concepts.csv", "ID,CUIs\n", "train_concepts.csv in .*roco has a header and no rows"),
        ("cui_mapping.csv", "CUI,Canonical name\n", "cui_mapping.csv in .*roco has a header and no rows"),
        ("train_captions.csv", "ID,Caption\na,b\nc,d,e\n", "train_captions.csv in .*roco is not a readable CSV"),
        (
            "train_captions.csv",
            "ID,Caption\na,b,c\nd,e,f\n",
            "train_captions.csv in .*roco has more cells in a row than in its header",
        ),
        (
            "train_captions.csv",
            b"ID,Caption\na,R\xf6ntgen\n",
            "train_captions.csv in .*roco is not a readable CSV.*UTF-8",
        ),
        ("train_captions.csv", 'ID,Caption\na,"never closed\n', "train_captions.csv in .*roco is not a readable CSV"),
    ],
)
def test_an_unusable_csv(folder, name, text, message):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as e:
        read_rocov2(folder)
    assert "\n" not in str(e.value)


def test_curated_concepts_are_well_formed():
    assert {field for field, _ in CURATED.values()} == {"image_type", "view", "region"}
    assert [c for c in CURATED if not re.fullmatch(r"C\d{7}", c)] == []


def test_bad_rows_are_rejected_and_good_rows_are_kept(folder):
    img, cap, con = folder / "train_images", folder / "train_captions.csv", folder / "train_concepts.csv"
    cases = {  # id: caption, cuis (None: no line), image bytes (None: a good one; '': no file), reason
        "new_image": ("text", "C0040405", "", "image missing"),
        "zero": ("text", "C0040405", b"", "image unreadable: 0 bytes"),
        "html": ("text", "C0040405", b"<html>404</html>", "image unreadable: not an image"),
        "blank": ("  ", "C0040405", None, "empty caption"),
        "nocon": ("text", None, None, "no concepts row"),
        "nocui": ("text", ";; ;", None, "no CUIs"),
        "lower": ("text", "c0040405", None, "malformed CUI: c0040405"),
        "short": ("text", "C0040405;C12", None, "malformed CUI: C12"),
        "nocap": (None, "C0040405", None, "no caption"),
        "../escape": ("text", "C0040405", "", "image missing"),
        "/etc/passwd": ("text", "C0040405", "", "image missing"),
        "a b": ("text", "C0040405", "", "image missing"),
        "": ("text", "C0040405", "", "no ID"),
    }
    for i, (caption, cuis, image, _) in cases.items():
        if caption is not None:
            add(cap, f"{i},{caption}\n")
        if cuis is not None:
            add(con, f"{i},{cuis}\n")
        if image is None:
            shutil.copy(img / "R_train_000.jpg", img / f"{i}.jpg")
        elif image != "":
            (img / f"{i}.jpg").write_bytes(image)
    add(cap, "R_train_001,another caption\ndoubled,one\ndoubled,two\ndoubled,three\n")
    add(con, "doubled,C0040405\ndoubled,C0817096\n")
    add(con, "unnamed,C9999999; C0040405;\n")
    add(cap, "unnamed,legal\n")
    for i in "doubled", "unnamed":
        shutil.copy(img / "R_train_000.jpg", img / f"{i}.jpg")
    data = read_rocov2(folder)
    train = data.table[data.table.split == "train"].set_index("id")
    assert list(train.index) == ["R_train_000", "R_train_001", "R_train_002", "doubled", "unnamed"]
    assert train.caption["R_train_001"] == "Chest CT of R_train_001"
    assert train.caption["doubled"] == "one"
    assert train.cuis["doubled"] == ["C0040405"]
    assert train.cuis["unnamed"] == ["C9999999", "C0040405"]
    rejects = data.rejects
    assert dict(zip(rejects.id, rejects.reason)) == {i: c[3] for i, c in cases.items()} | {
        "R_train_001": "duplicate ID",
        "doubled": "duplicate ID",
    }
    assert len(rejects) == len(cases) + 3
    assert (
        len(data.table) + len(rejects) == 9 + len(cases) + 4 + 1
    )  # input rows: good, cases, R_train_001 again and three of doubled, unnamed


def test_everything_rejected_is_still_a_table(folder):
    for f in (folder / "train_images").iterdir():
        f.unlink()
    data = read_rocov2(folder)
    assert (data.table.split != "train").all()
    assert data.rejects.reason.tolist() == ["image missing"] * 3


def test_id_in_two_splits_stays_in_the_later_one(folder):
    for split in ("train", "valid"):
        add(folder / f"{split}_captions.csv", "R_test_001,Chest CT\n")
        add(folder / f"{split}_concepts.csv", "R_test_001,C0040405\n")
        shutil.copy(folder / "test_images/R_test_001.jpg", folder / f"{split}_images")
    data = read_rocov2(folder)
    assert data.table.id.is_unique
    assert data.table.set_index("id").split["R_test_001"] == "test"
    assert data.rejects.values.tolist() == [
        ["R_test_001", s, "duplicate ID: the row in an earlier split is kept"] for s in ("train", "valid")
    ]


def test_good_row_is_kept_and_its_duplicates_are_rejected(folder):
    add(folder / "train_captions.csv", "x,  \nx,good\ny,one\ny,two\n")
    add(folder / "train_concepts.csv", "x,C0040405\nx,C0040405\ny,C1\ny,C2\n")
    shutil.copy(folder / "train_images/R_train_000.jpg", folder / "train_images/x.jpg")
    data = read_rocov2(folder)
    assert data.table.set_index("id").caption["x"] == "good"
    assert data.rejects.values.tolist() == [
        ["x", "train", "duplicate ID"],
        ["y", "train", "malformed CUI: C1"],
        ["y", "train", "malformed CUI: C2"],
    ]


def test_real_sample_has_no_rejects(real):
    data = read_rocov2(real)
    assert data.table.split.value_counts().to_dict() == {"train": 1777, "valid": 207, "test": 231}
    assert data.rejects.empty


def test_the_official_text_is_accounted_for(official_text):
    data = read_rocov2(official_text, images=False)
    assert data.table.split.value_counts().to_dict() == {"train": 13476, "valid": 9903, "test": 9927}
    assert data.rejects.groupby(["split", "reason"]).size().to_dict() == {
        ("train", "no caption"): 46486,
        ("valid", "empty caption"): 1,
    }
    assert len(data.table) + len(data.rejects) == 59962 + 9904 + 9927
