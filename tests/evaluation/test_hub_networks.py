"""Vision models and dual encoders that transformers saved: what they compute, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from radgen.core.errors import AssetError, ConfigError, DataError, RadgenError
from radgen.evaluation.alignment import image_text_reads
from radgen.evaluation.features import make_features
from radgen.evaluation.image_text import load_dual_encoder
from radgen.text.clip import small_clip, word_tokenizer

from evaluation_helpers import random_images

TOWER = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
VIT = dict(TOWER, image_size=16, patch_size=8)
CAPTIONS = ["chest X-ray, frontal", "CT of the head", "MRI of the knee"]


def save(folder, model, processor):
    "Write a checkpoint with random weights."
    torch.manual_seed(0)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def dino(folder, size=24):
    "A Dinov2 with the preprocessing of RAD-DINO, smaller."
    crop = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, resample=3)
    processor = BitImageProcessor(image_mean=[0.5307] * 3, image_std=[0.2583] * 3, **crop)
    return save(folder, Dinov2Model(Dinov2Config(**VIT)), processor)


def siglip(folder):
    "A SigLIP whose tokenizer knows the words of some captions."
    tokenizer = word_tokenizer(CAPTIONS)
    text = dict(TOWER, vocab_size=len(tokenizer), max_position_embeddings=16, projection_size=16)
    processor = SiglipImageProcessor(size={"height": 16, "width": 16})
    tokenizer.save_pretrained(save(folder, SiglipModel(SiglipConfig(text_config=text, vision_config=VIT)), processor))
    return folder


def convnext():
    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4))


def resnet():
    return ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))


def pooled(out):
    return out.pooler_output.flatten(1)


def class_token(out):
    return out.last_hidden_state[:, 0]


def vit_size(size):
    return ViTImageProcessor(size={"height": size, "width": size})


NETWORKS = {  # kind -> network, processor, its class without a head, and the documented vector
    "vit": (lambda: ViTModel(ViTConfig(**VIT)), vit_size(16), ViTModel, pooled),
    "vit of a classifier": (lambda: ViTForImageClassification(ViTConfig(**VIT)), vit_size(16), ViTModel, class_token),
    "convnext": (convnext, ConvNextImageProcessor(size={"shortest_edge": 40}), ConvNextModel, pooled),
    "resnet": (resnet, ConvNextImageProcessor(size={"shortest_edge": 40}), ResNetModel, pooled),
}


def theirs(folder, kind, processor, vector, images):
    "The same by transformers' own calls, on images of Pillow."
    pictures = [Image.fromarray(x).convert("RGB") for x in images]
    with torch.inference_mode():
        x = processor(images=pictures, return_tensors="pt")["pixel_values"]
        return vector(kind.from_pretrained(folder).eval()(pixel_values=x)).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_documented_vectors(name, tmp_path):
    network, processor, kind, vector = NETWORKS[name]
    folder = save(tmp_path / "net", network(), processor)
    f, x = make_features(f"hf:{folder}"), random_images(5, 20)
    assert f.name == "FD-net (not FID)" and not f.is_fid
    assert f(x, batch_size=2) == pytest.approx(theirs(folder, kind, processor, vector, x), abs=2e-4)


def test_rad_dino_is_its_class_token_at_its_own_size_and_scale(tmp_path, monkeypatch):
    folder = dino(tmp_path / "rad-dino")
    monkeypatch.setattr("radgen.evaluation.hub_networks.model_folder", lambda name, *more: folder)
    f, x = make_features("rad-dino"), random_images(4, 30)
    assert f.name == "FD-rad-dino (not FID)"
    assert "Dinov2Model of transformers, pooled output, 24 px" in f.source
    processor = BitImageProcessor.from_pretrained(folder)
    assert f(x) == pytest.approx(theirs(folder, Dinov2Model, processor, class_token, x), abs=2e-4)


def test_identity_follows_weights_and_preprocessing_and_not_the_place(tmp_path):
    one, two = dino(tmp_path / "a" / "net"), dino(tmp_path / "b" / "net")
    first = make_features(f"hf:{one}").identity
    assert make_features(f"hf:{two}").identity == first
    settings = two / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"image_mean": [0.4] * 3}))
    changed = make_features(f"hf:{two}").identity
    with torch.no_grad():
        net = Dinov2Model.from_pretrained(one)
        net.layernorm.weight.add_(1)
    net.save_pretrained(one)
    assert len({first, changed, make_features(f"hf:{one}").identity}) == 3


def test_image_vector_of_a_dual_encoder_is_taken(tmp_path):
    folder, x = siglip(tmp_path / "siglip"), random_images(3, 16)
    f, towers = make_features(f"hf:{folder}"), load_dual_encoder(str(folder))
    with torch.inference_mode():
        unit = towers.images(x).numpy()
    assert "image vector" in f.source
    assert f(x) / np.linalg.norm(f(x), axis=1, keepdims=True) == pytest.approx(unit, abs=1e-5)


def change(folder, file="config.json", **values):
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def spoilt(kind, folder):
    "A checkpoint with one mistake."
    if kind == "masked":
        return save(folder, ViTMAEModel(ViTMAEConfig(**VIT)), vit_size(16))
    dino(folder)
    weights = folder / "model.safetensors"
    if kind == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    if kind == "no weights":
        weights.unlink()
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    if kind == "no processor":
        (folder / "preprocessor_config.json").unlink()
    if kind == "damaged processor":
        change(folder, "preprocessor_config.json", image_mean="grey")
    if kind == "remote code":
        change(folder, model_type="own-net", auto_map={"AutoModel": "net.OwnNet"})
    if kind == "BioViL":
        change(folder, model_type="cxr-bert")
    if kind == "open_clip":
        (folder / "config.json").unlink()
        (folder / "open_clip_config.json").write_text("{}")
    if kind == "other sizes":
        change(folder, hidden_size=32)
    if kind == "NaN":
        net = Dinov2Model.from_pretrained(folder)
        net.layernorm.weight.data[0] = torch.nan
        net.save_pretrained(folder)
    if kind == "texts":
        change(folder, model_type="bert", vocab_size=50)
    return folder


@pytest.mark.parametrize(
    "kind, message",
    {
        "pickle": "only a pickle .pytorch_model.bin., which can run code and is never loaded: save it again",
        "no weights": "lacks model.safetensors: copy",
        "truncated": "cannot be loaded .*: copy its files again",
        "no processor": "lacks preprocessor_config.json, which states size, mean and deviation",
        "damaged processor": "image processor of .* cannot be used .*: copy",
        "remote code": "no model of type 'own-net', and code from its folder is never run: use another",
        "BioViL": "no model of transformers .package hi-ml-multimodal.*: use rad-dino",
        "open_clip": "has the format of open_clip: convert it to a CLIPModel",
        "other sizes": "tensors have other sizes than config.json says: .*: copy",
        "NaN": "holds NaN or infinity: copy",
        "texts": "tensors are missing: .*: copy",
        "masked": "draws random numbers and gives another vector each time: use another model",
    }.items(),
)
def test_checkpoints_that_cannot_be_used_are_refused_in_one_sentence(kind, message, tmp_path):
    with pytest.raises((AssetError, DataError), match=message) as error:
        make_features(f"hf:{spoilt(kind, tmp_path / 'net')}")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_absent_models_are_named_with_the_place_to_put_them(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("hf:nowhere/there", "hf:../nothing", "rad-dino"):
        with pytest.raises(RadgenError, match="no vision model at .*: give an id of the Hugging Face hub"):
            make_features(name)


def test_dual_encoders_look_for_images(tmp_path):
    x = random_images(6, 16)
    for folder in (siglip(tmp_path / "siglip"), small_clip(tmp_path / "clip", CAPTIONS)):
        found, _ = image_text_reads(x, CAPTIONS * 2, load_dual_encoder(str(folder)))
        assert found["recall_5"] == 1 or found["chance_5"] < 1
        assert -1 <= found["similarity"] <= 1


def test_a_clip_with_a_processor_uses_its_own_scale(tmp_path):
    folder, x = small_clip(tmp_path / "clip", CAPTIONS), random_images(2, 32)
    with torch.inference_mode():
        plain = load_dual_encoder(str(folder)).images(x)
        size = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        CLIPImageProcessor(**size).save_pretrained(folder)
        same = load_dual_encoder(str(folder)).images(x)
        CLIPImageProcessor(image_mean=[0.1] * 3, **size).save_pretrained(folder)
        other = load_dual_encoder(str(folder)).images(x)
    assert same.numpy() == pytest.approx(plain.numpy(), abs=1e-5)
    assert np.abs(other.numpy() - plain.numpy()).max() > 1e-3


def test_models_without_both_towers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--clip .*net is a Dinov2Model, which has no towers"):
        load_dual_encoder(str(dino(tmp_path / "net")))
    with pytest.raises(RadgenError, match="no image-text model at nowhere"):
        load_dual_encoder("nowhere")
