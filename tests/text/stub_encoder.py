"An encoder without a network, and stores filled with it; also imported by processes that tests start."

import hashlib
import json

import torch

from radgen.text.embedding import TextEmbedding
from radgen.text.store_writer import fill_store

WIDTH, MAX_LENGTH = 8, 6
KEY = {
    "encoder": "stub",
    "source": "stub",
    "revision": "1",
    "pooling": "mean",
    "max_length": MAX_LENGTH,
    "dtype": "bf16",
    "layout": 1,
}


def word_vector(word, place):
    "Eight numbers of a word at its place."
    digest = hashlib.sha256(f"{word} {place}".encode()).digest()
    return torch.tensor(list(digest[:WIDTH])).float()


class StubEncoder:
    "Encodes words by hashing them, writes down what it encoded, and may call a function before each batch."

    width, max_length = WIDTH, MAX_LENGTH

    def __init__(self, log=None, before=None):
        self.log, self.before, self.batches = log, before, 0

    def lengths(self, texts):
        return [len(text.split()) for text in texts]

    def __call__(self, texts):
        if self.before is not None:
            self.before(self.batches)
        self.batches += 1
        if self.log:
            with open(self.log, "a") as f:
                f.writelines(json.dumps(text) + "\n" for text in texts)
        n = [min(length, MAX_LENGTH) for length in self.lengths(texts)]
        tokens = torch.zeros(len(texts), max(n), WIDTH)
        for i, text in enumerate(texts):
            for j, word in enumerate(text.split()[:MAX_LENGTH]):
                tokens[i, j] = word_vector(word, j)
        mask = torch.arange(max(n)) < torch.tensor(n)[:, None]
        return TextEmbedding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


def captions(start, end):
    "Captions of one to seven more words."
    return [f"caption {i}" + " word" * (i % 7) for i in range(start, end)]


def encoded(log):
    "The texts that an encoder wrote down."
    return [json.loads(line) for line in open(log)]


def fill(path, texts, encoder=None):
    "A store of the stub, in parts of 16 and batches of 4."
    return fill_store(path, KEY, texts, lambda: encoder or StubEncoder(), batch_size=4, part_size=16)


def check_store(store, texts):
    "Assert that a store holds the stub's vectors of some texts."
    expected, stored = StubEncoder()(texts), store.get(store.rows(texts))
    length = expected.tokens.shape[1]
    assert torch.equal(stored.mask[:, :length], expected.mask)
    assert not stored.mask[:, length:].any()
    assert not stored.tokens[~stored.mask].any()
    assert torch.equal(stored.tokens[:, :length].float(), expected.tokens)
    assert torch.equal(stored.pooled, expected.pooled.to(torch.bfloat16))
