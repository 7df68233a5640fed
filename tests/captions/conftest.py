"Shared by the tests of captions: a random language model made on the spot."

import pytest

TEXTS = [
    "Chest CT with nodule in the right lung",
    "effusion",
    "mass in the left lung and effusion and mass",
    "nodule " * 12,
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    "A folder with a random llama, a word tokenizer and a chat template that knows no system."
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<unk>", "<end>", "<turn>", "user", "assistant", "system"]
    known = {word for text in TEXTS for word in text.split()} | {f"w{i}" for i in range(20)}
    words = special + sorted(known | set("Write the finding .".split()))
    tok = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<end>",
        additional_special_tokens=["<turn>"],
    )
    turn = "<turn> {{ m.role }} {{ m.content }} <turn> "
    fast.chat_template = "{% for m in messages %}" + turn + "{% endfor %}<turn> assistant"
    folder = tmp_path_factory.mktemp("tiny")
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=200,
        initializer_range=0.6,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
