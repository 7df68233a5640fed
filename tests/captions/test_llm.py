"""What the chapter on language models does not carry: servers with every fault we could think of, models made on the spot, damaged files, and a real server on the loopback."""

import asyncio, json, os, queue, shutil, socket, struct, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from conftest import free_port
from radgen import llm
from radgen.core.assets import fetch_asset
from radgen.core.errors import ConfigError
from radgen.captions.backends import Transformers
from radgen.captions.backends import backend
from radgen.captions.server import OpenAIServer

SCHEMA = {"type": "object", "properties": {"condition": {"type": "string"}}}


def chats(*texts):
    return [[{"role": "system", "content": "Write the finding ."}, {"role": "user", "content": t}] for t in texts]


class Handler(BaseHTTPRequestHandler):
    "Does what the question says, and remembers what it was asked."

    protocol_version = "HTTP/1.1"

    def reply(self, code, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for k, v in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(k.replace("_", "-"), str(v))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        s = self.server
        s.gets.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.path in s.lists:
            return self.reply(*s.lists[self.path])
        self.reply(404, {"error": {"message": "not here"}})

    def do_POST(self):
        s, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = body["messages"][-1]["content"]
        with s.lock:
            s.seen.append((word, body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic()))
            s.now += 1
            s.most = max(s.most, s.now)
            turn = sum(w == word for w, *_ in s.seen)
        time.sleep(s.latency)
        if s.barrier:
            s.barrier.wait(30)
        with s.lock:
            s.now -= 1
        try:
            self.act(word, body, turn)
        except OSError:
            self.close_connection = True  # the client hung up

    def act(self, word, body, turn):
        good = {"choices": [{"message": {"content": f"answer to {word}"}, "finish_reason": "stop"}]}
        said = lambda text, why="stop": {"choices": [{"message": {"content": text}, "finish_reason": why}]}
        if self.server.dead or word == "cut":  # the connection closes in the middle of an answer
            if word == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif word == "busy" and turn < 3:
            self.reply(429, {"error": {"message": "slow down"}}, Retry_After=0.4)
        elif word == "hour":
            self.reply(429, {"error": {"message": "quota"}}, Retry_After=3600)
        elif word == "once" and turn == 1:
            self.reply(500, {"error": {"message": "oops"}})
        elif word == "always":
            self.reply(500, {"error": {"message": "out of memory"}})
        elif word == "bad":
            self.reply(400, {"error": {"message": "context too long"}})
        elif word == "html":
            self.reply(200, b"<html>hello</html>", Content_Type="text/html")
        elif word == "torn":
            self.reply(200, b'{"choices": [{"mess')
        elif word == "shape":
            self.reply(200, {"choices": {"0": 1}})
        elif word == "nochoice":
            self.reply(200, {"choices": []})
        elif word == "null":
            self.reply(200, said(None))
        elif word == "empty":
            self.reply(200, said(""))
        elif word == "length":
            self.reply(200, said("and so on and so", "length"))
        elif word == "long":
            self.reply(200, said("x" * 5000))
        elif word == "surrogate":
            self.reply(200, b'{"choices": [{"message": {"content": "a\\ud800b"}}]}')
        elif word == "zip":
            self.reply(200, __import__("gzip").compress(json.dumps(good).encode()), Content_Encoding="gzip")
        elif word == "slow":
            time.sleep(3)
            self.reply(200, good)
        elif word in ("endless", "drip"):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            piece = b" " if word == "drip" else b" " * 65536
            for _ in range(600):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.server.sent += len(piece)
                if word == "drip":
                    time.sleep(0.1)
        elif self.server.refuses and "response_format" in body:
            self.reply(400, {"error": {"message": "Unknown parameter: response_format"}})
        elif self.server.locked:
            self.reply(
                self.server.locked,
                {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}"}},
            )
        else:
            self.reply(200, good)

    def log_message(self, *a):
        pass


class Stub(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 128, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists = {"/v1/models": (200, {"data": [{"id": "m", "created": 7}]})}
        (
            self.gets,
            self.seen,
            self.now,
            self.most,
            self.latency,
            self.sent,
            self.lock,
            self.dead,
            self.refuses,
            self.locked,
            self.barrier,
        ) = [], [], 0, 0, 0, 0, threading.Lock(), False, False, 0, None
        self.base = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def count(self, word):
        return sum(w == word for w, *_ in self.seen)

    def handle_error(self, *a):
        pass


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    s = Stub()
    yield s
    s.shutdown()
    s.server_close()


def connect(stub, **options):
    return OpenAIServer(f"{stub.base}#m", **({"retries": 2} | options))


def test_success_and_what_is_sent(stub):
    who = connect(stub)
    assert dict(who.ask(chats("one", "two"), [SCHEMA, SCHEMA])) == {0: "answer to one", 1: "answer to two"}
    body, headers = stub.seen[0][1:3]
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "strict": True,
            "schema": {**SCHEMA, "required": ["condition"], "additionalProperties": False},
        },
    }
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == (
        "m",
        0,
        0,
        2 * llm.MAX_NEW_TOKENS,
    ) and body["messages"][0]["role"] == "system"
    assert headers["authorization"] == "Bearer none" and not who.failures and who.structured
    assert dict(who.ask(chats("three"))) == {0: "answer to three"} and "response_format" not in stub.seen[-1][1]
    assert dict(who.ask([], [])) == {}


@pytest.mark.parametrize(
    "word, times, reason",
    [
        ("always", 3, "HTTP 500"),
        ("hour", 1, "HTTP 429"),
        ("bad", 1, "HTTP 400"),
        ("html", 1, "not an answer"),
        ("torn", 1, "not an answer"),
        ("shape", 1, "not an answer"),
        ("nochoice", 1, "not an answer"),
        ("null", 1, "not an answer"),
        ("cut", 3, "broken connection"),
        ("endless", 1, "endless answer"),
        ("zip", 1, "endless answer"),
        ("drip", 1, "timeout"),
        ("slow", 1, "timeout"),
    ],
)
def test_questions_without_an_answer(stub, word, times, reason):
    who, began = connect(stub, timeout=1), time.monotonic()
    assert dict(who.ask(chats("good", word, "fine"), [SCHEMA] * 3)) == {
        0: "answer to good",
        1: None,
        2: "answer to fine",
    }
    assert stub.count(word) == times and dict(who.failures) == {reason: 1} and time.monotonic() - began < 4.5
    assert stub.sent < 30 * 2**20  # of the 39 MB that the endless one would send


@pytest.mark.parametrize("word, answer", [("empty", ""), ("length", ""), ("long", ""), ("surrogate", "a?b")])
def test_answers_that_are_no_failures(stub, word, answer):
    who = connect(stub)
    assert dict(who.ask(chats(word))) == {0: answer} and not who.failures


def test_retries(stub):
    who = connect(stub)
    assert dict(who.ask(chats("busy", "once"))) == {0: "answer to busy", 1: "answer to once"} and not who.failures
    at = [t for w, *_, t in stub.seen if w == "busy"]
    assert (
        len(at) == 3 and all(0.38 < b - a < 2 for a, b in zip(at, at[1:])) and stub.count("once") == 2
    )  # Retry-After is 0.4; the pauses of our own would be 0.5 and 1


def test_deadline_covers_retries(stub):
    who, began = connect(stub, retries=50, deadline=1.2), time.monotonic()
    assert dict(who.ask(chats("always", "good"))) == {0: None, 1: "answer to good"}
    assert dict(who.failures) == {"timeout": 1} and time.monotonic() - began < 3


@pytest.mark.parametrize("n", [1, 4])
def test_concurrency_is_bounded_and_used(stub, n):
    stub.barrier = threading.Barrier(n)  # the stub answers nobody before so many are there
    who = connect(stub, concurrency=n)
    assert len(dict(who.ask(chats(*map(str, range(16)))))) == 16 and stub.most == n


def test_concurrency_from_the_environment(stub, monkeypatch):
    monkeypatch.setenv("RADGEN_LLM_CONCURRENCY", "3")
    assert connect(stub).concurrency == 3
    for wrong in ("0", "many", "-1", "5000"):
        monkeypatch.setenv("RADGEN_LLM_CONCURRENCY", wrong)
        with pytest.raises(ConfigError, match="whole number from 1 to 1000"):
            connect(stub)


def test_refused_schema_is_remembered(stub):
    stub.refuses = True
    who = connect(stub, concurrency=1)
    assert set(dict(who.ask(chats("a", "b", "c"), [SCHEMA] * 3)).values()) == {
        "answer to a",
        "answer to b",
        "answer to c",
    }
    assert (
        ["response_format" in body for _, body, *_ in stub.seen] == [True, False, False, False]
        and not who.structured
        and not who.failures
    )


def test_server_down_at_start(monkeypatch):
    base = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ConfigError, match=f"no server answers at {base} .*--llm smollm2"):
        OpenAIServer(f"{base}#m")


def test_server_dies_in_the_middle(stub):
    stub.latency = 0.01
    who, got, began = connect(stub, concurrency=4), {}, time.monotonic()
    who.patience = 10**9  # so that it is the refused connection that tells
    for i, a in who.ask(chats(*map(str, range(3000)))):
        got[i] = a
        if len(got) == 20:
            stub.dead = True
            stub.shutdown()
            stub.server_close()
    answered = [a for a in got.values() if a is not None]
    assert len(got) == 3000 and 20 <= len(answered) < 200 and time.monotonic() - began < 8
    assert who.failures["not asked"] > 2700 and sum(who.failures.values()) == 3000 - len(answered)


def test_server_that_only_fails_is_left(stub):
    who = connect(stub, concurrency=2, retries=0)
    assert who.patience == 8
    got = dict(who.ask(chats(*["always"] * 100)))
    assert set(got) == set(range(100)) and set(got.values()) == {None} and 8 <= stub.count("always") <= 10
    assert who.failures["HTTP 500"] + who.failures["not asked"] == 100 and who.failures["not asked"] >= 90
    seldom, alone = (
        ["always"] * 6 + ["good"],
        connect(stub, concurrency=1, retries=0),
    )  # one after another: never eight failures in a row
    assert (
        alone.patience == 8 and list(dict(alone.ask(chats(*seldom * 6))).values()).count("answer to good") == 6
    )  # a success now and then keeps it going


@pytest.mark.parametrize("n, patience", [(1, 8), (10, 30), (100, 100)])
def test_patience(stub, n, patience):
    assert connect(stub, concurrency=n).patience == patience


def test_hanging_questions_do_not_hold_up_the_end(stub):
    "When the server is left, what is under way is called off."
    who, began = connect(stub, concurrency=4, retries=0), time.monotonic()
    who.patience = 2
    assert (
        set(dict(who.ask(chats("drip", "drip", *["always"] * 20))).values()) == {None} and time.monotonic() - began < 3
    )


def test_inside_a_running_loop(stub):
    async def notebook():
        return dict(connect(stub).ask(chats("one")))

    assert asyncio.run(notebook()) == {0: "answer to one"}


def threads():
    return [t for t in threading.enumerate() if t.name == "radgen-llm"]


def test_closed_early(stub):
    stub.latency = 0.05
    answers, began = connect(stub, concurrency=4).ask(chats("drip", *map(str, range(500)))), time.monotonic()
    next(answers)
    answers.close()
    assert time.monotonic() - began < 2 and not threads()
    time.sleep(0.5)  # until the server has noted what was under way
    n = len(stub.seen)
    time.sleep(0.5)
    assert len(stub.seen) == n < 20


def test_interrupted(stub, monkeypatch):
    who = connect(stub)

    class Queue(queue.Queue):
        def get(self):
            time.sleep(0.2)
            raise KeyboardInterrupt

    monkeypatch.setattr(llm.queue, "Queue", Queue)
    with pytest.raises(KeyboardInterrupt):
        next(who.ask(chats("drip")))
    assert not threads()


def test_errors_of_our_own_are_not_swallowed(stub, monkeypatch):
    def broken(*a):
        raise ZeroDivisionError

    who = connect(stub)
    monkeypatch.setattr(llm, "answer_text", broken)
    with pytest.raises(ZeroDivisionError):
        dict(who.ask(chats("one", "two")))


def test_unknown_model(stub):
    stub.lists["/v1/models"] = (200, {"data": [{"id": f"model-{i:02}"} for i in range(15)]})
    with pytest.raises(ConfigError, match="has no model 'm': it has model-00, .*model-11 and 3 more.*ollama pull m"):
        connect(stub)
    stub.lists["/v1/models"] = (200, {"data": []})
    with pytest.raises(ConfigError, match="it has none yet"):
        connect(stub)


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, b"[1]"), (200, b'{"data": 3}'), (200, b"[" * 100000), (200, b"")]
)
def test_no_language_model_server(stub, answer):
    stub.lists["/v1/models"] = answer
    with pytest.raises(ConfigError, match="is no language model server: does the address end in /v1"):
        connect(stub)


def test_server_that_is_not_well(stub):
    stub.lists["/v1/models"] = (500, {"error": {"message": "loading"}})
    with pytest.raises(ConfigError, match="is not well .HTTP 500.*look at its log"):
        connect(stub)


@pytest.mark.parametrize("code", [401, 403])
def test_key_is_wanted(stub, code, monkeypatch):
    stub.lists["/v1/models"] = (code, {"error": {"message": "who are you"}})
    with pytest.raises(ConfigError, match=f"wants a key .HTTP {code}.: set OPENAI_API_KEY"):
        connect(stub)
    stub.lists["/v1/models"], stub.locked = (200, {"data": [{"id": "m"}]}), code
    with pytest.raises(ConfigError, match=f"wants a key .HTTP {code}.: set OPENAI_API_KEY"):
        dict(connect(stub).ask(chats("one")))


def test_key_is_sent_and_not_shown(stub, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-geheim-123 ")
    who = connect(stub)
    dict(who.ask(chats("one")))
    assert stub.seen[0][2]["authorization"] == stub.gets[0][1][
        "authorization"
    ] == "Bearer sk-geheim-123" and "geheim" not in who.key + repr(who)
    stub.lists["/v1/models"] = (500, {"error": {"message": "key sk-geheim-123 failed"}})
    with pytest.raises(ConfigError, match=r"\*\*\*") as e:
        connect(stub)
    assert "geheim" not in str(e.value) + "".join(capsys.readouterr())
    for wrong in ("a\nb", "schlüssel", "a b"):
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters"):
            connect(stub)


def test_without_a_list(stub):
    stub.lists = {}
    who = connect(stub)
    assert who.key == f"openai:m:unversioned:{stub.base}" and dict(who.ask(chats("one"))) == {0: "answer to one"}
    stub.locked = 404
    with pytest.raises(ConfigError, match="does not know the model 'm' or the address .*does the address end in /v1"):
        dict(who.ask(chats("one")))


def test_keys(stub):
    other = Stub()
    try:
        assert connect(stub).key != connect(other).key  # nothing but a name: perhaps two models
        for s, created in ((stub, 1), (other, 2)):
            s.lists["/v1/models"] = (
                200,
                {
                    "data": [
                        {
                            "id": "m",
                            "created": created,
                            "owned_by": "vllm",
                            "root": "org/model",
                            "permission": [{"id": created}],
                        }
                    ]
                },
            )
        assert connect(stub).key == connect(other).key
        other.lists["/v1/models"][1]["data"][0]["root"] = "org/model-2"
        assert connect(stub).key != connect(other).key
        for s, digest in ((stub, "a" * 64), (other, "a" * 64)):
            s.lists |= {
                "/v1/models": (200, {"data": [{"id": "m:latest", "owned_by": "library"}]}),
                "/api/tags": (200, {"models": [{"name": "m:latest", "digest": digest}]}),
            }
        assert (
            connect(stub).key == connect(other).key == f"openai:m:latest:{'a' * 16}"
            and connect(stub).model == "m:latest"
        )
        other.lists["/api/tags"][1]["models"][0]["digest"] = "b" * 64
        assert connect(stub).key != connect(other).key
        for tags in ((200, b"["), (500, {}), (200, {"models": [{"name": "m:latest", "digest": ""}, 3]}), (200, [])):
            stub.lists["/api/tags"] = tags
            assert connect(stub, retries=0).key.endswith(stub.base)
    finally:
        other.shutdown()
        other.server_close()


def test_proxies(stub, monkeypatch):
    for v in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(v, "http://127.0.0.1:9")
    for v in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(v, raising=False)
    assert dict(connect(stub).ask(chats("one"))) == {0: "answer to one"}
    assert [llm.proxy_of(u) for u in ("http://localhost:1/v1", "http://[::1]:1/v1", "http://127.8.0.1/v1")] == [
        None
    ] * 3
    assert llm.proxy_of("http://llm.example.org/v1") == "http://127.0.0.1:9"
    monkeypatch.setenv("http_proxy", "10.0.0.1:3128")
    assert llm.proxy_of("http://llm.example.org/v1") == "http://10.0.0.1:3128"
    monkeypatch.setenv("no_proxy", "example.org")
    assert llm.proxy_of("http://llm.example.org/v1") is None
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "gopher://x")
    with pytest.raises(ConfigError, match="proxy that the environment names"):
        OpenAIServer("http://llm.example.org/v1#m")


@pytest.mark.parametrize(
    "where, what",
    [
        ("http://h/v1", "does not say which model"),
        ("http://h/v1#", "does not say which model"),
        ("http://h/v1# ", "does not say which model"),
        ("h:1/v1#m", "is no address"),
        ("ftp://h/v1#m", "is no address"),
        ("http://#m", "is no address"),
        ("http://[::1/v1#m", "is no address"),
        ("http://h:99999/v1#m", "is no address"),
        ("http://a b/v1#m", "is no address"),
        ("http://u:p@h/v1#m", "holds a password"),
        ("http://h/v1?k=1#m", "is no address"),
        ("#m", "is no address"),
    ],
)
def test_addresses(where, what):
    with pytest.raises(ConfigError, match=what) as e:
        backend(f"openai:{where}")
    assert "u:p" not in str(e.value) and (
        "openai:http://127.0.0.1:11434/v1#llama3" in str(e.value) or "password" in what
    )


@pytest.mark.parametrize("name", ["", "gpt", "hf:", "gguf:", "openai:", "ollama:llama3", "rules:x", "smollm3"])
def test_unknown_backends(name):
    with pytest.raises(
        ConfigError, match="choose rules, smollm2, hf:<hub name or folder>, gguf:<file> or openai:<base url>#<model>"
    ):
        backend(name)
    assert backend("rules") is None


ENDS = [16, 22]
TEXTS = [
    "Chest CT with nodule in the right lung",
    "effusion",
    "mass in the left lung and effusion and mass",
    "nodule " * 12,
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A random llama with a word tokenizer and a chat template that knows no system."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<end>", "<turn>", "user", "assistant", "system"] + sorted(
        {w for t in TEXTS for w in t.split()} | set("Write the finding .".split()) | {f"w{i}" for i in range(20)}
    )
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tiny")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<end>",
        additional_special_tokens=["<turn>"],
    )
    fast.chat_template = (
        "{% for m in messages %}<turn> {{ m.role }} {{ m.content }} <turn> {% endfor %}<turn> assistant"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    LlamaForCausalLM(
        LlamaConfig(
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
    ).save_pretrained(folder)
    return folder


def copy_of(tiny, tmp_path, name="copy"):
    return __import__("pathlib").Path(shutil.copytree(tiny, tmp_path / name))


@pytest.mark.parametrize("shared", [True, False])
def test_batches_and_shared_beginning_change_nothing(tiny, monkeypatch, shared):
    who = backend(f"hf:{tiny}", "cpu")
    assert who.model is None  # nothing is loaded yet
    who.load()
    assert next(who.model.parameters()).dtype == torch.float32
    monkeypatch.setattr(llm, "MAX_NEW_TOKENS", 12)
    who.ends = who.stops = ENDS  # of the random words, so that there are answers to compare
    if not shared:
        monkeypatch.setattr(Transformers, "_beginning", lambda self, ids: (0, None))
    questions, alone = chats(*TEXTS), {}
    for i, c in enumerate(questions):  # by hand, one by one, without padding or a cache of ours
        ids = who.tok(llm.chat_text(who.tok, c), add_special_tokens=False).input_ids
        n = len(ids)
        with torch.inference_mode():
            for _ in range(12):
                ids.append(int(who.model(torch.tensor([ids])).logits[0, -1].argmax()))
        stop = next((k for k, t in enumerate(ids[n:]) if t in who.ends), None)
        alone[i] = who.tok.decode(ids[n : n + stop], skip_special_tokens=True).strip() if stop is not None else ""
    assert len(set(alone.values()) - {""}) >= 3, alone
    who.model.generation_config.eos_token_id = who.ends
    for size in (1, 3, 4):
        who.batch_size = size
        assert dict(who.ask(questions, [SCHEMA] * 4)) == alone
    assert not who.failures and not who.structured


def test_answers_without_end_are_empty(tiny, monkeypatch):
    who = backend(f"hf:{tiny}", "cpu")
    who.load()
    monkeypatch.setattr(llm, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(
        who.model, "generate", lambda ids, **k: torch.cat([ids, torch.tensor([[7, 8, 1, 1, 1, 1, 1, 1], [7] * 8])], 1)
    )
    got = dict(who.ask(chats(*TEXTS[:2])))
    assert sorted(got.values()) == ["", who.tok.decode([7, 8])]


def test_full_memory_halves_the_batch(tiny, monkeypatch, capsys):
    who, sizes = Transformers(str(tiny), "k", "cpu", batch_size=4), []
    who.load()
    want, real = dict(who.ask(chats(*TEXTS, *TEXTS))), who.model.generate

    def full(ids, **k):
        sizes.append(len(ids))
        if len(ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(ids, **k)

    monkeypatch.setattr(who.model, "generate", full)
    room = 1
    assert (
        dict(who.ask(chats(*TEXTS, *TEXTS))) == want
        and sizes == [4, 2] + [1] * 8
        and who.batch_size == 1
        and not who.failures
    )
    assert "The memory of cpu is full: going on with 2 questions at once." in capsys.readouterr().err
    room = 0
    assert dict(who.ask(chats(*TEXTS))) == {i: None for i in range(4)} and who.failures == {
        "does not fit into memory": 4
    }

    def broken(*a, **k):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(who.model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        dict(who.ask(chats("nodule")))


def test_many_windows_and_long_questions(tiny, monkeypatch):
    monkeypatch.setattr(llm, "MAX_NEW_TOKENS", 4)
    who = Transformers(str(tiny), "k", "cpu", batch_size=1)
    got = list(who.ask(chats(*["nodule"] * 70, "nodule " * 300, *["effusion"] * 2)))
    assert (
        sorted(i for i, _ in got) == list(range(73))
        and dict(got)[70] is None
        and who.failures == {"longer than the model can read": 1}
        and [i for i, a in got if a is None] == [70]
    )


def test_template_without_a_system_role(tiny, tmp_path):
    folder = copy_of(tiny, tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    who = backend(f"hf:{folder}", "cpu")
    who.load()
    assert llm.chat_text(who.tok, chats("nodule")[0]) == "<user>Write the finding .\n\nnodule"


def test_key_of_a_folder(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    key, folder = backend(f"hf:{tiny}").key, copy_of(tiny, tmp_path)
    os.utime(folder / "model.safetensors", (1, 1))
    (folder / "README.md").write_text("hello")
    assert backend(f"hf:{folder}").key == key
    weights = load_file(folder / "model.safetensors")
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        save_file(weights | {name: weights[name] + 0.01}, folder / "model.safetensors", {"format": "pt"})
        assert backend(f"hf:{folder}").key != key
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert backend(f"hf:{folder}").key == key
    (folder / "chat_template.jinja").write_text("another")
    assert backend(f"hf:{folder}").key != key


def edit(folder, **more):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more))


@pytest.mark.parametrize(
    "fault, what",
    [
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no language model .no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is not valid JSON"),
        (lambda f: edit(f, architectures=["BertForMaskedLM"]), "holds a BertForMaskedLM, which does not write text"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "has no .safetensors file, and weights in other formats are not loaded",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            "no safetensors file, or not the whole",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"rubbish"), "no safetensors file, or not the whole"),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}"),
            "no safetensors file, or not the whole",
        ),
    ],
)
def test_folders_that_are_no_model(tiny, tmp_path, fault, what):
    folder = copy_of(tiny, tmp_path)
    fault(folder)
    with pytest.raises(ConfigError, match=what):
        backend(f"hf:{folder}")


@pytest.mark.parametrize(
    "fault, what",
    [
        (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template: choose an instruction-tuned one"),
        (lambda f: edit(f, model_type="nonsense"), "cannot load the language model .*choose another"),
        (
            lambda f: edit(
                f, model_type="nonsense", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
            ),
            "cannot load the language model",
        ),
        (
            lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
            "cannot load the language model",
        ),
        (lambda f: edit(f, num_hidden_layers=3), "lacks weights of a causal language model"),
    ],
)
def test_folders_that_do_not_load(tiny, tmp_path, fault, what, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = copy_of(tiny, tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    fault(folder)
    with pytest.raises(ConfigError, match=what):
        next(backend(f"hf:{folder}", "cpu").ask(chats("nodule")))
    assert not (tmp_path / "ran").exists()


def test_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="neither a folder here nor a model that the hub"):
        backend("hf:nobody/nothing-of-that-name")
    with pytest.raises(ConfigError, match="neither a folder here nor a model that the hub"):
        backend("hf:/nowhere/at/all")
    import transformers

    class Config:
        _commit_hash = "0123abc"

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda name, trust_remote_code: Config())
    assert backend("hf:org/model").key == f"hf:org/model:0123abc:line-{llm.MAX_NEW_TOKENS}"


def test_smollm2():
    captions = [
        "Chest CT with a nodule in the left upper lobe",
        "MRI of the brain with a meningioma",
        "Ultrasound of the right kidney with hydronephrosis",
    ]
    who = backend("smollm2", "cpu")
    got = dict(
        who.ask(
            [
                [
                    {"role": "system", "content": "Name the finding of the caption in a few words."},
                    {"role": "user", "content": c},
                ]
                for c in captions
            ],
            [SCHEMA] * 3,
        )
    )
    assert (
        who.key == f"gguf:{llm.SMOLLM2[:16]}:line-{llm.MAX_NEW_TOKENS}" == backend(f"gguf:{fetch_asset('smollm2')}").key
    )
    assert set(got) == {0, 1, 2} and all(got.values()) and not who.failures
    assert len(who.stops) > len(who.ends) and all(
        "\n" in who.tok.decode([t]) for t in who.stops.difference(who.ends)
    )  # a line break ends an answer
    story = dict(
        who.ask([[{"role": "user", "content": "Count from one to five, each number on a line of its own."}]], [SCHEMA])
    )[0]
    assert story and "\n" not in story


def test_gguf_faults(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="cannot read the model file .*No such file.*check the path in gguf:<file>"):
        backend(f"gguf:{tmp_path / 'none.gguf'}")
    with pytest.raises(ConfigError, match="cannot read the model file .*directory"):
        backend(f"gguf:{tmp_path}")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="is no GGUF file: download it again"):
        backend(f"gguf:{tmp_path / 'text.gguf'}")
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "mystery")
    writer.add_name("odd")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "torn.gguf").write_bytes((tmp_path / "odd.gguf").read_bytes()[:40])
    for name in ("odd", "torn"):
        with pytest.raises(
            ConfigError, match=f"transformers cannot read {name}.gguf .*serve it with llama.cpp or Ollama"
        ):
            next(backend(f"gguf:{tmp_path / name}.gguf", "cpu").ask(chats("x")))
    assert not list((tmp_path / "cache").iterdir())  # nothing half made is left


def test_disk_full(tmp_path, monkeypatch, tiny):
    import transformers
    from safetensors import SafetensorError

    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))

    class Model:
        def save_pretrained(self, d):
            (d / "part").write_text("half")
            raise error

    class Tok:
        def save_pretrained(self, d):
            pass

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda **k: Model())
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda **k: Tok())
    for error in (
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(
            ConfigError, match="the disk is full: unpacking m.gguf needs about .* GB in .*set RADGEN_CACHE"
        ):
            backend(f"gguf:{tmp_path / 'm.gguf'}").load()
    assert not list((tmp_path / "cache").iterdir())


def test_real_server():
    xllamacpp = pytest.importorskip("xllamacpp")
    p = xllamacpp.CommonParams()
    p.model.path, p.model_alias, p.port, p.n_ctx, p.n_parallel, p.verbosity = (
        str(fetch_asset("smollm2")),
        {"smollm2"},
        0,
        4096,
        4,
        0,
    )
    server = xllamacpp.Server(p)
    who = OpenAIServer(f"{server.listening_address}/v1#smollm2")
    schema = {
        "type": "object",
        "properties": {
            "view": {"type": "string", "enum": ["axial", "lateral"]},
            "condition": {"type": "string", "maxLength": 60},
        },
    }
    got = dict(who.ask(chats("Axial CT with a nodule", "Lateral radiograph with a fracture"), [schema] * 2))
    assert who.structured and not who.failures and ":http" not in who.key
    for a in got.values():
        a = json.loads(a)
        assert (
            set(a) == {"view", "condition"}
            and a["view"] in ("axial", "lateral")
            and isinstance(a["condition"], str)
            and len(a["condition"]) <= 60
        )
    with pytest.raises(ConfigError, match="has no model 'llama3': it has smollm2"):
        OpenAIServer(f"{server.listening_address}/v1#llama3")
