"""Image metadata and the model card: what they say, and what hostile text cannot do to them."""

import math
import re
from pathlib import Path

import mistune
import pytest
import torch
from huggingface_hub import ModelCard

from radgen.core.errors import ConfigError
from radgen.diffusion.card import LICENCES, model_card, weights_fingerprint
from radgen.networks.registry import make_denoiser

nan = math.nan
# sha256 of the name, "torch.float32", "(3,)" and the bytes of 1.0, 0.5, -3.0, worked out with hashlib alone
WORKED = "3759d64e5dc162557f364ea708e818145f0b56746cb364262e939262ae92e7ca"


def tiny():
    "A tiny network with fixed weights."
    torch.manual_seed(0)
    return make_denoiser("UNet", "paper", "tiny", 16, text_dim=24)


def test_fingerprint_is_of_the_weights():
    a, b = tiny(), tiny()
    of_a = weights_fingerprint(a.state_dict())
    assert len(of_a) == 64
    assert weights_fingerprint(b.state_dict()) == of_a
    with torch.no_grad():
        next(b.parameters()).view(-1)[0] += 1e-6
    assert weights_fingerprint(b.state_dict()) != of_a
    assert weights_fingerprint(a.to(memory_format=torch.channels_last).state_dict()) == of_a


def test_fingerprint_takes_scalars_empty_tensors_and_16_bits():
    state = {"s": torch.tensor(1.0), "h": torch.zeros(3, dtype=torch.bfloat16), "e": torch.zeros(0)}
    assert weights_fingerprint(state) != weights_fingerprint({**state, "s": torch.tensor(2.0)})


def test_fingerprint_does_not_depend_on_the_number_type():
    state = {"w": torch.tensor([1.0, 0.5, -3.0]), "n": torch.tensor([1, 2])}  # exact in 16 bits
    expected = weights_fingerprint(state)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert weights_fingerprint({**state, "w": state["w"].to(dtype)}) == expected
    assert weights_fingerprint({**state, "n": state["n"].to(torch.int32)}) != expected
    assert weights_fingerprint({"w": state["w"]}) == WORKED


def test_card_says_how_many_processes_trained():
    assert "| processes that trained together | 4 |" in model_card({"processes": 4})
    assert "processes" not in model_card({})


page = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url"])
HOSTILE = [
    "|x|<script>alert(1)</script>",
    "a\n\n# b\n---\n",
    "`code` **b** [l](javascript:x) ![i](http://x)",
    "<img src=x onerror=y>",
    "\u202eabc\u200b",
    "```\n",
    "---\nlicense: mit\n---",
    "\\|",
    "x" * 5000,
    "",
    "&lt;script&gt;",
    "<!--",
]


def about_with(text):
    "Every field with this text."
    return dict(
        name=text,
        data=text,
        images=3,
        concepts={"C1": text, text or "C2": "name"},
        recipe=text,
        options={text or "o": text},
        text_encoder=text,
        llm=text,
        scores={text or "s": text},
        licence=text,
        stand_ins=[text],
    )


def tags(card):
    "The HTML tags of a card as the hub shows it."
    return re.findall(r"</?[a-z0-9]+", page(card.text))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_card_is_not_broken_by_what_it_says(text):
    card, calm = ModelCard(model_card(about_with(text))), ModelCard(model_card(about_with("calm")))
    assert tags(card) == tags(calm)  # the same structure, whatever the words
    assert not set(card.text) & {"\u202e", "\u200b"}
    assert card.data.license == "other"
    assert max(map(len, card.text.splitlines())) < 2000


def test_a_card_of_nothing_is_sensible():
    card = ModelCard(model_card({}))
    assert (
        card.data.to_dict()["license"] == "unknown"
        and card.data.pipeline_tag == "text-to-image"
        and "not-for-diagnosis" in card.data.tags
    )
    for says in ("not for diagnosis", "not recorded", "It has not been evaluated", "## Intended use", "## Limits"):
        assert says in card.text
    assert "None" not in card.text and "{}" not in card.text and "null" not in card.text
    assert model_card({"name": None, "scores": {}}) == model_card({})


def test_licences_of_known_data():
    assert [ModelCard(model_card({"licence": v})).data.license for v in LICENCES.values()] == [
        "apache-2.0",
        "cc-by-nc-sa-4.0",
    ]


@pytest.mark.parametrize(
    "about",
    [
        {"autor": "x"},
        {"images": "3"},
        {"images": True},
        {"scores": {"FID": nan}},
        {"options": {"out": Path("x")}},
        {"stand_ins": "x"},
        {"concepts": {1: "a", "b": "c"}},
    ],
    ids=str,
)
def test_about_of_another_form_is_refused(about):
    with pytest.raises(ConfigError):
        model_card(about)
