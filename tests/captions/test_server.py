"The backend for servers, against a server with every fault we could think of, and a real one on the loopback."

import asyncio
import json
import queue
import socket
import threading
import time

import pytest

from llm_stub import (
    SCHEMA,
    Stub,
    chats,
    ollama,
    openai_newer,
    refusal,
    said,
    strict,
    vague,
    vllm,
    vllm_without_parser,
)
from radgen.captions.backends import MAX_NEW_TOKENS
from radgen.captions.protocol import LIMITS, REASONING_TOKENS
from radgen.captions.server import OpenAIServer
from radgen.core.assets import fetch_asset
from radgen.core.errors import ConfigError


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    s = Stub()
    yield s
    s.shutdown()
    s.server_close()


def connect(stub, **options):
    return OpenAIServer(f"{stub.base}#m", **({"retries": 2} | options))


def test_complete_sends_schema_and_greedy_options(stub):
    llm = connect(stub)
    assert dict(llm.complete(chats("one", "two"), [SCHEMA] * 2)) == {0: "answer to one", 1: "answer to two"}
    body, headers = stub.seen[0][1:3]
    schema = {**SCHEMA, "required": ["condition"], "additionalProperties": False}
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("m", 0, 0, 2 * MAX_NEW_TOKENS)
    assert body["messages"][0]["role"] == "system"
    assert headers["authorization"] == "Bearer none"
    assert llm.structured
    assert not llm.failures
    assert dict(llm.complete(chats("three"))) == {0: "answer to three"}
    assert "response_format" not in stub.seen[-1][1]


@pytest.mark.parametrize(
    "word, times, reason",
    [
        ("always", 3, "HTTP 500: out of memory"),
        ("hour", 1, "HTTP 429: quota"),
        ("bad", 1, "HTTP 400: context too long"),
        ("html", 1, "not an answer"),
        ("truncated", 1, "not an answer"),
        ("shape", 1, "not an answer"),
        ("nochoice", 1, "not an answer"),
        ("null", 1, "not an answer"),
        ("cut", 3, "broken connection"),
        ("drip", 1, "timeout"),
    ],
)
def test_complete_failure_is_counted_and_disturbs_no_other(stub, word, times, reason):
    llm, began = connect(stub, deadline=2.5), time.monotonic()
    expected = {0: "answer to good", 1: None, 2: "answer to fine"}
    assert dict(llm.complete(chats("good", word, "fine"), [SCHEMA] * 3)) == expected
    assert stub.count(word) == times or reason == "HTTP 429: quota"
    assert dict(llm.failures) == {reason: 1}
    assert time.monotonic() - began < 4.5


def test_complete_silent_server_times_out(stub):
    llm, began = connect(stub, timeout=0.5, retries=1), time.monotonic()
    assert dict(llm.complete(chats("slow", "good"))) == {0: None, 1: "answer to good"}
    assert dict(llm.failures) == {"timeout": 1}
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "word, text", [("empty", ""), ("length", ""), ("long", ""), ("surrogate", "a?b"), ("zip", "answer to zip")]
)
def test_complete_unusual_text_is_no_failure(stub, word, text):
    llm = connect(stub)
    assert dict(llm.complete(chats(word))) == {0: text}
    assert not llm.failures


def test_complete_busy_server_is_retried_after_its_pause(stub):
    llm = connect(stub)
    assert dict(llm.complete(chats("busy", "once"))) == {0: "answer to busy", 1: "answer to once"}
    assert not llm.failures
    at = [t for word, *_, t in stub.seen if word == "busy"]
    assert len(at) == 3
    assert all(0.38 < later - earlier < 2 for earlier, later in zip(at, at[1:]))  # Retry-After is 0.4
    assert stub.count("once") == 2


def test_complete_deadline_covers_retries(stub):
    llm, began = connect(stub, retries=50, deadline=1.2), time.monotonic()
    assert dict(llm.complete(chats("always", "good"))) == {0: None, 1: "answer to good"}
    assert dict(llm.failures) == {"timeout": 1}
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("n", [1, 4])
def test_concurrency_is_bounded_and_used(stub, n):
    stub.barrier = threading.Barrier(n)  # the stub answers nobody before so many are there
    llm = connect(stub, concurrency=n)
    assert len(dict(llm.complete(chats(*map(str, range(16)))))) == 16
    assert stub.most == n


def test_concurrency_from_the_environment(stub, monkeypatch):
    monkeypatch.setenv("RADGEN_LLM_CONCURRENCY", "3")
    assert connect(stub).connection.concurrency == 3
    for wrong in ("0", "many", "-1", "5000"):
        monkeypatch.setenv("RADGEN_LLM_CONCURRENCY", wrong)
        with pytest.raises(ConfigError, match="whole number from 1 to 1000"):
            connect(stub)


def test_complete_rejected_schema_is_not_sent_again(stub):
    stub.rejects_schemas = True
    llm = connect(stub, concurrency=1)
    texts = dict(llm.complete(chats("a", "b", "c"), [SCHEMA] * 3))
    assert texts == {0: "answer to a", 1: "answer to b", 2: "answer to c"}
    assert ["response_format" in body for _, body, *_ in stub.seen] == [True, False, False, False]
    assert not llm.structured
    assert not llm.failures


@pytest.mark.parametrize("kind", [ollama, vllm, vllm_without_parser])
def test_reasoning_model_gets_a_larger_limit_once(stub, kind):
    stub.kind = kind
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("a", "b"))) == {0: "answer to a", 1: "answer to b"}
    limits = [body["max_tokens"] for _, body, *_ in stub.seen]
    assert limits == [MAX_NEW_TOKENS, REASONING_TOKENS, REASONING_TOKENS]
    assert not llm.failures


def test_reasoning_without_an_answer_is_a_failure(stub):
    stub.kind = lambda body, answer: (200, said("<think>so and so", "length"))
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("a", "b"))) == {0: None, 1: None}
    assert dict(llm.failures) == {"reasoning without an answer": 2}
    assert len(stub.seen) == 3


def test_reasoning_beyond_the_context_is_left_to_the_server(stub):
    def small(body, answer):
        limits = [body[name] for name in LIMITS if name in body]
        if limits and limits[0] > 1000:
            return refusal(f"max_tokens or max_completion_tokens is too large: {limits[0]}.", "max_tokens")
        return ollama(body, answer)

    stub.kind = small
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("a", "b"))) == {0: "answer to a", 1: "answer to b"}
    assert not stub.seen[-1][1].keys() & {*LIMITS}


def test_newer_models_of_openai(stub):
    stub.kind = openai_newer
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("a", "b", "c"), [SCHEMA] * 3)) == {i: f"answer to {w}" for i, w in enumerate("abc")}
    assert len(stub.seen) == 3 + 3  # two parameters and the limit, once
    body = stub.seen[-1][1]
    assert body.keys() == {"model", "messages", "seed", "max_completion_tokens", "response_format"}
    assert body["max_completion_tokens"] == REASONING_TOKENS
    assert llm.structured
    assert not llm.failures


@pytest.mark.parametrize("kind, more", [(strict, 1), (vague, 2)])
def test_strict_servers(stub, kind, more):
    stub.kind = kind
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("a", "b"), [SCHEMA] * 2)) == {0: "answer to a", 1: "answer to b"}
    assert len(stub.seen) == 2 + more
    assert stub.seen[-1][1].keys() == {"model", "messages", "temperature", "max_tokens"}
    assert stub.seen[-1][1]["max_tokens"] == 2 * MAX_NEW_TOKENS  # the answer is still JSON
    assert not llm.structured
    assert not llm.failures


def test_many_requests_learn_at_once(stub):
    stub.kind = openai_newer
    llm = connect(stub, concurrency=16)
    words = list(map(str, range(60)))
    assert dict(llm.complete(chats(*words))) == {i: f"answer to {w}" for i, w in enumerate(words)}
    assert len(stub.seen) <= 60 + 3 * 16


def test_parameter_that_is_not_the_cause_is_sent_again(stub):
    def fussy(body, answer):
        if "hot" in answer:
            return refusal("The temperature of the patient is no image.")
        return 200, said(answer)

    stub.kind = fussy
    llm = connect(stub, concurrency=1)
    assert dict(llm.complete(chats("hot", "cold"))) == {0: None, 1: "answer to cold"}
    assert dict(llm.failures) == {"HTTP 400: The temperature of the patient is no image.": 1}
    assert stub.seen[-1][1]["temperature"] == 0


def test_failure_quotes_the_server_without_the_key(stub, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-geheim-123")
    stub.kind = lambda body, answer: refusal(f"no credit \x1b[31m for sk-geheim-123; {answer}; " + "more " * 500)
    llm = connect(stub, retries=0)
    dict(llm.complete(chats("1", "2", "3")))
    [reason] = llm.failures  # they differ in a number alone
    assert reason.startswith("HTTP 400: no credit [31m for ***; answer to ")
    assert len(reason) <= 220
    assert reason.isprintable()
    assert llm.failures[reason] == 3


@pytest.mark.parametrize("position", range(150, 202, 7))
def test_failure_shortened_within_the_key_does_not_show_its_beginning(stub, monkeypatch, position):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-geheim-123")
    stub.kind = lambda body, answer: refusal("x" * position + "sk-geheim-123")
    llm = connect(stub, retries=0)
    dict(llm.complete(chats("1")))
    assert "sk-" not in "".join(llm.failures)


def test_server_down_at_start_gives_one_sentence():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # a port that nobody listens at
        base = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
    with pytest.raises(ConfigError, match=f"no server answers at {base} .*--llm smollm2"):
        OpenAIServer(f"{base}#m", retries=1)


def test_server_that_dies_keeps_every_answer(stub):
    stub.latency = 0.01
    llm, texts, began = connect(stub, concurrency=4), {}, time.monotonic()
    llm.patience = 10**9  # so that the refused connection decides
    for i, text in llm.complete(chats(*map(str, range(3000)))):
        texts[i] = text
        if len(texts) == 20:
            stub.die()
    answered = sum(text is not None for text in texts.values())
    assert len(texts) == 3000
    assert 20 <= answered < 200
    assert llm.failures["not asked"] > 2700
    assert sum(llm.failures.values()) == 3000 - answered
    assert time.monotonic() - began < 8


def test_server_that_only_fails_is_left(stub):
    llm = connect(stub, concurrency=2, retries=0)
    assert llm.patience == 8
    texts = dict(llm.complete(chats(*["always"] * 100)))
    assert texts == {i: None for i in range(100)}
    assert 8 <= stub.count("always") <= 10
    assert llm.failures["HTTP 500: out of memory"] + llm.failures["not asked"] == 100


def test_server_that_succeeds_now_and_then_is_not_left(stub):
    llm = connect(stub, concurrency=1, retries=0)  # never eight failures in a row
    texts = dict(llm.complete(chats(*[*["always"] * 6, "good"] * 3)))
    assert list(texts.values()).count("answer to good") == 3


@pytest.mark.parametrize("n, patience", [(1, 8), (10, 30), (100, 100)])
def test_patience_follows_concurrency(stub, n, patience):
    assert connect(stub, concurrency=n).patience == patience


def test_requests_in_flight_are_cancelled_when_the_server_is_left(stub):
    llm, began = connect(stub, concurrency=4, retries=0), time.monotonic()
    llm.patience = 2
    assert set(dict(llm.complete(chats("drip", "drip", *["always"] * 20))).values()) == {None}
    assert time.monotonic() - began < 3


def test_complete_inside_a_running_loop(stub):
    async def notebook():
        return dict(connect(stub).complete(chats("one")))

    assert asyncio.run(notebook()) == {0: "answer to one"}


def threads():
    return [t for t in threading.enumerate() if t.name == "radgen-llm"]


def test_complete_closed_early_cancels_what_is_in_flight(stub):
    stub.latency = 0.05
    texts, began = connect(stub, concurrency=4).complete(chats("drip", *map(str, range(500)))), time.monotonic()
    next(texts)
    texts.close()
    assert time.monotonic() - began < 2
    assert not threads()
    time.sleep(0.2)  # until the server has noted what was in flight
    n = len(stub.seen)
    time.sleep(0.3)
    assert len(stub.seen) == n
    assert n < 20


def test_complete_interrupted_leaves_no_thread(stub, monkeypatch):
    llm = connect(stub)

    class Queue(queue.Queue):
        def get(self):
            time.sleep(0.2)
            raise KeyboardInterrupt

    monkeypatch.setattr("radgen.captions.server.queue.Queue", Queue)
    with pytest.raises(KeyboardInterrupt):
        next(llm.complete(chats("drip")))
    assert not threads()


def test_complete_own_errors_are_raised(stub, monkeypatch):
    def broken(*a):
        raise ZeroDivisionError

    llm = connect(stub)
    monkeypatch.setattr("radgen.captions.server.response_text", broken)
    with pytest.raises(ZeroDivisionError):
        dict(llm.complete(chats("one", "two")))


def test_look_up_unknown_model_lists_some(stub):
    stub.lists["/v1/models"] = (200, {"data": [{"id": f"model-{i:02}"} for i in range(15)]})
    with pytest.raises(ConfigError, match="has no model 'm': it has model-00, .*model-11 and 3 more.*ollama pull m"):
        connect(stub)
    stub.lists["/v1/models"] = (200, {"data": []})
    with pytest.raises(ConfigError, match="it has none yet"):
        connect(stub)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"data": 3}', b"[" * 100000, b""])
def test_look_up_something_else_than_a_server(stub, body):
    stub.lists["/v1/models"] = (200, body)
    with pytest.raises(ConfigError, match="is no language model server: does the address end in /v1"):
        connect(stub)


@pytest.mark.parametrize("code", [401, 403])
def test_key_is_wanted(stub, code):
    stub.lists["/v1/models"] = (code, {"error": {"message": "who are you"}})
    with pytest.raises(ConfigError, match=f"wants a key .HTTP {code}.: set OPENAI_API_KEY"):
        connect(stub)
    stub.lists["/v1/models"], stub.locked = (200, {"data": [{"id": "m"}]}), code
    with pytest.raises(ConfigError, match=f"wants a key .HTTP {code}.: set OPENAI_API_KEY"):
        dict(connect(stub).complete(chats("one")))


def test_key_is_sent_and_not_shown(stub, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-geheim-123 ")
    llm = connect(stub)
    dict(llm.complete(chats("one")))
    assert stub.seen[0][2]["authorization"] == "Bearer sk-geheim-123"
    assert stub.gets[0][1]["authorization"] == "Bearer sk-geheim-123"
    assert "geheim" not in llm.key + repr(llm)
    stub.lists["/v1/models"] = (500, {"error": {"message": "key sk-geheim-123 failed"}})
    with pytest.raises(ConfigError, match=r"is not well .HTTP 500.*\*\*\*.*look at its log") as error:
        connect(stub, retries=0)
    assert "geheim" not in str(error.value) + "".join(capsys.readouterr())
    for wrong in ("a\nb", "schlüssel", "a b"):
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters"):
            connect(stub)


def test_server_without_a_list_is_unversioned(stub):
    stub.lists = {}
    llm = connect(stub)
    assert llm.key == f"openai:m:unversioned:{stub.base}"
    assert dict(llm.complete(chats("one"))) == {0: "answer to one"}
    stub.locked = 404
    with pytest.raises(ConfigError, match="does not know the model 'm' or the address .*does the address end in /v1"):
        dict(connect(stub).complete(chats("one")))


@pytest.fixture
def other():
    s = Stub()
    yield s
    s.shutdown()
    s.server_close()


def test_key_identifies_the_model_and_not_the_server(stub, other):
    assert connect(stub).key != connect(other).key  # nothing but a name: perhaps two models
    for s, created in ((stub, 1), (other, 2)):
        entry = {"id": "m", "created": created, "owned_by": "vllm", "root": "org/model"}
        s.lists["/v1/models"] = (200, {"data": [entry | {"permission": [{"id": created}]}]})
    assert connect(stub).key == connect(other).key
    other.lists["/v1/models"][1]["data"][0]["root"] = "org/model-2"
    assert connect(stub).key != connect(other).key


def test_key_of_ollama_is_its_digest(stub, other):
    def ollama(s, digest):
        s.lists["/v1/models"] = (200, {"data": [{"id": "m:latest", "owned_by": "library"}]})
        s.lists["/api/tags"] = (200, {"models": [{"name": "m:latest", "digest": digest}]})

    ollama(stub, "a" * 64)
    ollama(other, "a" * 64)
    assert connect(stub).key == connect(other).key == f"openai:m:latest:{'a' * 16}"
    assert connect(stub).model == "m:latest"
    ollama(other, "b" * 64)
    assert connect(stub).key != connect(other).key
    for tags in ((200, b"["), (500, {}), (200, {"models": [{"name": "m:latest", "digest": ""}, 3]}), (200, [])):
        stub.lists["/api/tags"] = tags
        assert connect(stub, retries=0).key.endswith(stub.base)


def test_proxy_is_not_used_on_this_machine(stub, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert dict(connect(stub).complete(chats("one"))) == {0: "answer to one"}
    with pytest.raises(ConfigError, match="no server answers at http://llm.example.org/v1"):
        OpenAIServer("http://llm.example.org/v1#m", retries=0)  # nothing listens at the proxy
    monkeypatch.setenv("http_proxy", "gopher://x")
    with pytest.raises(ConfigError, match="proxy that the environment names"):
        OpenAIServer("http://llm.example.org/v1#m")


@pytest.mark.soak
def test_real_server_keeps_to_the_schema():
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(fetch_asset("smollm2")), {"smollm2"}
    params.port, params.n_ctx, params.n_parallel, params.verbosity = 0, 4096, 4, 0
    server = xllamacpp.Server(params)
    llm = OpenAIServer(f"{server.listening_address}/v1#smollm2")
    properties = {
        "view": {"type": "string", "enum": ["axial", "lateral"]},
        "condition": {"type": "string", "maxLength": 60},
    }
    schema = {"type": "object", "properties": properties}
    texts = dict(llm.complete(chats("Axial CT with a nodule", "Lateral radiograph with a fracture"), [schema] * 2))
    assert llm.structured
    assert not llm.failures
    assert ":http" not in llm.key
    for text in texts.values():
        answer = json.loads(text)
        assert set(answer) == {"view", "condition"}
        assert answer["view"] in ("axial", "lateral")
        assert len(answer["condition"]) <= 60
    with pytest.raises(ConfigError, match="has no model 'llama3': it has smollm2"):
        OpenAIServer(f"{server.listening_address}/v1#llama3")
