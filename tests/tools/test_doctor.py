"""What `radgen doctor` finds, and the next step that it names."""

import json

import pytest

from radgen.cli import main
from radgen.evaluation.features import inception_file
from radgen.tools.doctor import folders, next_step


def begin(run):
    "A run that has begun."
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")


def test_empty_folder_has_no_runs_and_four_tasks(tmp_path, capsys):
    assert main(["doctor", "--where", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["task"] for row in found["weights"]} == {"FID", "text encoder", "VGG16UNet", "captions"}
    assert found["folders"] == {"prepared": [], "begun": [], "finished": [], "sampled": [], "evaluated": []}
    assert found["next"].startswith("radgen demo")


STEPS = (
    ([], "runs/a has not finished"),
    (["final/model_index.json"], "radgen sample --run runs/a"),
    (["final/model_index.json", "samples/x/sample.json"], "radgen evaluate --run runs/a"),
    (["final/model_index.json", "samples/x/sample.json", "report.md"], "runs/a/report.md has the numbers"),
)


@pytest.mark.parametrize("files, says", STEPS, ids=["begun", "finished", "sampled", "evaluated"])
def test_next_step_follows_from_what_is_there(tmp_path, files, says):
    run = tmp_path / "runs" / "a"
    begin(run)
    for name in files:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    assert next_step(folders(tmp_path), gpu=False, radbert=False).startswith(says)


def test_real_inception_is_told_from_its_stand_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    assert "stand-in  FID" in capsys.readouterr().out
    inception_file().parent.mkdir(parents=True)
    inception_file().touch()
    assert main(["doctor"]) == 0
    assert "real      FID" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoints"}  # it only looks
