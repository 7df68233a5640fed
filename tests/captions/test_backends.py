"What all registered LLM backends share, and names that are none."

import pytest

from llm_stub import SCHEMA, Stub, chats
from radgen.captions.backends import backend
from radgen.captions.config import BACKENDS, parse_llm
from radgen.core.errors import ConfigError


@pytest.mark.parametrize(
    "name", ["", "gpt", "hf:", "gguf:", "openai:", "ollama:llama3", "rules:x", "rules:", "smollm3"]
)
def test_backend_unknown_name_lists_the_choices(name):
    forms = "choose one of rules, smollm2, hf:<hub name or folder>, gguf:<file>, openai:<base url>#<model>"
    with pytest.raises(ConfigError, match=forms):
        backend(name)


def test_backend_rules_is_no_model():
    assert backend("rules") is None


@pytest.fixture(params=list(BACKENDS))
def llm(request, tiny_model, tmp_path, monkeypatch):
    "Every registered backend, opened."
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    stub = Stub()
    values = {"hf": f"hf:{tiny_model}", "openai": f"openai:{stub.base}#m"}
    name = values.get(request.param.partition(":")[0])
    if name is None:
        pytest.skip("no model, or a large file; test_local.py has SmolLM2")
    assert parse_llm(name)[0] == request.param
    yield backend(name, "cpu")
    stub.die()


def test_every_backend_completes_each_chat_once(llm):
    assert llm.key
    assert llm.structured in (True, False)
    completed = list(llm.complete(chats("nodule", "effusion", "nodule"), [SCHEMA] * 3))
    assert sorted(i for i, _ in completed) == [0, 1, 2]
    assert all(isinstance(text, str) for _, text in completed)
    assert dict(completed)[0] == dict(completed)[2]
    assert sum(llm.failures.values()) == 0
    assert list(llm.complete([], [])) == []
