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
