"Counts of tokens, and the share of captions that an encoder cuts."

import numpy as np
import pandas as pd
import pytest

from radgen.core.errors import AssetError, ConfigError
from radgen.text.token_counts import TokenCounter, cut_captions, cut_prompts, truncation


def test_token_counter_counts_as_the_encoder(minilm):
    count = TokenCounter("minilm")
    texts = ["lung " * n for n in (1, 62, 100)] + [""]
    assert count(texts).tolist() == minilm.lengths(texts)
    assert count.limit == minilm.tokenizer.model_max_length


def test_token_counter_refuses_what_is_no_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match="no text encoder is called 'bert'.*radbert, clip, minilm"):
        TokenCounter("bert")
    with pytest.raises(AssetError, match="lacks config.json, a tokenizer: .*--encoder minilm"):
        TokenCounter(str(tmp_path))


def test_truncation_counts_each_caption_mode():
    table = pd.DataFrame({"caption": ["lung " * 70, "lung"], "cuis": [[], []], "transformed": ["a", "b"]})
    lost = truncation(table, {}, TokenCounter("minilm")).set_index("mode")
    assert lost.cut.to_dict() == {0: 0.5, 1: 0.5, 2: 0.0, 3: 0.5}


def test_cut_captions_are_counted_in_one_line():
    lengths = np.array([3, 64, 65, 1103])
    line = cut_captions(lengths, 64)
    assert line == "2 of 4 captions are cut at 64 tokens (--max-length), the longest has 1,103 tokens."
    assert cut_captions(lengths[:2], 64) == ""


def test_cut_tokens_of_prompts_are_counted():
    one = cut_prompts([103], 64)
    assert one.startswith("the prompt has 103 tokens and the text encoder reads 64: the last 39 are cut. Shorten it,")
    several = cut_prompts([103, 64, 70], 64)
    assert several.startswith(
        "2 of 3 prompts have more than the 64 tokens that the text encoder reads: 45 tokens are cut"
    )
    assert "of the longest prompt 39 of 103. Shorten them," in several
    assert "\n" not in several
    assert cut_prompts([64, 3], 64) == ""


def test_an_encoder_that_reads_no_more_is_not_asked_to():
    line = cut_captions(np.array([3, 80]), 77, fixed=True)
    assert line == "1 of 2 captions are cut at 77 tokens (all that this text encoder reads), the longest has 80 tokens."
    for lengths in ([80], [80, 90]):
        note = cut_prompts(lengths, 77, fixed=True)
        assert "--max-length" not in note
        assert "the text encoder of this pipeline reads 77 in any case." in note
