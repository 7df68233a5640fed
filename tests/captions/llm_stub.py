"A server on the loopback with every fault we could think of; `chats` makes requests whose last word says what it does."

import gzip
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SCHEMA = {"type": "object", "properties": {"condition": {"type": "string"}}}


def chats(*texts):
    "One chat per text."
    system = {"role": "system", "content": "Write the finding ."}
    return [[system, {"role": "user", "content": text}] for text in texts]


def said(text, why="stop"):
    "A response with this text."
    return {"choices": [{"message": {"content": text}, "finish_reason": why}]}


def refusal(message, param=None):
    "An error as OpenAI words it."
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": "unsupported"}
    return 400, {"error": error}


REASONING = "The caption names an image type, so the first field is ..."
NEEDED = 600  # tokens of a reasoning model before its answer


def ollama(body, answer):
    "A reasoning model behind Ollama."
    cut_off = body.get("max_tokens", NEEDED) < NEEDED
    message = {"role": "assistant", "content": "" if cut_off else answer, "reasoning": REASONING}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "length" if cut_off else "stop"}]}


def vllm(body, answer):
    "A reasoning model behind vLLM with its parser for reasoning."
    cut_off = body.get("max_tokens", NEEDED) < NEEDED
    message = {"role": "assistant", "content": None if cut_off else answer, "reasoning_content": REASONING}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "length" if cut_off else "stop"}]}


def vllm_without_parser(body, answer):
    "A reasoning model behind vLLM without a parser: the opening tag stands in the prompt."
    if body.get("max_tokens", NEEDED) < NEEDED:
        return 200, said(f"<think>\n{REASONING}", "length")
    return 200, said(f"{REASONING}\n</think>\n\n{answer}")


def openai_newer(body, answer):
    "OpenAI's reasoning models, whose reasoning is counted and not shown."
    if "max_tokens" in body:
        use = "Use 'max_completion_tokens' instead."
        message = f"Unsupported parameter: 'max_tokens' is not supported with this model. {use}"
        return refusal(message, "max_tokens")
    if body.get("temperature", 1) != 1:
        message = (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
        )
        return refusal(message, "temperature")
    if body.get("max_completion_tokens", NEEDED) < NEEDED:
        return 200, said("", "length")
    return 200, said(answer)


def strict(body, answer):
    "A server whose data model forbids extra fields, as FastAPI words it."
    extra = [name for name in ("seed", "response_format") if name in body]
    if not extra:
        return 200, said(answer)
    message = "Extra inputs are not permitted"
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": message, "input": body} for name in extra]
    return 422, {"detail": detail}


def vague(body, answer):
    "A server that forbids extra fields and does not say which."
    if body.keys() - {"model", "messages", "temperature", "max_tokens"}:
        return 400, {"error": "Request contains an unknown field."}
    return 200, said(answer)


def gateway(body, answer):
    "A gateway that wraps JSON in prose."
    return 200, said(f"Sure! Here is the JSON object:\n\n```json\n{answer}\n```\n\nLet me know if it helps.")


class Handler(BaseHTTPRequestHandler):
    "Does what the last word says, and remembers what it was asked."

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
        self.reply(*s.lists.get(self.path, (404, {"error": {"message": "not here"}})))

    def do_POST(self):
        s, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = body["messages"][-1]["content"]
        with s.lock:
            s.seen.append((word, body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic()))
            s.now += 1
            s.most = max(s.most, s.now)
            turn = s.count(word)
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
        s = self.server
        replies = {
            "hour": (429, {"error": {"message": "quota"}}, {"Retry_After": 3600}),
            "always": (500, {"error": {"message": "out of memory"}}, {}),
            "bad": (400, {"error": {"message": "context too long"}}, {}),
            "html": (200, b"<html>hello</html>", {"Content_Type": "text/html"}),
            "truncated": (200, b'{"choices": [{"mess', {}),
            "shape": (200, {"choices": {"0": 1}}, {}),
            "nochoice": (200, {"choices": []}, {}),
            "null": (200, said(None), {}),
            "empty": (200, said(""), {}),
            "length": (200, said("and so on and so", "length"), {}),
            "long": (200, said("x" * 5000), {}),
            "surrogate": (200, b'{"choices": [{"message": {"content": "a\\ud800b"}}]}', {}),
            "zip": (200, gzip.compress(json.dumps(said("answer to zip")).encode()), {"Content_Encoding": "gzip"}),
        }
        if s.dead or word == "cut":
            self.cut(word)
        elif word == "busy" and turn < 3:
            self.reply(429, {"error": {"message": "slow down"}}, Retry_After=0.4)
        elif word == "once" and turn == 1:
            self.reply(500, {"error": {"message": "oops"}})
        elif word == "drip":
            self.drip()
        elif word in replies:
            code, answer, headers = replies[word]
            self.reply(code, answer, **headers)
        elif s.rejects_schemas and "response_format" in body:
            self.reply(400, {"error": {"message": "Unknown parameter: response_format"}})
        elif s.locked:
            message = f"Incorrect API key provided: {self.headers['Authorization']}"
            self.reply(s.locked, {"error": {"message": message}})
        elif s.kind:
            self.reply(*s.kind(body, s.answer(word)))
        else:
            time.sleep(3 if word == "slow" else 0)
            self.reply(200, said(f"answer to {word}"))

    def cut(self, word):
        "Close the connection, with 'cut' in the middle of a response."
        if word == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def drip(self):
        "Send a byte every tenth of a second."
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"1\r\n \r\n")
            time.sleep(0.1)

    def log_message(self, *a):
        pass


class Stub(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 128, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists = {"/v1/models": (200, {"data": [{"id": "m", "created": 7}]})}
        self.gets, self.seen, self.lock = [], [], threading.Lock()
        self.now = self.most = self.latency = 0
        self.dead = self.rejects_schemas = False
        self.locked, self.barrier = 0, None
        self.kind, self.answer = None, "answer to {}".format  # a function like `ollama`, and what it answers
        self.base = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def count(self, word):
        return sum(w == word for w, *_ in self.seen)

    def die(self):
        self.dead = True
        self.shutdown()
        self.server_close()

    def handle_error(self, *a):
        pass
