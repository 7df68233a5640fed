"Thirty-odd ways in which a row or a file can be bad: each with the reason that it must get, and the good rows survive."

import os

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from radgen.data.sources import read_csv
from radgen.data.tables import read_rocov2
from radgen.data.entropy import measure_images
from radgen.data.quality import filter_images
from radgen.data.images import load_grey

NAMES = "CUI,Canonical name\nC0040405,X-Ray Computed Tomography\nC1306645,Plain x-ray\nC0817096,Chest\n"
GOOD = ["good_1", "good_2", "good_3"]


def picture(size=(64, 48), mode="L"):
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    grey = (
        (120 + 100 * np.sin(9 * x) * np.cos(7 * y) + np.random.default_rng(0).normal(0, 5, x.shape))
        .clip(0, 255)
        .astype(np.uint8)
    )
    return Image.fromarray(grey).convert(mode)


def framed():
    "A small picture in a wide field that is not quite even."
    field = Image.fromarray(np.random.default_rng(2).integers(97, 104, (400, 400), dtype=np.uint8))
    field.paste(picture((64, 64)), (168, 168))
    return field


@pytest.fixture
def folder(tmp_path):
    "Three good rows."
    root = tmp_path / "data"
    (root / "train_images").mkdir(parents=True)
    (root / "cui_mapping.csv").write_text(NAMES)
    for i in GOOD:
        picture().save(root / "train_images" / f"{i}.jpg", quality=95)
    write(root)
    return root


def cell(s):
    return '"' + s.replace('"', '""') + '"' if any(c in s for c in ',"\n\r') else s


def write(root, captions=(), concepts=(), head="", newline="\n"):
    "The CSV files: the good rows with some others between them."
    rows = lambda extra, good: newline.join([",".join(map(cell, r)) for r in [good[0], *extra, *good[1:]]]) + newline
    (root / "train_captions.csv").write_bytes(
        (head + "ID,Caption" + newline + rows(captions, [(i, f"Chest CT {i}") for i in GOOD])).encode()
    )
    (root / "train_concepts.csv").write_bytes(
        (head + "ID,CUIs" + newline + rows(concepts, [(i, "C0040405;C0817096") for i in GOOD])).encode()
    )


def judged(root):
    "Read, measure and filter: the IDs that are kept, and the reason of each other row."
    data = read_rocov2(root)
    table = filter_images(measure_images(data.table, workers=1, progress=False))
    dropped = table[~table.keep]
    return table[table.keep], [*zip(data.rejects.id, data.rejects.reason), *zip(dropped.id, dropped.reason)]


def ordinary(**kw):
    def make(d, i):
        picture().save(d / f"{i}.jpg", **kw)

    return make


def raw(data, ext="jpg"):
    return lambda d, i: (d / f"{i}.{ext}").write_bytes(data if isinstance(data, bytes) else data(d))


def saved(im, ext, fmt=None, **kw):
    return lambda d, i: im().save(d / f"{i}.{ext}", fmt, **kw)


def cut(n, ext="jpg"):
    return lambda d, i: (
        picture().save(d / f"{i}.{ext}"),
        (d / f"{i}.{ext}").write_bytes((d / f"{i}.{ext}").read_bytes()[:n]),
    )


def link(target):
    return lambda d, i: (d / f"{i}.jpg").symlink_to(target(d))


def nothing(d, i):
    pass


def outside(d):
    picture().save(d.parent.parent / "secret.jpg")
    return d.parent.parent / "secret.jpg"


def exif(turn):
    e = Image.Exif()
    e[274] = turn
    return e


IMAGES = {  # name: how the image file is made, the reason it must get ('' is a good row)
    "ordinary": (ordinary(quality=90), ""),
    "no_file": (nothing, "image missing"),
    "zero_bytes": (raw(b""), "image unreadable: 0 bytes"),
    "html": (raw(b"<html>404 Not Found</html>"), "image unreadable: not an image"),
    "cut_jpeg": (cut(750), "image unreadable: truncated"),
    "cut_in_header": (cut(60), "image unreadable"),
    "cut_png": (cut(1200, "png"), "image unreadable"),
    "png_named_jpg": (saved(picture, "jpg", "PNG"), ""),
    "jpg_named_png": (saved(picture, "png", "JPEG"), ""),
    "cmyk": (saved(lambda: picture(mode="CMYK"), "jpg"), ""),
    "palette": (saved(lambda: picture(mode="P"), "png"), ""),
    "alpha": (saved(lambda: picture(mode="LA"), "png"), ""),
    "sixteen_bits": (saved(lambda: Image.fromarray(np.asarray(picture()).astype(np.uint16) * 16 + 500), "png"), ""),
    "turned_by_exif": (lambda d, i: ordinary(exif=exif(6), quality=95)(d, i), ""),
    "one_pixel": (saved(lambda: picture((1, 1)), "png"), "image too small: 1x1 pixels"),
    "a_line": (saved(lambda: picture((900, 3)), "png"), "image too small: 900x3 pixels"),
    "huge": (saved(lambda: Image.new("1", (20000, 20000)), "png"), "image too large"),
    "large": (saved(lambda: Image.new("L", (8000, 7000)), "png"), "image too large: 8000x7000 pixels"),
    "animated": (
        lambda d, i: picture().save(d / f"{i}.png", save_all=True, append_images=[Image.new("L", (64, 48), 9)]),
        "",
    ),
    "blank": (saved(lambda: Image.new("L", (64, 48), 30), "png"), "entropy below 1.5"),
    "black": (saved(lambda: Image.new("L", (64, 48), 0), "png"), "entropy below 1.5"),
    "noise": (
        saved(lambda: Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300), dtype=np.uint8)), "png"),
        "entropy above 7.9",
    ),
    "faint": (saved(lambda: picture().point([100 + g // 32 for g in range(256)]), "png"), "contrast below 20"),
    "framed": (
        saved(
            lambda: (lambda f: (f.paste(picture((50, 50)), (175, 175)), f)[1])(Image.new("L", (400, 400), 255)), "png"
        ),
        "entropy below 1.5",
    ),
    "framed_with_hiss": (saved(framed, "png"), "border above 0.95"),
    "link_outside": (link(outside), "image outside the folder"),
    "link_to_nothing": (link(lambda d: d / "gone.jpg"), "image missing"),
    "link_inside": (link(lambda d: d / "good_1.jpg"), ""),
    "link_loop": (link(lambda d: d / "link_loop.jpg"), "image missing"),
    "a_folder": (lambda d, i: (d / f"{i}.jpg").mkdir(), "image unreadable: not a file"),
    "a_pipe": (lambda d, i: os.mkfifo(d / f"{i}.jpg"), "image unreadable: not a file"),
    "dicom": (raw(lambda d: open(get_testdata_file("MR_small.dcm"), "rb").read(), "dcm"), ""),
    "dicom_cut": (
        raw(lambda d: open(get_testdata_file("MR_small.dcm"), "rb").read()[:3000], "dcm"),
        "image unreadable",
    ),
    "dicom_report": (
        raw(lambda d: open(get_testdata_file("test-SR.dcm"), "rb").read(), "dcm"),
        "image unreadable: a DICOM file without pixels",
    ),
    "two_files": (lambda d, i: (picture().save(d / f"{i}.png"), picture().save(d / f"{i}.jpg")), ""),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(folder, name):
    make, reason = IMAGES[name]
    make(folder / "train_images", name)
    write(folder, [(name, "A caption")], [(name, "C0040405")])
    kept, dropped = judged(folder)
    assert kept.id.tolist() == (["good_1", name, *GOOD[1:]] if not reason else GOOD)
    assert len(dropped) == (reason != "")
    if reason:
        assert dropped[0][0] == name and dropped[0][1].startswith(reason), dropped
    if name in ("png_named_jpg", "sixteen_bits", "palette", "alpha", "cmyk", "animated", "two_files"):
        assert (
            np.corrcoef(load_grey(kept.image[kept.id == name].iloc[0]).ravel(), np.asarray(picture()).ravel())[0, 1]
            > 0.99
        )
    if name == "turned_by_exif":
        assert load_grey(kept.image[kept.id == name].iloc[0]).shape == (64, 48)


ROWS = {  # name: the row's ID, captions, concepts (cells; several are several lines, none is no line), the reasons
    "none_wrong": ("a1", ["ok"], ["C0040405"], []),
    "no_caption_line": ("a1", [], ["C0040405"], ["no caption"]),
    "no_concepts_line": ("a1", ["ok"], [], ["no concepts row"]),
    "empty_caption": ("a1", [""], ["C0040405"], ["empty caption"]),
    "blank_caption": ("a1", [" \t "], ["C0040405"], ["empty caption"]),
    "line_breaks": ("a1", ['one\ntwo\r\nthree, "four"'], ["C0040405"], []),
    "none_and_na": ("a1", ["None"], ["C0040405"], []),
    "formula": ("a1", ["=cmd|' /C calc'!A0"], ["C0040405"], []),
    "empty_cuis": ("a1", ["ok"], [""], ["no CUIs"]),
    "only_semicolons": ("a1", ["ok"], [";;; ;"], ["no CUIs"]),
    "double_semicolons": ("a1", ["ok"], ["C0040405;;C0817096;"], []),
    "blanks_between": ("a1", ["ok"], [" C0040405 ; C0817096 "], []),
    "lower_case": ("a1", ["ok"], ["c0040405"], ["malformed CUI: c0040405"]),
    "too_short": ("a1", ["ok"], ["C0040405;C123"], ["malformed CUI: C123"]),
    "too_long": ("a1", ["ok"], ["C00404055"], ["malformed CUI: C00404055"]),
    "commas": ("a1", ["ok"], ["C0040405,C0817096"], ["malformed CUI: C0040405,C0817096"]),
    "other_digits": ("a1", ["ok"], ["C٠٠٤٠٤٠٥"], ["malformed CUI: C٠٠٤٠٤٠٥"]),
    "unnamed_cui": ("a1", ["ok"], ["C9999999"], []),
    "same_id_other_caption": ("a1", ["ok", "another"], ["C0040405", "C0817096"], ["duplicate ID"]),
    "same_id_three_times": ("a1", ["ok", "ok", "ok"], ["C0040405"] * 3, ["duplicate ID"] * 2),
    "climbs_out": ("../../secret", ["ok"], ["C0040405"], ["illegal ID"]),
    "absolute": ("/etc/passwd", ["ok"], ["C0040405"], ["illegal ID"]),
    "backslashes": ("..\\..\\secret", ["ok"], ["C0040405"], ["illegal ID"]),
    "two_dots": ("a..1", ["ok"], ["C0040405"], ["illegal ID"]),
    "empty_id": ("", ["ok"], ["C0040405"], ["illegal ID"]),
    "blank_in_id": ("a 1", ["ok"], ["C0040405"], ["illegal ID"]),
    "number_in_file": ("good_1.jpg#0", ["ok"], ["C0040405"], ["illegal ID"]),
    "zero_byte_in_id": ("a\x001", ["ok"], ["C0040405"], ["illegal ID"]),
    "very_long_id": ("a" * 300, ["ok"], ["C0040405"], ["image missing"]),
}


@pytest.mark.parametrize("head, newline", [("", "\n"), ("\ufeff", "\r\n")], ids=["unix", "bom_and_crlf"])
@pytest.mark.parametrize("name", ROWS)
def test_rows(folder, name, head, newline):
    i, captions, concepts, reasons = ROWS[name]
    picture().save(folder / "train_images" / "a1.jpg")
    if name == "climbs_out":
        picture().save(folder.parent / "secret.jpg")
    write(folder, [(i, c) for c in captions], [(i, c) for c in concepts], head, newline)
    kept, dropped = judged(folder)
    assert set(GOOD) <= set(kept.id) and [r for _, r in dropped] == reasons
    assert len(kept) + len(dropped) == len(GOOD) + max(len(captions), len(concepts))
    if len(reasons) < max(len(captions), len(concepts)):
        assert kept.set_index("id").caption[i] == captions[0]
    if name == "double_semicolons":
        assert kept.set_index("id").cuis[i] == ["C0040405", "C0817096"]


OWN = {  # image cell, caption, cuis, split, reason
    "good": ("train_images/good_1.jpg", "ok", "C0040405", "train", ""),
    "validation": ("train_images/good_1.jpg", "ok", "C0040405", "Validation", ""),
    "unknown_split": ("train_images/good_1.jpg", "ok", "C0040405", "holdout", "unknown split: holdout"),
    "climbs_out": ("../secret.jpg", "ok", "C0040405", "train", "image outside the folder"),
    "climbs_through": ("train_images/../../secret.jpg", "ok", "C0040405", "train", "image outside the folder"),
    "absolute": ("/etc/passwd", "ok", "C0040405", "train", "image outside the folder"),
    "through_a_link": ("train_images/link.jpg", "ok", "C0040405", "train", "image outside the folder"),
    "zero_byte": ("train_images/a\x00.jpg", "ok", "C0040405", "train", "image outside the folder"),
    "no_file": ("train_images/none.jpg", "ok", "C0040405", "train", "image missing"),
    "empty_cell": ("", "ok", "C0040405", "train", "image missing"),
    "frame_that_is_not_there": ("train_images/good_1.jpg#4", "ok", "C0040405", "train", "image unreadable"),
    "no_caption": ("train_images/good_1.jpg", " ", "C0040405", "train", "empty caption"),
    "no_cuis": ("train_images/good_1.jpg", "ok", "", "train", "no CUIs"),
}


@pytest.mark.parametrize("name", OWN)
def test_own_csv(folder, name):
    image, caption, cuis, split, reason = OWN[name]
    (folder / "train_images" / "link.jpg").symlink_to(outside(folder / "train_images"))
    rows = [("g", "train_images/good_2.jpg", "fine", "C0040405", "test"), ("x1", image, caption, cuis, split)]
    (folder / "own.csv").write_text(
        "id,image,caption,cuis,split\n" + "".join(",".join(map(cell, r)) + "\n" for r in rows)
    )
    data = read_csv(folder / "own.csv")
    assert "g" in set(data.table.id) and len(data.table) + len(data.rejects) == 2
    assert data.rejects.reason.iloc[0].startswith(reason) if reason else data.rejects.empty, data.rejects


def test_there_are_enough_of_them():
    assert len(IMAGES) + len(ROWS) + len(OWN) >= 60
