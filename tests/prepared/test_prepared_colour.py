"""Colour in the prepared folder: what is recorded, what the arrays hold, and that grey folders know nothing of it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.data.config import Grey
from radgen.prepared.config import PrepareConfig
from radgen.prepared.folder import fit_square, square_image
from radgen.prepared.prepare import prepare


def config_of(prepared, out, **options):
    "The options that the folder of the fixture was prepared with."
    return PrepareConfig(prepared.manifest["config"]["data_path"], out, llm="rules", rule="any", **options)


def test_a_grey_folder_knows_nothing_of_colours_and_differs_in_content(colour, tmp_path):
    grey = prepare(config_of(colour, tmp_path / "grey"))
    assert (grey.channels, colour.channels) == (1, 3)
    assert "channels" not in grey.manifest["config"] and "channels" not in grey.manifest["grey"]
    assert (colour.manifest["config"]["channels"], colour.manifest["grey"]["channels"]) == (3, 3)
    assert grey.table.drop(columns="cuis").equals(colour.table.drop(columns="cuis"))  # curation is the same
    assert grey.manifest["fingerprint"] != colour.manifest["fingerprint"]
    assert grey.manifest["content"] != colour.manifest["content"]
    assert grey.images("test", 16).shape == (len(grey.rows("test")), 16, 16)


def test_the_arrays_hold_the_colours_of_the_files(colour):
    images, rows = colour.images("test", 32), colour.rows("test")
    assert images.shape == (len(rows), 32, 32, 3)
    for image, row in zip(images, rows.itertuples()):
        assert np.array_equal(image, fit_square(np.asarray(Image.open(row.image)), 32))
        red, _, blue = image.reshape(-1, 3).sum(0).astype(int)
        assert ("towards" in row.caption) == (red > blue)


def test_prepared_again_only_where_the_channels_change(colour, tmp_path, capsys):
    cfg = config_of(colour, tmp_path / "p", channels=3)
    prepare(cfg)
    prepare(cfg)
    assert "is up to date" in capsys.readouterr().err
    assert prepare(replace(cfg, channels=1)).images("valid", 16).ndim == 3
    assert prepare(cfg).images("valid", 16).ndim == 4


def test_a_grey_image_in_a_colour_folder_is_the_grey_one_three_times(tmp_path):
    ramp = np.tile(np.linspace(20, 200, 80).astype(np.uint8), (60, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    for equalize in (False, True):
        grey, colour = (square_image(str(tmp_path / "a.png"), 24, equalize, Grey(channels=n)) for n in (1, 3))
        assert np.array_equal(colour, np.repeat(grey[..., None], 3, axis=-1))


def test_equalisation_keeps_the_hue():
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0] = np.linspace(30, 90, 40).astype(np.uint8)
    image[..., 1] = image[..., 0] // 2
    red, green, blue = fit_square(image, 40, equalize=True).reshape(-1, 3).astype(int).T
    assert (red >= green).all() and (green >= blue).all() and red.max() > 200
    assert (red > blue).mean() > 0.9


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ConfigError, match="--channels is 4"):
        PrepareConfig("data", "out", channels=4)
