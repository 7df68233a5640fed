"""How fast captions are rewritten, and what sending many requests at once brings.

    python benchmarks/captions.py [--part rules] [--part hf] [--part http] [--threads 1]

All parts by default. Ratios are of things run in turn in this process. Results of parts that are not run stay in
benchmarks/results/captions.json.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import time
from pathlib import Path

from radgen.captions.facts import source
from radgen.captions.local import BATCH
from radgen.captions.prompt import prompt
from radgen.captions.records import rewrite_by_rules
from radgen.captions.rewrite import read_texts
from radgen.captions.server import OpenAIServer
from radgen.captions.template import render
from radgen.core.files import read_json, write_json
from radgen.data.phantoms import make_phantoms

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "captions.json"
OFFICIAL = ROOT.parent / "shared" / "data" / "rocov2_text"

CT, XR, MR, US = "C0040405", "C1306645", "C0024485", "C0041618"
CAPTIONS = [
    (CT, "Axial computed tomography of the chest of a {age}-year-old man showing {finding}"),
    (XR, "Chest radiograph of a {age}-year-old woman. There is {finding}"),
    (CT, "A {age}-year-old patient after a fall; coronal reformation of the abdomen, {finding}"),
    (MR, "Sagittal MRI of the head demonstrates {finding} in a patient aged {age}"),
    (US, "Ultrasound of the liver, {age} years, with {finding}"),
    (XR, "Lateral radiograph of the knee in a {age}-year-old athlete with {finding}"),
]
FINDINGS = [
    "a 14 mm nodule",
    "a small effusion on the left side",
    "a fracture without displacement",
    "a large mass with central necrosis and a thin enhancing wall",
    "no abnormality",
    "multiple cysts, the largest of 3 cm",
    "edema around a calcified lesion",
    "a foreign body and free air, unchanged since the previous examination six weeks ago",
]


def written_chats():
    "Requests about 48 captions of our own wording."
    chats = []
    for i, (finding, (cui, text)) in enumerate(itertools.product(FINDINGS, CAPTIONS)):
        caption = text.format(age=30 + 7 * i % 50, finding=finding)
        chats.append(prompt(source(caption, [cui], {})))
    return chats


def rules(threads=None):
    "From published caption to verified record by rules, on one core: official valid and test captions, else phantoms."
    if OFFICIAL.is_dir():
        table, names = read_texts(OFFICIAL, None)
        table, what = table[table.split != "train"], "official valid and test"
    else:
        table, names = read_texts(make_phantoms(ROOT / "work" / "phantoms"), None)
        what = "phantoms"
    pairs, seconds = list(zip(table.caption, table.cuis)), []
    for _ in range(5):
        began = time.perf_counter()
        texts = [render(rewrite_by_rules(source(caption, cuis, names))) for caption, cuis in pairs]
        seconds.append(time.perf_counter() - began)
    rate = len(pairs) / statistics.median(seconds)
    distinct, invalid = len(set(table.caption)), texts.count("invalid")
    return [
        dict(way=f"captions, {what}", n=len(pairs), distinct=distinct, invalid=invalid),
        dict(way="first pass, words not yet met", per_s=round(len(pairs) / seconds[0])),
        dict(way="best of five passes", per_s=round(len(pairs) / min(seconds))),
        dict(way="median of five passes", per_s=round(rate), wanted=">= 5,000", met=rate >= 5000),
    ]


class Timed:
    "Seconds and responses of one way to send requests."

    def __init__(self, send, clock):
        self.send, self.clock = send, clock
        self.seconds, self.responses = 0.0, {}

    def run(self, rows):
        "Send the requests of some rows."
        began = self.clock()
        self.responses |= self.send(rows)
        self.seconds += self.clock() - began

    @property
    def rate(self):
        "Responses per second."
        return len(self.responses) / self.seconds


def hf(threads=None):
    "The embedded model on the processor: requests each alone and in batches, in turn."
    import torch

    from radgen.captions.backends import backend

    if threads:
        torch.set_num_threads(threads)
    # with one thread, seconds of the processor, which others on the machine do not change
    clock = time.process_time if threads == 1 else time.perf_counter
    model, chats = backend("smollm2", "cpu"), written_chats()[::-1][:BATCH]
    model.load()

    def each_alone(rows):
        return {i: next(model.complete([chats[i]]))[1] for i in rows}

    def in_batches(rows, size):
        model.load().batch_size = size
        return {rows[k]: text for k, text in model.complete([chats[i] for i in rows])}

    alone = Timed(each_alone, clock)
    shared = Timed(lambda rows: in_batches(rows, 1), clock)
    batches = Timed(lambda rows: in_batches(rows, BATCH), clock)
    for start in (0, 4):  # one by one is slow: every fourth, half of them before the batch and half after
        alone.run(range(start, len(chats), 8))
        shared.run(range(start, len(chats), 8))
        if not batches.responses:
            batches.run(range(len(chats)))
    for way in (alone, shared):
        assert way.responses.items() <= batches.responses.items(), "a batch changes responses"
    ways = {
        "each alone": alone,
        "one at a time, prefix shared": shared,
        f"batches of {BATCH}, prefix shared": batches,
    }
    rows = [dict(way=w, questions=len(t.responses), per_s=round(t.rate, 3)) for w, t in ways.items()]
    ratio, n = batches.rate / alone.rate, len(alone.responses)
    return rows + [
        dict(way="ratio: batches over each alone", ratio=round(ratio, 2), wanted=">= 4", met=ratio >= 4),
        dict(way="ratio: batches over one at a time, prefix shared", ratio=round(batches.rate / shared.rate, 2)),
        dict(way="responses that are the same in a batch", same=f"{n} of {n}"),
        dict(way="threads of torch", threads=torch.get_num_threads()),
    ]


def content_length(head):
    "The length of an HTTP body by its header."
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length"):
            return int(line.split(b":")[1])
    return 0


def stub_response(head):
    "Status and body of the stub server."
    if head.startswith(b"POST"):
        return "200 OK", {"choices": [{"message": {"content": "Nodule"}, "finish_reason": "stop"}]}
    if b"/v1/models" in head:
        return "200 OK", {"data": [{"id": "stub"}]}
    return "404 Not Found", {}


def fixed_latency(port, seconds):
    "A server in a process of its own that responds to each request after `seconds`, to any number at once."

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(content_length(head))
                if head.startswith(b"POST"):
                    await asyncio.sleep(seconds)
                status, found = stub_response(head)
                body = json.dumps(found).encode()
                fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def http(threads=None, latency=0.1):
    "A server that takes 100 ms: 32 requests in flight against one, in turn."
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    process = spawn.Process(target=fixed_latency, args=(port, latency), daemon=True)
    process.start()
    few, many = written_chats()[:30], written_chats() * 20
    rates = {1: [], 32: []}
    try:
        where = f"http://127.0.0.1:{port.get(timeout=60)}/v1#stub"
        for _ in range(5):
            for n, chats in ((1, few), (32, many)):
                server = OpenAIServer(where, concurrency=n)
                began = time.perf_counter()
                responses = dict(server.complete(chats))
                rates[n].append(len(responses) / (time.perf_counter() - began))
                assert set(responses.values()) == {"Nodule"}
    finally:
        process.terminate()
    ratio = statistics.median(fast / slow for slow, fast in zip(rates[1], rates[32]))
    milliseconds = f"{latency * 1000:.0f} ms each"
    rows = [dict(way=f"{n} in flight, {milliseconds}", per_s=round(statistics.median(r), 1)) for n, r in rates.items()]
    return rows + [dict(way="ratio: 32 in flight over 1", ratio=round(ratio, 2), wanted=">= 20", met=ratio >= 20)]


PARTS = {"rules": rules, "hf": hf, "http": http}  # name -> function(threads) that returns the rows of its table
VERDICTS = {True: "met", False: "MISSED", None: ""}


def show(value):
    "A number with separators of thousands, a text as it is."
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def print_table(name, rows):
    "Print the rows of a part."
    print(f"\n{name}: {PARTS[name].__doc__}")
    for row in rows:
        numbers = "  ".join(f"{key} {show(value)}" for key, value in row.items() if key not in ("way", "met"))
        print(f"  {row['way']:58} {numbers} {VERDICTS[row.get('met')]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="may be given several times")
    parser.add_argument("--threads", type=int, help="of torch; on a busy machine more than one is slower than one")
    args = parser.parse_args()
    for name in args.part or PARTS:
        rows = PARTS[name](threads=args.threads)
        print_table(name, rows)
        write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | {name: rows})
