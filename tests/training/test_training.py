"""What a run promises beyond the chapter: VGG16's recipe by recipe, a loss that explodes is told, options are guarded."""

import json, shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import radgen.cli as C
import radgen.runs as R
import radgen.training as T
from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.config import TrainConfig
from radgen.training.run import load_run
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample
from radgen.training.train import train
from radgen.training.batches import batch_indices


@contextmanager
def dies_at(step):
    "Within the block a training is cut off before it takes this step (0-based)."
    with pytest.MonkeyPatch.context() as m, pytest.raises(MemoryError):
        go = T.train_step

        def stop(s, i, read):
            if i == step:
                raise MemoryError
            go(s, i, read)

        m.setattr(T, "train_step", stop)
        yield


@pytest.fixture
def cfg(prepared, tmp_path):
    return TrainConfig(
        prepared.dir,
        image_size=16,
        batch_size=4,
        size="tiny",
        encoder="minilm",
        steps=2,
        runs=tmp_path,
        name="r",
        device="cpu",
        preview_every=0,
    )


@pytest.mark.parametrize("model", ["UNet", "VGG16UNet", "VGG16UNet_FrozenStart", "VGG16UNet_Frozen"])
@pytest.mark.parametrize("recipe", ["paper", "radgen"])
def test_every_model_with_every_recipe(cfg, model, recipe):
    run = train(replace(cfg, model=model, recipe=recipe))
    pipe = run.pipeline()
    assert pipe.scheduler.config.prediction_type == {"paper": "epsilon", "radgen": "v_prediction"}[recipe]
    assert type(pipe.denoiser).__name__ == ("UNet" if model == "UNet" else "VGG16UNet")
    assert not list(run.dir.rglob("*.bin")) and not list(run.dir.rglob("*.ckpt"))


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_caption_modes_reach_the_network(cfg, mode):
    run = train(replace(cfg, caption_mode=mode))
    out = sample(SampleConfig(run.dir, n=2, steps=1, device="cpu"))
    assert run.prepared.texts("test", mode)[0] in (out / "samples.csv").read_text(encoding="utf-8").replace('""', '"')


def test_gradient_accumulation_is_one_step(cfg):
    run = train(replace(cfg, grad_accum=3, log_every=1))
    assert run.metrics().step.tolist() == [1, 2]
    assert run.metrics().epoch.iloc[-1] == pytest.approx(2 * 3 * 4 / len(run.prepared.rows("train")), abs=1e-3)


def test_same_seed_same_weights_and_other_seed_others(cfg):
    w = {
        n: load_file(train(replace(cfg, name=n, seed=s)).dir / "final/denoiser/diffusion_pytorch_model.safetensors")
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    }
    assert all(torch.equal(w["a"][k], w["b"][k]) for k in w["a"]) and any(
        not torch.equal(w["a"][k], w["c"][k]) for k in w["a"]
    )


def test_finished_run_is_not_trained_again(cfg):
    run = train(cfg)
    stamp = (run.dir / "metrics.csv").stat().st_mtime_ns
    train(cfg)
    assert (run.dir / "metrics.csv").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="other options"):
        train(replace(cfg, batch_size=8))


def test_other_data_under_a_run_is_noticed(cfg, prepared, phantoms, tmp_path):
    train(cfg)
    other = prepare(PrepareConfig(phantoms, tmp_path / "other", k=3, llm="rules"))
    with pytest.raises(ConfigError, match="other options .*data"):
        train(replace(cfg, data_path=other.dir, k=3))


def test_every_image_is_seen_before_any_is_seen_again():
    seen = np.concatenate([batch_indices(37, 5, s, 3) for s in range(40)])
    for e in range(5):
        assert sorted(seen[37 * e : 37 * (e + 1)]) == list(range(37))


def test_run_folder_loads_from_elsewhere(cfg, monkeypatch, tmp_path):
    run = train(cfg)
    monkeypatch.chdir(tmp_path)
    assert load_run("r").config.steps == 2


def test_run_killed_before_its_first_checkpoint_starts_over(cfg):
    with dies_at(0):
        train(cfg)
    assert (cfg.runs / "r" / "config.json").exists() and not (cfg.runs / "r" / "last").exists()
    assert train(cfg).metrics().step.tolist() == [2]


def test_failed_start_leaves_nothing_and_takes_nothing(cfg, tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = replace(cfg, encoder=str(tmp_path / "empty"))
    with pytest.raises(RadgenError, match="--encoder minilm"):
        train(wrong)
    assert not (tmp_path / "r").exists()
    run = train(cfg)  # what the message advises works under the same name
    weights = run.weights()
    with pytest.raises(RadgenError, match="--encoder minilm"):
        train(replace(wrong, overwrite=True))
    assert (run.dir / "final" / "model_index.json").exists()
    assert train(replace(cfg, overwrite=True, seed=1)).weights()


def test_prepared_anew_under_a_run_is_noticed(cfg, prepared, phantoms, tmp_path):
    out = tmp_path / "again"
    run = train(replace(cfg, data_path=prepare(PrepareConfig(phantoms, out, k=10, llm="rules")).dir))
    prepare(PrepareConfig(phantoms, out, k=10, llm="rules", max_entropy=7.89))  # another option, the same result
    sample(SampleConfig(run.dir, n=1, steps=1, device="cpu"))
    prepare(PrepareConfig(phantoms, out, k=3, llm="rules"))
    with pytest.raises(DataError, match="prepared anew"):
        sample(SampleConfig(run.dir, n=1, steps=1, device="cpu"))


def test_samples_know_their_model_and_their_prompts(cfg):
    run = train(cfg)
    out = sample(SampleConfig(run.dir, n=1, steps=1, out=run.dir.parent / "kept", device="cpu"))
    first = (out / "000000.png").read_bytes()
    assert sample(SampleConfig(run.dir, n=1, steps=1, out=out, device="cpu")) == out
    train(replace(cfg, seed=5, overwrite=True))
    sample(SampleConfig(run.dir, n=1, steps=1, out=out, device="cpu"))
    assert (out / "000000.png").read_bytes() != first  # not the old model's image
    a, b = (sample(SampleConfig(run.dir, prompts=(p,), steps=1, device="cpu")) for p in ("a head", "a chest"))
    assert a != b and a.exists()


def test_split_without_images(cfg, prepared, tmp_path):
    folder = shutil.copytree(prepared.dir, tmp_path / "train-only")
    table = pd.read_parquet(folder / "table.parquet")
    table[table.split == "train"].to_parquet(folder / "table.parquet")
    run = train(replace(cfg, data_path=folder))
    with pytest.raises(DataError, match="keeps no test image"):
        sample(SampleConfig(run.dir, device="cpu"))
    assert sample(SampleConfig(run.dir, split="train", n=1, steps=1, device="cpu")).exists()


def test_compiled_and_checkpointed_runs_resume_without(cfg, monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter, real = CompileCounterWithBackend("eager"), T.Accelerator

    def accelerator(dynamo_backend="no", **kw):  # the graph is made; what inductor does with it needs a C++ compiler
        acc = real(**kw)
        if dynamo_backend != "no":
            prepare = acc.prepare
            acc.prepare = lambda model, *rest: (
                torch.compile(prepare(model), backend=counter, fullgraph=True),
                *(prepare(r) for r in rest),
            )
        return acc

    monkeypatch.setattr(T, "Accelerator", accelerator)
    plain = train(replace(cfg, name="plain", steps=4))
    with dies_at(2):
        train(replace(cfg, steps=4, compile=True, gradient_checkpointing=True, checkpoint_every=2))
    assert counter.frame_count == 1  # texts are padded to one length, so that two batches make one graph
    run = train(replace(cfg, steps=4))
    a, b = (load_file(r.final() / "denoiser/diffusion_pytorch_model.safetensors") for r in (plain, run))
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


def test_vgg_weights_are_decided_once(cfg, monkeypatch):
    run = train(replace(cfg, model="VGG16UNet", steps=2))
    assert load_run(run.dir).config.vgg_weights == "keras"
    monkeypatch.setattr(R, "best_vgg_weights", lambda: "torchvision")  # its file has appeared in torch's cache
    with pytest.raises(ConfigError, match="vgg_weights keras instead of torchvision"):
        train(replace(cfg, model="VGG16UNet"))
    assert train(replace(cfg, model="VGG16UNet", vgg_weights="keras")).weights() == run.weights()


def test_frozen_slices_have_no_part_in_norm_and_moments(cfg, monkeypatch):
    seen, step = [], T.train_step

    def look(s, i, read):
        step(s, i, read)
        vgg = next(g for g in s.opt.param_groups if g["frozen"])["params"]
        seen.append([bool(s.opt.state.get(p)) for p in vgg])

    monkeypatch.setattr(T, "train_step", look)
    train(replace(cfg, model="VGG16UNet_FrozenStart", steps=4))
    assert not any(seen[1]) and all(seen[2])


def test_run_of_another_version_is_told(cfg):
    run = train(cfg)
    config = json.loads((run.dir / "config.json").read_text())
    del config["compile"]
    (run.dir / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="another version of radgen .compile is lacking"):
        load_run(run.dir)


@pytest.mark.parametrize(
    "options",
    [
        dict(prediction="epsilon"),
        dict(prediction="sample"),
        dict(betas="linear"),
        dict(prediction="sample", zero_snr=True, betas="cosine", snr_gamma=0.0),
        dict(shift=2.0, lr_schedule="warmup_cosine"),
    ],
    ids=str,
)
def test_every_objective_reaches_the_saved_schedule(cfg, options):
    run = train(replace(cfg, recipe="radgen", steps=3, **options))
    saved, wanted = run.pipeline().scheduler, R.schedule_of(run.config)
    assert saved.config.prediction_type == run.config.prediction and torch.equal(
        saved.alphas_cumprod, wanted.alphas_cumprod
    )
    assert np.isfinite(run.metrics().loss).all()


def poisoned(monkeypatch, when, what):
    "Let the loss of step `when` (0-based) be multiplied by `what`."
    at, loss, step = [0], T.step_loss, T.train_step

    def noted(s, i, read):
        at[0] = i
        step(s, i, read)

    monkeypatch.setattr(T, "train_step", noted)
    monkeypatch.setattr(T, "step_loss", lambda *a: loss(*a) * (what if at[0] == when else 1))


@pytest.mark.parametrize(
    "what, says", [(float("nan"), "the loss is nan at step 31"), (1e6, "the loss is .*, after at most .* at step 31")]
)
def test_a_bad_step_stops_with_its_images_and_keeps_what_was(cfg, monkeypatch, what, says):
    poisoned(monkeypatch, 30, what)
    with pytest.raises(RadgenError, match=says) as e:
        train(replace(cfg, steps=40, checkpoint_every=5, log_every=7))
    told = json.loads((cfg.runs / "r" / "bad-step-31.json").read_text())
    rows = R.load_prepared(cfg.data_path).rows("train")
    assert (
        told["images"] == [rows.id[i] for i in batch_indices(len(rows), 4, 30, cfg.seed)]
        and told["images"][0] in str(e.value)
        and "lower --lr" in str(e.value)
    )
    assert (cfg.runs / "r" / "last").read_text().strip() == "step-00000030" and not (cfg.runs / "r" / "final").exists()
    monkeypatch.undo()  # the cause is gone: the same command goes on and ends where an untouched run does
    weights = train(replace(cfg, steps=40, checkpoint_every=5, log_every=7)).weights()
    assert weights == train(replace(cfg, steps=40, name="untouched")).weights()


@pytest.mark.parametrize("what", [float("nan"), float("inf"), 1e6])
def test_a_bad_step_is_left_out_if_wanted(cfg, monkeypatch, what):
    poisoned(monkeypatch, 25, what)
    run = train(replace(cfg, steps=30, skip_bad_steps=True, log_every=1))
    assert run.metrics().step[run.metrics().loss.isna()].tolist() == [26]
    assert all(
        torch.isfinite(v).all()
        for v in load_file(run.final() / "denoiser/diffusion_pytorch_model.safetensors").values()
    )


def test_skipping_may_be_switched_on_to_go_on(cfg, monkeypatch):
    poisoned(monkeypatch, 25, float("nan"))
    with pytest.raises(RadgenError, match="at step 26"):
        train(replace(cfg, steps=30, checkpoint_every=5))
    assert train(replace(cfg, steps=30, checkpoint_every=5, skip_bad_steps=True)).final()


def test_randomness_of_the_network_is_no_state(cfg, monkeypatch):
    "A network with dropout, stopped and continued, ends with the bits of one that was not."
    make = T.make_model

    def with_dropout(*a):
        model = make(*a)
        model.mid[0].register_forward_hook(lambda m, args, out: torch.nn.functional.dropout(out, 0.2, m.training))
        return model

    monkeypatch.setattr(T, "make_model", with_dropout)
    whole = train(replace(cfg, steps=6, name="whole"))
    with dies_at(4):
        train(replace(cfg, steps=6, checkpoint_every=3))
    torch.rand(7)  # the state of the global generator is another one now
    assert train(replace(cfg, steps=6, checkpoint_every=3)).weights() == whole.weights()


def test_looking_changes_nothing(cfg):
    "Validation, previews, checkpoints and the log leave no trace in the weights."
    plain = train(replace(cfg, steps=5, valid_every=0))
    watched = train(
        replace(cfg, steps=5, valid_every=0.004, preview_every=0.008, checkpoint_every=1, log_every=1, name="watched")
    )
    assert plain.weights() == watched.weights()
    assert (
        watched.metrics().valid_loss.notna().all()
        and "valid_loss" in plain.metrics()
        and plain.metrics().valid_loss.isna().all()
    )
    strips = sorted((watched.dir / "samples").glob("step-*.png"))
    assert [p.name for p in strips] == ["step-00000002.png", "step-00000004.png", "step-00000005.png"] and (
        watched.dir / "previews.png"
    ).exists()
    im = Image.open(strips[0])
    assert im.size == (8 * 16, 16) and im.text["synthetic"] == "true" and len(json.loads(im.text["prompts"])) == 8
    assert list((watched.dir / "logs").rglob("events*"))


def test_tensorboard_holds_curve_and_pictures(cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(replace(cfg, steps=4, log_every=2, valid_every=0.008, preview_every=0.008))
    events = EventAccumulator(str(next((run.dir / "logs").rglob("events*")).parent)).Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4] and [
        e.value for e in events.Scalars("valid_loss")
    ] == pytest.approx(run.metrics().valid_loss.tolist())
    assert [e.step for e in events.Images("samples")] == [2, 4]


def test_tensorboard_keeps_all_rows_of_a_run_that_goes_on(cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with dies_at(5):
        train(replace(cfg, steps=8, log_every=1, checkpoint_every=4))
    run = train(replace(cfg, steps=8, log_every=1, checkpoint_every=4))
    events = EventAccumulator(str(next((run.dir / "logs").rglob("events*")).parent)).Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 9)) == run.metrics().step.tolist()


def test_model_card_says_what_was_trained(cfg):
    run = train(replace(cfg, model="VGG16UNet"))
    card = (run.final() / "README.md").read_text(encoding="utf-8")
    for what in (
        "Apache-2.0",
        "C0040405",
        "MiniLM (stand-in for RadBERT) as text encoder",
        "Keras training",
        "not for diagnosis",
        "v\\_prediction",
    ):
        assert what in card, what
    assert str(cfg.data_path.parent) not in card


def test_other_files_are_not_taken_for_a_run(cfg):
    (cfg.runs / "r").mkdir(parents=True)
    (cfg.runs / "r" / "thesis.txt").write_text("years of work")
    for more in ({}, dict(overwrite=True)):
        with pytest.raises(ConfigError, match="holds other files"):
            train(replace(cfg, **more))
    assert (cfg.runs / "r" / "thesis.txt").exists()


def test_half_precision_needs_a_gpu(cfg):
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        train(replace(cfg, precision="fp16"))
    assert train(replace(cfg, precision="bf16")).weights()


def test_checkpoint_of_another_run_is_not_taken(cfg, capsys):
    one, other = (
        train(replace(cfg, steps=4, checkpoint_every=2, name="one")),
        train(replace(cfg, steps=4, checkpoint_every=2, seed=1)),
    )
    shutil.rmtree(other.dir / "final")
    shutil.rmtree(other.dir / "checkpoints" / "step-00000004")
    shutil.copytree(one.dir / "checkpoints" / "step-00000004", other.dir / "checkpoints" / "step-00000004")
    weights = other.dir / "checkpoints" / "damaged-step-00000004"
    assert train(replace(cfg, steps=4, checkpoint_every=2, seed=1)).weights() != one.weights()
    assert weights.exists() and "belongs to a run with other options" in capsys.readouterr().err


def test_gradients_are_clipped(cfg):
    first = {
        n: load_file(
            train(replace(cfg, name=n, steps=1, lr=1e-3, max_grad_norm=norm)).dir
            / "checkpoints"
            / "step-00000001"
            / "model.safetensors"
        )
        for n, norm in (("clipped", 1e-12), ("free", 1e6))
    }
    start = load_file(
        train(replace(cfg, name="start", steps=0)).final() / "denoiser/diffusion_pytorch_model.safetensors"
    )
    moved = {n: max((w[k] - start[k]).abs().max().item() for k in w if k in start) for n, w in first.items()}
    assert (
        moved["clipped"] < 0.1 * moved["free"]
    )  # AdamW forgets a common factor of the gradients until they are as small as its epsilon


def test_skipping_has_an_end(cfg, monkeypatch):
    loss = T.step_loss
    monkeypatch.setattr(T, "step_loss", lambda *a: loss(*a) * float("nan"))
    with pytest.raises(RadgenError, match="20 steps in a row were left out at step 20"):
        train(replace(cfg, steps=50, skip_bad_steps=True))


def test_log_that_does_not_fit_is_told(cfg, monkeypatch, capsys):
    def full(self, **row):
        raise OSError(28, "No space left on device")  # as a write to an open file does: without a name

    monkeypatch.setattr(T.MetricsLog, "add", full)
    assert (
        C.main(
            [
                "train",
                "--data-path",
                str(cfg.data_path),
                "--image-size",
                "16",
                "--batch-size",
                "4",
                "--size",
                "tiny",
                "--encoder",
                "minilm",
                "--steps",
                "2",
                "--runs",
                str(cfg.runs),
                "--name",
                "r",
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert "radgen: the disk is full" in err and "give the same command again" in err and "Traceback" not in err


def test_checkpoint_may_be_damaged_twice(cfg):
    whole = train(replace(cfg, steps=4, checkpoint_every=2))
    for _ in range(2):
        shutil.rmtree(whole.dir / "final")
        (whole.dir / "checkpoints" / "step-00000004" / "ema.safetensors").write_bytes(b"")
        assert train(replace(cfg, steps=4, checkpoint_every=2)).weights()
    assert (whole.dir / "checkpoints" / "damaged-step-00000004").exists()


def test_killed_beginnings_do_not_block_a_name(cfg):
    (cfg.runs / "r").mkdir(parents=True)
    (cfg.runs / "r" / ".tmp-abc.json").write_text("{")  # a kill in the write of config.json
    assert train(cfg).final() and not list((cfg.runs / "r").glob(".tmp-*"))


def test_overwrite_takes_runs_alone(cfg):
    (cfg.runs / "r").mkdir(parents=True)
    (cfg.runs / "r" / "config.json").write_text('{"architectures": ["Bert"]}')  # somebody's model
    with pytest.raises(ConfigError, match="holds other files"):
        train(replace(cfg, overwrite=True))
    (cfg.runs / "r" / "config.json").write_text('{"data_path": "d", "recipe": "radgen"}')  # a run of another version
    with pytest.raises(DataError, match="another version"):
        train(cfg)
    assert train(replace(cfg, overwrite=True)).final()
