"""Folders of images: what is found, what is left out and why, one resize for all formats, and what files say."""

import io
import json
import os
import tarfile

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import random_images
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from radgen.core.errors import DataError
from radgen.evaluation.image_sets import (
    UNKNOWN,
    FileFacts,
    common_size,
    facts_of,
    file_facts,
    list_images,
    model_in_file,
    most_frequent,
    read_images,
    side_warnings,
)
from radgen.prepared.folder import square_image


def write(path, side=32, mode="L", seed=0, **options):
    "An image file of any format, with the folders above it."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_images(1, side, seed)[0]).convert(mode).save(path, **options)
    return path


def faults(rows):
    return dict(zip(rows["name"], rows.fault))


def test_nested_folder_leaves_out_what_cannot_be_read_with_the_reason(tmp_path):
    write(tmp_path / "a" / "b" / "1.png")
    write(tmp_path / "2.JPG", 64)
    whole = write(tmp_path / "a" / "3.png").read_bytes()
    (tmp_path / "a" / "3.png").write_bytes(whole[:200])
    (tmp_path / "a" / "4.jpg").write_text("no image")
    write(tmp_path / "a" / "5.png", 8)
    (tmp_path / "a" / ".hidden.png").write_bytes(whole)
    (tmp_path / "notes.txt").write_text("not an image file")
    rows, tables = list_images(tmp_path)
    assert tables == []
    images, kept, left_out = read_images(rows, 16)
    assert sorted(kept["name"]) == ["2.JPG", os.path.join("a", "b", "1.png")]
    assert images.shape == (2, 16, 16)
    reasons = {os.path.basename(name): why for name, why in faults(left_out).items()}
    assert reasons["3.png"] == "image unreadable: truncated"
    assert reasons["4.jpg"] == "image unreadable: not an image"
    assert reasons["5.png"] == "image too small: 8x8 pixels"
    assert len(reasons) == 3


def metadata(folder, rows, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_tables_are_not_trusted(tmp_path):
    "What leads out of the folder, is missing, is named twice or not at all is left out by name."
    secret = write(tmp_path / "secret" / "x.png")
    folder = tmp_path / "drawn"
    for name in ("1.png", "2.png", "unnamed.png"):
        write(folder / name)
    (folder / "link.png").symlink_to(secret)
    names = ["1.png", "2.png", "./1.png", "../secret/x.png", str(secret), "link.png", "https://a.b/c.png", "no.png", ""]
    metadata(folder, [{"file_name": name, "prompt": f"prompt {i}", "id": ""} for i, name in enumerate(names)])
    rows, tables = list_images(folder)
    assert tables == [str(folder / "metadata.jsonl")]
    images, kept, left_out = read_images(rows, 16)
    assert dict(zip(kept["name"], kept.prompt)) == {"1.png": "prompt 0", "2.png": "prompt 1"}
    assert faults(left_out) == {
        "./1.png": "named twice: another row has this file",
        "../secret/x.png": "image outside the folder",
        str(secret): "image outside the folder",
        "link.png": "image outside the folder",
        "https://a.b/c.png": "image is a link",
        "no.png": "image missing",
        "": "image missing: the row names no file",
        "unnamed.png": "no prompt: no row names this file",
    }


ROWS = [
    {"file_name": "a.png", "text": "another text", "prompt": "chest, left", "id": "007"},
    {"file_name": "b.png", "text": "another text", "prompt": '=cmd|"x"\nCT', "id": ""},
]


def as_table(path):
    "The same rows in the format that the name of a file says."
    table = pd.DataFrame(ROWS)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        metadata(path.parent, ROWS, path.name)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet"])
def test_every_format_of_table_gives_the_same_prompts(tmp_path, name):
    "The column `prompt` comes before other columns of text, IDs stay text, and cells stay as they are."
    for row in ROWS:
        write(tmp_path / row["file_name"])
    rows, _ = list_images(tmp_path, as_table(tmp_path / name))
    assert rows[["prompt", "id", "fault"]].to_numpy().tolist() == [
        ["chest, left", "007", ""],
        [ROWS[1]["prompt"], "", ""],
    ]


def test_metadata_of_nested_folders_start_from_their_own_folder(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "1.png")
        metadata(tmp_path / part, [{"file_name": "1.png", "text": part}])
    rows, tables = list_images(tmp_path)
    assert len(tables) == 2
    assert sorted(rows.prompt[rows.fault == ""]) == ["test", "train"]


def test_table_of_radgen_sample_is_found(tmp_path):
    write(tmp_path / "000000.png")
    write(tmp_path / "grid.png")
    (tmp_path / "samples.csv").write_text("index,id,prompt,seed\n0,0012,CT,5\n")
    rows, tables = list_images(tmp_path)
    assert rows[["name", "prompt", "id", "fault"]].to_numpy().tolist() == [["000000.png", "CT", "0012", ""]]


@pytest.mark.parametrize(
    "header, message",
    [
        ("picture,prompt", "known to hold the files of the images: call it file_name; its columns are picture, prompt"),
        ("file_name,label", "known to hold the prompts: call it prompt; its columns are file_name, label"),
    ],
)
def test_table_without_its_columns_is_refused(tmp_path, header, message):
    write(tmp_path / "a.png")
    (tmp_path / "p.csv").write_text(f"{header}\na.png,CT\n")
    with pytest.raises(DataError, match=message):
        list_images(tmp_path, tmp_path / "p.csv")


def test_metadata_without_prompts_is_not_read_and_a_line_says_so(tmp_path, capsys):
    write(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,CT\n")
    rows, tables = list_images(tmp_path)
    assert (tables, rows.prompt.tolist()) == ([], [""])
    assert "metadata.csv is not read as a table of prompts: no column" in capsys.readouterr().err


def test_missing_and_empty_folders_and_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*nothing: give a folder"):
        list_images(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no file .*p.csv: give --prompts"):
        list_images(tmp_path, tmp_path / "p.csv")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of 1 images can be used; the first is a.png .image unreadable: 0 bytes"):
        read_images(list_images(tmp_path)[0], 16)


FILES = {
    "grey.png": {},
    "colour.png": {"mode": "RGB"},
    "alpha.png": {"mode": "RGBA"},
    "deep.png": {"mode": "I;16"},
    "photo.jpg": {"mode": "RGB", "quality": 95},
    "page.tif": {},
    "web.webp": {"lossless": True},
    "old.bmp": {},
}


def test_every_format_passes_through_the_resize_of_prepared_folders(tmp_path):
    for i, (name, options) in enumerate(FILES.items()):
        write(tmp_path / str(i) / name, 40 + 8 * i, **options)
    rows, _ = list_images(tmp_path)
    images, kept, left_out = read_images(rows, 32)
    assert left_out.empty
    assert len(kept) == len(FILES)
    for image, path in zip(images, kept.image):
        assert np.array_equal(image, square_image(path, 32)), path
    formats = most_frequent((f.format for f in facts_of(kept.image.tolist())), 9)
    assert formats == {"PNG": 4, "JPEG": 1, "TIFF": 1, "WEBP": 1, "BMP": 1}


def test_dicom_is_read_and_described(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.join(os.path.dirname(__file__), "..", "data"))
    from dicom_files import dicom

    path = tmp_path / "1.dcm"
    dicom(path, np.arange(32 * 48, dtype=np.uint16).reshape(32, 48))
    images, kept, _ = read_images(list_images(tmp_path)[0], 16)
    assert images.max() > 200
    assert file_facts(str(path)) == FileFacts("DICOM", 48, 32, False)


def test_model_is_quoted_from_the_file_and_hostile_bytes_are_unknown(tmp_path):
    text = PngInfo()
    text.add_text("parameters", "a chest\nSteps: 20, Model: some\u200bbody's <b>, Seed: 1")
    path = write(tmp_path / "a.png", pnginfo=text)
    assert file_facts(str(path)) == FileFacts("PNG", 32, 32, False, "somebody's <b>")
    exif = Image.Exif()
    exif[305] = "StyleGAN2"
    found = file_facts(str(write(tmp_path / "b.jpg", exif=exif)))
    assert (found.model, found.software) == ("", "StyleGAN2")
    assert (
        model_in_file({"prompt": '{"4": {"inputs": {"ckpt_name": "roentgen.safetensors"}}}'}) == "roentgen.safetensors"
    )
    assert model_in_file({"model": b"bytes", "Software": "GIMP"}) == ""
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 60)
    assert file_facts(str(tmp_path / "c.png")).side == 0


def of_side(side, n, is_jpeg=False):
    return [FileFacts("JPEG" if is_jpeg else "PNG", side, side + 8, is_jpeg)] * n


def test_size_is_the_largest_that_enlarges_at_most_a_twentieth():
    assert common_size(of_side(128, 100), of_side(200, 100)) == 128
    assert common_size(of_side(16, 5) + of_side(128, 95), of_side(200, 100)) == 128
    assert common_size(of_side(64, 10) + of_side(128, 90), of_side(200, 100)) == 64
    assert common_size(of_side(1024, 9), of_side(512, 9)) == 256
    assert common_size([UNKNOWN], []) == 256


@pytest.mark.parametrize("n", [1, 5, 10, 19, 20, 21, 39, 40, 100])
def test_at_most_a_twentieth_is_enlarged_also_of_a_small_set(n):
    sides = np.random.default_rng(n).permutation(np.arange(100, 100 + n))
    size = common_size([FileFacts("PNG", side, side, False) for side in sides.tolist()])
    assert (sides < size).sum() == int(0.05 * n)


def in_tar(path, content):
    "A tar file of one image."
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


def test_facts_of_parts_are_those_of_the_part_and_not_of_the_file_around_it(tmp_path):
    content = write(tmp_path / "1.jpg", 40).read_bytes()
    table = pd.DataFrame({"image": [{"bytes": content, "path": "1.jpg"}]})
    table.to_parquet(tmp_path / "images.parquet")
    jpeg = FileFacts("JPEG", 40, 40, True)
    assert file_facts(f"{tmp_path / 'images.parquet'}#image:0") == jpeg
    assert file_facts(f"{in_tar(tmp_path / 'images.tar', content)}#0") == jpeg
    assert file_facts(f"{tmp_path / 'images.tar'}#7") == UNKNOWN


def test_facts_of_a_slice_are_those_of_its_plane(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 30, 20), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    assert file_facts(f"{tmp_path / 'scan.nii.gz'}#axial:3") == FileFacts("NIfTI", 40, 30, False)
    assert file_facts(f"{tmp_path / 'scan.nii.gz'}#coronal:3") == FileFacts("NIfTI", 40, 20, False)


def test_a_file_that_is_gone_is_unknown_and_counts_for_neither_side(tmp_path):
    gone = facts_of([str(tmp_path / "gone.jpg")] * 3)
    assert gone == [UNKNOWN] * 3
    (warning,) = side_warnings(of_side(64, 9), gone + of_side(64, 6), 64)
    assert warning.startswith("the format of 3 real files is unknown, of 9 that were looked at")
    unknown, jpeg = side_warnings(of_side(64, 9), gone + of_side(64, 6, is_jpeg=True), 64)
    assert "100% of the real images are compressed as JPEG" in jpeg


def test_run_is_refused_and_sets_of_samples_are_read_without_grids_and_reports(tmp_path):
    run = tmp_path / "runs" / "r"
    for part in ("test", "guidance-3"):
        write(run / "samples" / part / "000000.png")
        write(run / "samples" / part / "grid.png")
        (run / "samples" / part / "samples.csv").write_text(f"index,id,prompt,seed\n0,a,{part},5\n")
    for name in ("evaluation.json", "left_out.csv"):
        (run / "samples" / "test-evaluation").mkdir(exist_ok=True)
        (run / "samples" / "test-evaluation" / name).write_text("{}")
    write(run / "samples" / "test-evaluation" / "fig" / "comparison.png")
    rows, tables = list_images(run / "samples")
    assert len(tables) == 2
    assert sorted(zip(rows.prompt, rows.fault)) == [("guidance-3", ""), ("test", "")]
    (run / "config.json").write_text('{"data_path": "x", "recipe": "radgen"}')
    for folder in (run, run.parent):
        with pytest.raises(DataError, match=f"{run} is a run with .*: give --run {run}"):
            list_images(folder)
    (run / "config.json").write_text("[1, 2")
    assert len(list_images(run)[0]) == 2


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode there")
@pytest.mark.parametrize("table", [True, False])
def test_names_that_are_not_unicode_and_links_out_of_the_folder_are_listed(tmp_path, table):
    folder = tmp_path / "drawn"
    write(folder / "a.png")
    (folder / "link.png").symlink_to(write(tmp_path / "secret.png"))
    other = os.path.join(os.fsencode(folder), b"caf\xe9.png")
    try:
        with open(other, "wb") as f:
            f.write((folder / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    if table:
        metadata(folder, [{"file_name": "a.png", "prompt": "CT"}])
    rows, _ = list_images(folder)
    rows.to_csv(tmp_path / "left_out.csv")
    assert faults(rows) == {
        "a.png": "",
        "caf\\xe9.png": "image unreadable: its name is not encoded in UTF-8",
        "link.png": "image outside the folder",
    }


def test_warnings_name_compression_and_enlargement():
    assert side_warnings(of_side(64, 9), of_side(128, 9), 64) == ()
    (warning,) = side_warnings(of_side(64, 9), of_side(64, 9, is_jpeg=True), 64)
    assert "0% of the evaluated and 100% of the real images are compressed as JPEG" in warning
    enlarged = side_warnings(of_side(48, 5) + of_side(64, 5), of_side(32, 9), 64)
    assert [w.split(" images")[0] for w in enlarged] == ["50% of the evaluated", "100% of the real"]


def test_rows_whose_prompt_is_no_text_are_counted(tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / name)
    prompts = ["CT", {"text": "CT"}, None]
    metadata(tmp_path, [{"file_name": f"{name}.png", "prompt": p} for name, p in zip("abc", prompts)])
    rows, _ = list_images(tmp_path)
    assert rows.prompt.tolist() == ["CT", "", ""]
    assert "2 of 3 rows of" in capsys.readouterr().err


def test_a_prepared_folder_is_no_set_of_images(few):
    with pytest.raises(DataError, match="was written by radgen prepare and holds no images"):
        list_images(few.dir)
