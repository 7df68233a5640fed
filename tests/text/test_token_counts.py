"Counts of tokens, and the share of captions that an encoder cuts."

import pandas as pd
import pytest

from radgen.core.errors import AssetError, ConfigError
from radgen.text.token_counts import TokenCounter, truncation


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
