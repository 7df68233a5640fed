"""The whole way on real images, at 32 and 64 pixels, with both denoisers: no special cases, no quality claimed."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.cli import main


@pytest.fixture(scope="module")
def sample_of_sample(real, tmp_path_factory):
    "Some of the training rows of the real sample and its whole test split, as a folder of its own."
    folder = tmp_path_factory.mktemp("real") / "raw"
    folder.mkdir()
    for split, n in dict(train=260, valid=40, test=231).items():
        captions = pd.read_csv(real / f"{split}_captions.csv", dtype=str).sample(n, random_state=0)
        captions.to_csv(folder / f"{split}_captions.csv", index=False)
        concepts = pd.read_csv(real / f"{split}_concepts.csv", dtype=str)
        concepts[concepts.iloc[:, 0].isin(captions.ID)].to_csv(folder / f"{split}_concepts.csv", index=False)
        (folder / f"{split}_images").mkdir()
        for i in captions.ID:
            shutil.copy(real / f"{split}_images" / f"{i}.jpg", folder / f"{split}_images")
    shutil.copy(real / "cui_mapping.csv", folder)
    return folder


@pytest.fixture(scope="module")
def real_prepared(sample_of_sample):
    out = sample_of_sample.parent / "prepared"
    assert (
        main(["prepare", "--data-path", str(sample_of_sample), "--k", "10", "--llm", "rules", "--out", str(out)]) == 0
    )
    return out


def test_every_row_is_accounted_for(sample_of_sample, real_prepared):
    rows = pd.read_csv(real_prepared / "funnel.csv", keep_default_na=False)
    left, rejects = rows[rows.reason == ""], pd.read_csv(real_prepared / "rejects.csv")
    for split in ("train", "valid", "test"):
        given = len(pd.read_csv(sample_of_sample / f"{split}_captions.csv"))
        assert left[split].iloc[0] == given and left[split].iloc[-1] > 0
        assert rows[rows.reason != ""][split].sum() == (rejects.split == split).sum() == given - left[split].iloc[-1]


@pytest.mark.soak
@pytest.mark.parametrize("model, size", [("UNet", 32), ("VGG16UNet_FrozenStart", 64)])
def test_prepare_train_sample_evaluate(real_prepared, tmp_path, model, size, capsys):
    run = tmp_path / "e2e"
    common = ["--device", "cpu"]
    assert (
        main(
            [
                "train",
                "--data-path",
                str(real_prepared),
                "--model",
                model,
                "--image-size",
                str(size),
                "--batch-size",
                "4",
                "--size",
                "tiny",
                "--encoder",
                "minilm",
                "--steps",
                "2",
                "--runs",
                str(tmp_path),
                "--name",
                "e2e",
                *common,
            ]
        )
        == 0
    )
    assert main(["sample", "--run", str(run), "--n", "52", "--steps", "2", *common]) == 0
    assert (
        main(["evaluate", "--run", str(run), "--curves", "0", "--membership", "20", "--classifiers", "False", *common])
        == 0
    )
    out = capsys.readouterr().out
    assert str(run / "report.md") in out and "real-real baseline" in out
    images = sorted((run / "samples").glob("*/[0-9]*.png"))
    assert (
        len(images) == 52
        and {Image.open(p).size for p in images} == {(size, size)}
        and {Image.open(p).mode for p in images} == {"L"}
    )
    assert len({np.asarray(Image.open(p)).tobytes() for p in images}) == 52
    report = (run / "report.md").read_text()
    assert "stand-in" in report and "FD-VGG16" in report
