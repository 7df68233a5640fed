"Images that a pipeline of others drew are evaluated like those of a run: same captions, same report."

import pytest
from evaluation_helpers import of_images

from radgen.core.files import read_json
from radgen.core.pipelines import tiny_pipeline
from radgen.evaluation.any_images import evaluate_images
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample

pytestmark = pytest.mark.soak


def test_samples_of_a_pipeline_have_a_report_with_its_name(few, tmp_path, cheap):
    base = tiny_pipeline(tmp_path / "somebody", skip_prk_steps=True)
    request = SampleConfig(pipeline=str(base), data=few.dir, n=50, steps=1, device="cpu", out=tmp_path / "drawn")
    scores = evaluate_images(of_images(few, sample(request)))
    assert scores.images is not None
    assert (scores.images.paired, scores.images.prompted) == (50, 50)
    assert "somebody (sample.json)" in scores.images.models
    assert read_json(tmp_path / "drawn-evaluation" / "evaluation.json")["distance"] > 0
