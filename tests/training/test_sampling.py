"""A folder of samples knows its model and its prompts."""

import shutil
import signal
import weakref
from dataclasses import replace

import pandas as pd
import pytest

from radgen.core.errors import ConfigError, DataError
from radgen.core.files import fingerprint, read_json, write_json
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.training.config import SampleConfig
from radgen.text.store import EmbeddingStore
from radgen.training.run import Run, load_run
from radgen.training.sampling import default_folder, request_settings, sample, select_conditions
from radgen.training.train import train
from radgen.training.unfinished import Unfinished


@pytest.fixture
def request_of(two_steps):
    "A function that makes a request of one step."

    def make(**options):
        return SampleConfig(**{"run": two_steps.dir, "steps": 1, "device": "cpu", **options})

    return make


def test_samples_of_another_model_are_replaced(cfg, two_steps, request_of, tmp_path):
    out = tmp_path / "samples"
    request = request_of(n=1, out=out)
    assert sample(request) == out
    before = (out / "000000.png").read_bytes()
    assert sample(request) == out
    assert (out / "000000.png").read_bytes() == before
    sample(replace(request, run=train(replace(cfg, seed=5)).dir))
    assert (out / "000000.png").read_bytes() != before


def test_samples_record_captions_and_settings(two_steps, request_of, tmp_path):
    out = sample(request_of(n=2, out=tmp_path / "samples"))
    table = pd.read_csv(out / "samples.csv")
    assert table.prompt.tolist() == two_steps.prepared.texts("test", 2)[:2]
    assert table.id.tolist() == two_steps.prepared.rows("test").id.tolist()[:2]
    record = read_json(out / "sample.json")
    assert record["weights"] == two_steps.weights()
    assert record["images"] == 2
    assert record["encoder"] == "minilm"


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_captions_are_those_of_the_mode_of_the_run(two_steps, request_of, mode):
    run = Run(two_steps.dir, replace(two_steps.config, caption_mode=mode), two_steps.prepared)
    conditions = select_conditions(request_of(n=2), run)
    assert conditions.texts == run.prepared.texts("test", mode)[:2]
    embedding = conditions.embedding([1, 0, 1])
    assert embedding is not None
    assert len(embedding.pooled) == 3


def test_captions_repeat_when_more_images_are_asked_for(two_steps, request_of):
    conditions = select_conditions(request_of(n=3, prompts=("a head", "a chest")), two_steps)
    assert conditions.texts == ["a head", "a chest", "a head"]
    assert conditions.ids == ["prompt-0", "prompt-1", "prompt-0"]


@pytest.mark.parametrize(
    "options",
    [
        dict(prompts=("a chest",)),
        dict(guidance=3.0),
        dict(seed=1),
        dict(sampler="ddim"),
        dict(negative="a chest"),
        dict(guidance_interval=(0.2, 0.8)),
        dict(precision="bf16"),
    ],
    ids=str,
)
def test_each_request_has_a_folder_of_its_own(two_steps, request_of, options):
    one, other = request_of(), request_of(**options)
    assert default_folder(one, two_steps) != default_folder(other, two_steps)
    assert request_settings(one, two_steps)["fingerprint"] != request_settings(other, two_steps)["fingerprint"]


def test_split_without_images_is_reported(cfg, small, tmp_path):
    folder = shutil.copytree(small.dir, tmp_path / "train-only")
    table = pd.read_parquet(folder / "table.parquet")
    table[table.split == "train"].to_parquet(folder / "table.parquet")
    run = train(replace(cfg, data_path=folder))
    with pytest.raises(DataError, match="keeps no test image"):
        sample(SampleConfig(run.dir, device="cpu"))
    assert (sample(SampleConfig(run.dir, split="train", n=1, steps=1, device="cpu")) / "000000.png").exists()


PROMPTS = ("a head", "a chest")


def pngs(folder):
    "Bytes of the images of a folder."
    return [path.read_bytes() for path in sorted(folder.glob("0*.png"))]


def test_prompts_need_the_finished_model_alone(two_steps, request_of, tmp_path):
    copy = shutil.copytree(two_steps.final(), tmp_path / "elsewhere" / "model")
    expected = pngs(sample(request_of(prompts=PROMPTS, out=tmp_path / "of-the-run")))
    assert len(expected) == 2
    out = sample(request_of(run=copy, prompts=PROMPTS))
    assert out.parent == tmp_path.resolve() / "elsewhere" / "model-output" / "samples"
    assert pngs(out) == expected
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in two_steps.final().iterdir())
    record = read_json(out / "sample.json")
    assert (record["weights"], record["image_size"], record["encoder"]) == (two_steps.weights(), 16, "minilm")
    with pytest.raises(DataError):
        sample(request_of(run=copy))  # captions of a split need the data


def test_prompts_do_not_need_the_prepared_folder(copied, two_steps, request_of, tmp_path):
    run = copied(two_steps)
    config = read_json(run.dir / "config.json")
    write_json(run.dir / "config.json", {**config, "prepared": str(tmp_path / "gone")})
    expected = pngs(sample(request_of(prompts=PROMPTS, out=tmp_path / "a")))
    assert pngs(sample(request_of(run=run.dir, prompts=PROMPTS, out=tmp_path / "b"))) == expected
    with pytest.raises(DataError, match="gone"):
        sample(request_of(run=run.dir))


def test_final_folder_of_a_run_stands_for_the_run(two_steps, request_of):
    request = request_of(run=two_steps.final(), n=1)
    assert sample(request) == default_folder(replace(request, precision="no"), load_run(two_steps.dir))


def lines_about_tokens(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "tokens" in line]


def test_cut_prompts_are_reported_once(request_of, tmp_path, capsys, recwarn):
    long = "lung " * 100
    sample(request_of(prompts=(long, "a head"), n=4, negative="rib " * 70, batch_size=1, out=tmp_path / "a"))
    (line,) = lines_about_tokens(capsys)
    assert line.startswith("2 of 3 prompts have more than the 64 tokens that the text encoder reads: 46 tokens are cut")
    assert not [w for w in recwarn if "tokens" in str(w.message)]
    sample(request_of(prompts=(long,), out=tmp_path / "b"))
    (line,) = lines_about_tokens(capsys)
    assert line.startswith("The prompt has 102 tokens and the text encoder reads 64: the last 38 are cut.")
    sample(request_of(prompts=("a head",), out=tmp_path / "c"))
    assert not lines_about_tokens(capsys)


def test_cut_captions_of_a_split_are_reported_once(cfg, request_of, tmp_path, capsys):
    run = train(replace(cfg, max_length=8))
    capsys.readouterr()
    texts = run.prepared.texts("test", 2)
    lengths = run.pipeline().load_encoder().lengths(texts)
    cut = sum(n > 8 for n in lengths)
    assert cut > 0
    sample(request_of(run=run.dir, out=tmp_path / "a"))
    (line,) = lines_about_tokens(capsys)
    limits = "cut at 8 tokens (--max-length)"
    assert line == (f"{cut} of {len(texts)} captions are {limits}, the longest has {max(lengths)} tokens.")


def test_precision_is_recorded_and_float32_keeps_its_folders(two_steps, request_of, tmp_path):
    exact = read_json(sample(request_of(n=1, out=tmp_path / "a")) / "sample.json")
    assert (exact["precision"], exact["compile"]) == ("no", False)  # `auto` on a CPU
    before = {"images", "model", "recipe", "encoder", "image_size", "images_per_s", "seconds", "fingerprint"}
    decisive = {k: v for k, v in exact.items() if k not in before | {"precision", "compile"}}
    assert exact["fingerprint"] == fingerprint(decisive)  # as at 62af7d4, where there was no precision
    rounded = read_json(sample(request_of(n=1, precision="bf16", out=tmp_path / "b")) / "sample.json")
    assert rounded["precision"] == "bf16"
    assert rounded["fingerprint"] != exact["fingerprint"]
    assert pngs(tmp_path / "a") != pngs(tmp_path / "b")
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        sample(request_of(n=1, precision="fp16"))


def test_compile_is_recorded_and_does_not_ask_for_other_images(request_of, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(RadGenPipeline, "compile_denoiser", lambda self: calls.append(self))
    out = sample(request_of(n=2, compile=True, out=tmp_path / "a"))
    assert len(calls) == 1
    assert read_json(out / "sample.json")["compile"] is True
    capsys.readouterr()
    sample(request_of(n=2, out=tmp_path / "a"))
    assert "up to date" in capsys.readouterr().err


def watch_batches(monkeypatch, before):
    "Call `before(number of the batch)` before each batch is drawn; the images of the batches, as weak references."
    import radgen.training.sampling as sampling

    real, drawn = sampling.draw_images, []

    def draw(*args):
        before(len(drawn))
        images = real(*args)
        drawn.append([weakref.ref(image) for image in images])
        return images

    monkeypatch.setattr(sampling, "draw_images", draw)
    return drawn


def test_one_batch_of_images_and_of_vectors_is_in_memory(request_of, tmp_path, monkeypatch):
    real, rows, alive = EmbeddingStore.get, [], []

    def get(self, wanted, length=None):
        rows.append(len(wanted))
        return real(self, wanted, length)

    monkeypatch.setattr(EmbeddingStore, "get", get)
    drawn = watch_batches(monkeypatch, lambda batch: alive.append(sum(ref() is not None for b in drawn for ref in b)))
    sample(request_of(n=7, batch_size=2, out=tmp_path / "a"))
    assert [len(batch) for batch in drawn] == [2, 2, 2, 1]
    assert alive == [0] * 4
    assert rows == [2, 2, 2, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_after_the_batch_and_the_same_request_goes_on(request_of, tmp_path, monkeypatch, number):
    request = request_of(n=5, batch_size=2, out=tmp_path / "a")
    whole = pngs(sample(replace(request, out=tmp_path / "whole")))
    drawn = watch_batches(monkeypatch, lambda batch: batch == 1 and signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt, match="are kept; the same command goes on"):
        sample(request)
    folder = Unfinished(request.out)
    assert not request.out.exists()
    assert folder.drawn() == {0, 1, 2, 3}
    (folder.images / "000001.png").write_bytes(whole[1][:-20])  # as after a power failure
    before = (folder.images / "000003.png").stat().st_mtime_ns
    drawn.clear()
    assert pngs(sample(request)) == whole
    assert (request.out / "000003.png").stat().st_mtime_ns == before
    assert [len(batch) for batch in drawn] == [2, 1]  # the batch of the damaged image, and what was left
    assert not folder.dir.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "whole"]


def test_another_batch_size_and_a_second_kill_after_the_end_change_nothing(request_of, tmp_path, monkeypatch):
    request = request_of(n=5, batch_size=2, out=tmp_path / "a")
    drawn = watch_batches(monkeypatch, lambda batch: batch == 1 and signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        sample(request)
    kept = {i: (Unfinished(request.out).images / f"{i:06d}.png").stat().st_mtime_ns for i in range(4)}
    drawn.clear()
    sample(replace(request, batch_size=3))
    assert {i: (request.out / f"{i:06d}.png").stat().st_mtime_ns for i in range(4)} == kept
    settings = request_settings(replace(request, precision="no"), load_run(request.run))
    write_json(Unfinished(request.out).dir / "request.json", settings)
    sample(request)
    assert not Unfinished(request.out).dir.exists()


def test_working_folder_of_another_request_is_refused(request_of, tmp_path, monkeypatch):
    request = request_of(n=5, batch_size=2, out=tmp_path / "a")
    watch_batches(monkeypatch, lambda batch: batch == 1 and signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        sample(request)
    with pytest.raises(ConfigError, match="holds 4 images of a request with other options"):
        sample(replace(request, seed=1))
    assert Unfinished(request.out).drawn() == {0, 1, 2, 3}


def test_negative_prompt_without_guidance_is_refused(request_of, tmp_path):
    for guidance in (0.0, 0.5):
        with pytest.raises(ConfigError, match="show the negative prompt instead of avoiding it"):
            sample(request_of(guidance=guidance, negative="a chest", out=tmp_path / "a"))
    assert not list(tmp_path.iterdir())
