"""A run of one step, for the tests of the page."""

import pytest


@pytest.fixture(scope="package")
def run(few, tmp_path_factory):
    from radgen.training.config import TrainConfig
    from radgen.training.train import train

    tiny = dict(image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=1, preview_every=0, device="cpu")
    return train(TrainConfig(few.dir, runs=tmp_path_factory.mktemp("runs"), name="r", **tiny))
