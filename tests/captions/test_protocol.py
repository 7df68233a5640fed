"Addresses of servers that cannot be used, which server is on this machine, what its errors and responses say."

import json

import pytest

from radgen.captions.backends import MAX_NEW_TOKENS, backend
from radgen.captions.protocol import (
    REASONING_TOKENS,
    Dialect,
    NoResponse,
    OnlyReasoning,
    is_local,
    one_line,
    refused_parameters,
    request_body,
    response_text,
    server_message,
)
from radgen.core.errors import ConfigError


@pytest.mark.parametrize(
    "where, what",
    [
        ("http://h/v1", "does not say which model"),
        ("http://h/v1# ", "does not say which model"),
        ("h:1/v1#m", "is no address"),
        ("ftp://h/v1#m", "is no address"),
        ("http://#m", "is no address"),
        ("http://[::1/v1#m", "is no address"),
        ("http://h:99999/v1#m", "is no address"),
        ("http://a b/v1#m", "is no address"),
        ("http://h/v1?k=1#m", "is no address"),
        ("#m", "is no address"),
    ],
)
def test_parse_server_unusable_address_gives_an_example(where, what):
    with pytest.raises(ConfigError, match=f"{what}.*openai:http://127.0.0.1:11434/v1#llama3"):
        backend(f"openai:{where}")


def test_parse_server_password_is_not_shown():
    with pytest.raises(ConfigError, match="the address of h holds a password") as error:
        backend("openai:http://user:geheim@h/v1#m")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/v1", "http://[::1]:1/v1", "http://127.8.0.1/v1", "http://a.localhost"]
)
def test_is_local_loopback(url):
    assert is_local(url)


@pytest.mark.parametrize("url", ["http://llm.example.org/v1", "http://10.0.0.1/v1", "http://notlocalhost/v1"])
def test_is_local_other_machines(url):
    assert not is_local(url)


CHAT = [{"role": "user", "content": "Hip X-ray"}]
SENT = request_body("m", CHAT, {"type": "object"})


def test_request_body_without_a_dialect():
    assert list(SENT) == ["model", "messages", "temperature", "seed", "max_tokens", "response_format"]
    assert SENT["max_tokens"] == 2 * MAX_NEW_TOKENS


def test_request_body_leaves_out_what_is_refused():
    refused = frozenset({"max_tokens", "temperature", "response_format"})
    body = request_body("m", CHAT, {"type": "object"}, Dialect(refused))
    assert body == {"model": "m", "messages": CHAT, "seed": 0, "max_completion_tokens": 2 * MAX_NEW_TOKENS}
    body = request_body("m", CHAT, {"type": "object"}, Dialect(refused | {"max_completion_tokens", "seed"}))
    assert body == {"model": "m", "messages": CHAT}


def test_request_body_gives_reasoning_room():
    assert request_body("m", CHAT, None, Dialect(reasoning=True))["max_tokens"] == REASONING_TOKENS


def pydantic(*places):
    return {
        "detail": [
            {"loc": ["body", *place], "msg": "Extra inputs are not permitted", "input": SENT} for place in places
        ]
    }


@pytest.mark.parametrize(
    "error, refused",
    [
        ({"message": "Unsupported value.", "param": "temperature"}, {"temperature"}),
        ({"message": "Use 'max_completion_tokens', not max_tokens."}, {"max_tokens"}),
        ({"message": "Invalid schema for response_format 'answer'", "param": None}, {"response_format"}),
        ({"message": "structured outputs are not supported"}, {"response_format"}),
        (pydantic(["seed"], ["response_format"]), {"seed", "response_format"}),
        ({"object": "error", "message": pydantic(["seed"])}, {"seed"}),
        ([{"error": {"message": 'Invalid JSON payload received. Unknown name "seed"'}}], {"seed"}),
        ("Unknown parameter: response_format", {"response_format"}),
        ({"error": "unknown field"}, {"seed"}),
        ("Unprocessable Entity", {"seed"}),
        (None, {"seed"}),
        ({"message": "Unknown role in messages", "param": "messages"}, set()),
        ("context too long", set()),
        ({"message": "'max_tokens' is too large: 192. The maximum context length is 128 tokens."}, set()),
        ("unexpected input: the prompt exceeds the context window", set()),
        ({"message": 3, "detail": {"msg": ["the model is loading"]}}, set()),
    ],
)
def test_refused_parameters(error, refused):
    assert refused_parameters(SENT, error) == refused


def test_refused_parameters_one_after_the_other_where_none_is_named():
    body, names = dict(SENT), []
    while refused := refused_parameters(body, "unknown field"):
        names += refused
        body = {name: value for name, value in body.items() if name not in refused}
    assert names == ["seed", "response_format", "temperature", "max_tokens"]


def test_refused_parameters_limit_for_reasoning_may_be_too_large():
    body = request_body("m", CHAT, None, Dialect(reasoning=True))
    assert refused_parameters(body, "max_tokens is too large: 4096. The context length is 2048.") == {"max_tokens"}


def test_server_message_ignores_what_is_repeated_of_the_request():
    assert server_message(pydantic(["seed"])) == "seed: Extra inputs are not permitted"
    assert server_message("<html><body>Bad\ngateway</body></html>").split() == ["Bad", "gateway"]
    assert server_message({"a": {"b": 1}}) == server_message(None) == server_message([[[[[[["deep"]]]]]]]) == ""


def test_one_line_is_short_and_printable():
    assert one_line("a\x1b[31m\n b\u200b\x00") == "a [31m b"
    assert one_line("x" * 500, 10) == "xxxxxxxxx…"


def response(content, why="stop", **beside):
    return json.dumps({"choices": [{"message": {"content": content, **beside}, "finish_reason": why}]})


@pytest.mark.parametrize(
    "body",
    [
        response("", "length", reasoning="So"),
        response("", "stop", reasoning="So"),
        response(None, "stop", reasoning_content="So"),
        response(None, "length"),
        response("", "length"),
        response("<think>So", "length"),
        response("So</think>X-ra", "length"),
        response("X-ra", "length", reasoning="So"),
        response("<think>So</think>\n"),
        response([{"type": "thinking", "thinking": []}], "length"),
        json.dumps({"choices": [{"message": {"reasoning": "So"}, "finish_reason": "length"}]}),
    ],
)
def test_response_text_reasoning_alone_is_no_answer(body):
    with pytest.raises(OnlyReasoning):
        response_text(body)


@pytest.mark.parametrize(
    "body, text",
    [
        (response("X-ray", reasoning="So"), "X-ray"),
        (response(f"<think>{'so ' * 5000}</think>X-ray"), "X-ray"),
        (response([{"type": "thinking", "thinking": []}, {"type": "text", "text": "X-ray"}]), "X-ray"),
        (response("X-ray, Ch", "length"), ""),
        (response("X-ray", None, reasoning_content=None), "X-ray"),
        (response(""), ""),
    ],
)
def test_response_text_is_the_answer(body, text):
    assert response_text(body) == text


@pytest.mark.parametrize("body", [response(None), response(3), response([{"text": "x"}, "y"])])
def test_response_text_without_text_is_no_response(body):
    with pytest.raises(NoResponse) as error:
        response_text(body)
    assert type(error.value) is NoResponse
