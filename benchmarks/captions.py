"""How fast captions are rewritten, and what asking many questions at once brings: `python benchmarks/captions.py [--part rules] [--part hf] [--part http] [--threads 1]`, all parts by default.

Ratios of things run in turn in this process. Results of parts that are not run stay in benchmarks/results/captions.json.
"""

import argparse, multiprocessing, statistics, time
from pathlib import Path

from radgen.core.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "captions.json"

CT, XR, MR, US = "C0040405", "C1306645", "C0024485", "C0041618"


def literal_chats(n):
    "Questions about captions of our own wording: kinds of image times findings, each once."
    from radgen.captions.prompt import prompt
    from radgen.captions.facts import source

    kinds = [
        (CT, "Axial computed tomography of the chest of a {a}-year-old man showing {f}"),
        (XR, "Chest radiograph of a {a}-year-old woman. There is {f}"),
        (CT, "A {a}-year-old patient after a fall; coronal reformation of the abdomen, {f}"),
        (MR, "Sagittal MRI of the head demonstrates {f} in a patient aged {a}"),
        (US, "Ultrasound of the liver, {a} years, with {f}"),
        (XR, "Lateral radiograph of the knee in a {a}-year-old athlete with {f}"),
    ]
    findings = [
        "a 14 mm nodule",
        "a small effusion on the left side",
        "a fracture without displacement",
        "a large mass with central necrosis and a thin enhancing wall",
        "no abnormality",
        "multiple cysts, the largest of 3 cm",
        "edema around a calcified lesion",
        "a foreign body and free air, unchanged since the previous examination six weeks ago",
    ]
    return [
        prompt(source(text.format(a=30 + 7 * i % 50, f=f), [cui], {}))
        for i, ((cui, text), f) in enumerate((k, f) for f in findings for k in kinds)
    ][:n]


def rules(threads=None):
    "From published caption to verified record by rules, on one core: the official valid and test captions where they are, else those of the phantoms."
    from radgen.captions.facts import source
    from radgen.captions.template import render
    from radgen.captions.records import rewrite_by_rules
    from radgen.data.phantoms import make_phantoms
    from radgen.captions.rewrite import read_texts

    official = ROOT.parent / "shared" / "data" / "rocov2_text"
    table, names = read_texts(official if official.is_dir() else make_phantoms(ROOT / "work" / "phantoms"), None)
    what = "official valid and test" if official.is_dir() else "phantoms"
    table = table[table.split != "train"] if official.is_dir() else table
    pairs, seconds = list(zip(table.caption, table.cuis)), []
    for _ in range(5):
        began = time.perf_counter()
        texts = [render(rewrite_by_rules(source(c, k, names))) for c, k in pairs]
        seconds.append(time.perf_counter() - began)
    rate = len(pairs) / statistics.median(seconds)
    rows = [
        dict(way=f"captions, {what}", n=len(pairs), distinct=len(set(table.caption)), invalid=texts.count("invalid")),
        dict(way="first pass, words not yet met", per_s=round(len(pairs) / seconds[0])),
        dict(way="best of five passes", per_s=round(len(pairs) / min(seconds))),
    ]
    return rows + [dict(way="median of five passes", per_s=round(rate), wanted=">= 5,000", met=rate >= 5000)]


def hf(threads=None):
    "The embedded model on the processor: questions each alone and in batches, in turn."
    import torch
    from radgen.captions.local import BATCH
    from radgen.captions.backends import backend

    if threads:
        torch.set_num_threads(threads)
    who, chats = backend("smollm2", "cpu"), literal_chats(48)[::-1][:BATCH]
    clock = (
        time.process_time if threads == 1 else time.perf_counter
    )  # with one thread, seconds of the processor, which others on the machine do not change
    who.load()

    def alone(rows):
        return {i: next(who.ask([chats[i]]))[1] for i in rows}

    def batches(rows, size):
        who.batch_size = size
        return {rows[k]: a for k, a in who.ask([chats[i] for i in rows])}

    few = [
        range(0, len(chats), 8),
        range(4, len(chats), 8),
    ]  # asked one by one, which is slow: every fourth, half of them before the batch and half after
    ways = {
        "each alone": (alone, few),
        "one at a time, beginning shared": (lambda rows: batches(rows, 1), few),
        f"batches of {BATCH}, beginning shared": (lambda rows: batches(rows, BATCH), [range(len(chats)), range(0)]),
    }
    seconds, answers = dict.fromkeys(ways, 0.0), {w: {} for w in ways}
    for turn in (0, 1):
        for w, (ask, rows) in ways.items():
            began = clock()
            answers[w] |= ask(rows[turn])
            seconds[w] += clock() - began
    n = {w: sum(map(len, rows)) for w, (_, rows) in ways.items()}
    one, shared, many = (n[w] / seconds[w] for w in ways)
    first, second, third = answers.values()
    assert len(third) == len(chats) and all(third[i] == a for got in (first, second) for i, a in got.items()), (
        "a batch changes answers"
    )
    rows = [dict(way=w, questions=n[w], per_s=round(n[w] / seconds[w], 3)) for w in ways]
    rows += [
        dict(way="ratio: batches over each alone", ratio=round(many / one, 2), wanted=">= 4", met=many >= 4 * one),
        dict(way="ratio: batches over one at a time with the beginning shared", ratio=round(many / shared, 2)),
    ]
    return rows + [
        dict(way="answers that are the same in a batch", same=f"{len(first)} of {len(first)}"),
        dict(way="threads of torch", threads=torch.get_num_threads()),
    ]


def fixed_latency(port, seconds):
    "A server in a process of its own that answers each question after `seconds`, as many at once as come."
    import asyncio, json

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                await reader.readexactly(length)
                if head.startswith(b"POST"):
                    await asyncio.sleep(seconds)
                    status, obj = "200 OK", {"choices": [{"message": {"content": "Nodule"}, "finish_reason": "stop"}]}
                elif b"/v1/models" in head:
                    status, obj = "200 OK", {"data": [{"id": "stub"}]}
                else:
                    status, obj = "404 Not Found", {}
                body = json.dumps(obj).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def http(latency=0.1, threads=None):
    "A server that takes 100 ms: 32 questions in flight against one, in turn."
    from radgen.captions.server import OpenAIServer

    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    process = spawn.Process(target=fixed_latency, args=(port, latency), daemon=True)
    process.start()
    try:
        where, rate = f"http://127.0.0.1:{port.get(timeout=60)}/v1#stub", {1: [], 32: []}
        for _ in range(5):
            for n, seen in rate.items():
                who, chats = OpenAIServer(where, concurrency=n), literal_chats(48) * (20 if n > 1 else 1)
                began = time.perf_counter()
                answers = dict(who.ask(chats[: None if n > 1 else 30]))
                seen.append(len(answers) / (time.perf_counter() - began))
                assert set(answers.values()) == {"Nodule"}
    finally:
        process.terminate()
    ratio = statistics.median(b / a for a, b in zip(rate[1], rate[32]))
    rows = [
        dict(way=f"{n} in flight, {latency * 1000:.0f} ms each", per_s=round(statistics.median(r), 1))
        for n, r in rate.items()
    ]
    return rows + [dict(way="ratio: 32 in flight over 1", ratio=round(ratio, 2), wanted=">= 20", met=ratio >= 20)]


PARTS = {"rules": rules, "hf": hf, "http": http}  # name -> function(threads) that returns the rows of its table


def table(name, rows):
    print(f"\n{name}: {PARTS[name].__doc__}")
    for row in rows:
        print(
            f"  {row['way']:58}",
            "  ".join(
                f"{k} {v:,}" if isinstance(v, (int, float)) and not isinstance(v, bool) else f"{k} {v}"
                for k, v in row.items()
                if k not in ("way", "met")
            ),
            {True: "met", False: "MISSED", None: ""}[row.get("met")],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--part", action="append", choices=list(PARTS), help="may be given several times; all by default"
    )
    parser.add_argument(
        "--threads", type=int, help="of torch; on a machine that is busy otherwise, more than one is slower than one"
    )
    args = parser.parse_args()
    for name in args.part or PARTS:
        table(name, rows := PARTS[name](threads=args.threads))
        write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | {name: rows})
