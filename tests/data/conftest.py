"Shared by the tests of data: the official ROCOv2 tables, read once for the files that use them."

import pytest


@pytest.fixture(scope="package")
def concepts(official_text):
    from radgen.data.rocov2 import read_rocov2

    return read_rocov2(official_text, images=False, captions=False)


@pytest.fixture(scope="package")
def captions(official_text):
    from radgen.data.rocov2 import read_rocov2

    return read_rocov2(official_text, images=False)
