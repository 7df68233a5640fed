"""A fine-tuned pipeline is evaluated like every other run."""

import pytest
from evaluation_helpers import quick

from radgen.core.pipelines import tiny_pipeline
from radgen.evaluation.report import evaluate
from radgen.training.config import SampleConfig, TrainConfig
from radgen.training.sampling import sample
from radgen.training.train import train


@pytest.mark.soak
def test_a_fine_tuned_pipeline_is_evaluated(few, tmp_path, cheap):
    model = f"diffusers:{tiny_pipeline(tmp_path / 'tiny')}"
    options = dict(steps=2, name="r", device="cpu", preview_every=0, valid_every=0)
    run = train(TrainConfig(few.dir, image_size=16, batch_size=4, runs=tmp_path, model=model, lora=2, **options))
    sample(SampleConfig(run.dir, n=50, steps=1, device="cpu"))
    scores = evaluate(quick(run))
    assert scores.distance > 0
    report = (run.dir / "report.md").read_text()
    assert f"{scores.distance:.1f}" in report
    assert f"{scores.distance:.4g}" in (run.final() / "README.md").read_text()
    assert run.pipeline().config.about["scores"]
