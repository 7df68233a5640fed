"The batch of embeddings: its check, and where the check looks at no values."

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.core.errors import ConfigError
from radgen.text.embedding import TextEmbedding


def text(batch=3, length=5, width=8):
    mask = torch.ones(batch, length, dtype=torch.bool)
    return TextEmbedding(torch.randn(batch, length, width), mask, torch.randn(batch, width))


def with_empty_row():
    embedding = text()
    embedding.mask[2] = False
    return embedding


@pytest.mark.parametrize("batch, length", [(3, 5), (1, 1)])
def test_check_accepts_a_whole_batch(batch, length):
    assert text(batch, length).check(8) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda t: dict(tokens=t.tokens[..., :4]), "4 wide.*made for 8"),
        (lambda t: dict(tokens=t.tokens[0]), r"\(5, 8\)"),
        (lambda t: dict(mask=t.mask.long()), "torch.int64"),
        (lambda t: dict(mask=t.mask[:2]), r"mask has the shape \(2, 5\)"),
        (lambda t: dict(mask=t.mask[:, :1]), r"\(3, 1\)"),
        (lambda t: dict(pooled=t.pooled[:, :4]), r"\(3, 4\)"),
        (lambda t: dict(pooled=t.pooled[:1]), r"\(1, 8\)"),
    ],
)
def test_check_names_the_fault(changes, message):
    with pytest.raises(ConfigError, match=message):
        text()._replace(**changes(text())).check(8)


def test_check_names_an_empty_row():
    with pytest.raises(ConfigError, match="row 2 of the text's mask"):
        with_empty_row().check(8)


def test_check_in_a_compiled_function_looks_at_shapes_alone():
    def double(t):
        t.check(8)
        return t.pooled * 2

    compiled = torch.compile(double, fullgraph=True, backend="eager")
    empty = with_empty_row()
    assert torch.equal(compiled(empty), empty.pooled * 2)
    with pytest.raises(Exception, match="made for 8"):
        compiled(text(width=4))


def test_check_looks_at_no_values_of_other_devices():
    with_empty_row().to("meta").check(8)
    with FakeTensorMode() as mode:
        TextEmbedding(*map(mode.from_tensor, with_empty_row())).check(8)
        with torch.device("cuda"):
            text().check(8)


def test_to_casts_vectors_and_not_the_mask():
    half = text().to(torch.float16)
    assert (half.tokens.dtype, half.mask.dtype, half.pooled.dtype) == (torch.float16, torch.bool, torch.float16)
    assert text()[1:].tokens.shape == (2, 5, 8)


def test_to_moves_first_and_casts_on_the_device(monkeypatch):
    "So that 16 bits travel to the GPU."
    calls, to = [], torch.Tensor.to

    def recorded(self, *args, **kwargs):
        calls.append((self.device.type, self.dtype, args))
        return to(self, *args, **kwargs)

    stored = text().to(torch.bfloat16)
    monkeypatch.setattr(torch.Tensor, "to", recorded)
    moved = stored.to("meta", torch.float32)
    assert {x.device.type for x in moved} == {"meta"}
    assert [x.dtype for x in moved] == [torch.float32, torch.bool, torch.float32]
    assert calls[:3] == [("cpu", d, ("meta",)) for d in (torch.bfloat16, torch.bool, torch.bfloat16)]
    assert calls[3:] == [("meta", torch.bfloat16, (torch.float32,))] * 2


def test_to_takes_the_type_by_name_and_passes_other_options_on():
    assert text().to("cpu", dtype=torch.float16, non_blocking=True).pooled.dtype == torch.float16
    assert text().to(dtype=torch.bfloat16).tokens.dtype == torch.bfloat16
    assert text().to("meta").mask.device.type == "meta"
