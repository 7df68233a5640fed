"Interruptions and kills, retries with feedback, responses of any kind, the replay, captions alone."

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from string import ascii_lowercase

import pandas as pd
import pytest
from caption_cases import CHEST, XR
from llm_model import NAMES, Model, pneumonia, rewrite_with, table
from llm_stub import (
    Stub,
    gateway,
    ollama,
    openai_newer,
    refusal,
    said,
    strict,
    vague,
    vllm,
    vllm_without_parser,
)

from radgen.captions.config import RewriteConfig
from radgen.captions.prompt import REASONS, read_responses, replay_path
from radgen.captions.rewrite import read_texts, rewrite, transform_captions, write_replay
from radgen.captions.server import OpenAIServer
from radgen.captions.template import Record, parse
from radgen.core.assets import fetch_asset
from radgen.core.errors import ConfigError, DataError
from radgen.data.cuis import choose_cuis, select_rows
from radgen.data.explore import count_cuis
from radgen.data.rocov2 import read_rocov2

PNEUMONIA = "Computed tomography, Chest, Unspecified view, Pneumonia"


def test_interrupted_run_asks_only_what_is_missing(tmp_path):
    words = [a + b for a in "abcdef" for b in "vwxyz"]  # no two captions alike
    cache = tmp_path / "captions.jsonl"
    rows = table(*[f"Chest CT with pneumonia of {words[i % 30]}" for i in range(60)])
    with pytest.raises(KeyboardInterrupt):
        rewrite_with(Model(stop=11), rows, cache)
    assert len(read_responses(cache)) == 11
    cache.write_bytes(cache.read_bytes()[:-25])  # the last line is truncated
    second = Model()
    out = rewrite_with(second, rows, cache)
    assert len(second.chats) == 20
    assert len(read_responses(cache)) == 30
    assert set(out.verdict) == {"ok"}
    third = Model()
    pd.testing.assert_frame_equal(rewrite_with(third, rows, cache), out)
    assert not third.chats


KILLED = """
import sys
import time
import pandas as pd
from radgen.captions.rewrite import transform_captions

class Slow:
    key, structured, failures = "slow:1", False, {}
    def complete(self, chats, schemas):
        for i, chat in enumerate(chats):
            time.sleep(0.01)
            print(i, flush=True)
            yield i, chat[-1]["content"].split("\\n")[0] + ", Pneumonia"

captions = [f"Chest CT with pneumonia {'x' * i}" for i in range(300)]
transform_captions(pd.DataFrame({"caption": captions, "cuis": [["C0040405"]] * 300}), {}, Slow(), sys.argv[1])
"""


@pytest.mark.parametrize("kills", [(40,), pytest.param((40, 90, 170), marks=pytest.mark.soak)])
def test_killed_run_asks_nothing_twice(tmp_path, kills):
    cache, asked = tmp_path / "c.jsonl", 0
    command = [sys.executable, "-c", KILLED, str(cache)]
    for n in kills:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in process.stdout:
            asked += 1
            if asked >= n:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
        process.wait()
        known = len(read_responses(cache))
        assert n - 2 <= known <= asked + 2
        asked = known
    keys = [json.loads(line)["key"] for line in cache.read_text().splitlines()]
    assert len(keys) == len(set(keys))


def test_rejected_response_is_sent_back_with_the_reason():
    def answer(chat):
        if len(chat) == 10:
            return chat[-1]["content"].split("\n")[0] + ", Tumor"
        return PNEUMONIA if REASONS["new word"] in chat[-1]["content"] else "x"

    llm = Model(answer)
    out = rewrite_with(llm, table("Chest CT with pneumonia"))
    assert out.verdict.tolist() == ["ok:retry"]
    assert out.transformed.tolist() == [PNEUMONIA]
    first, retry = llm.chats
    assert retry[:10] == first
    assert retry[10] == {"role": "assistant", "content": PNEUMONIA.replace("Pneumonia", "Tumor")}


def test_twice_rejected_response_is_replaced_by_rules():
    out = rewrite_with(Model(lambda chat: "rubbish"), table("Chest CT with pneumonia"))
    assert out.verdict.tolist() == ["fallback:format"]
    assert out.transformed.tolist() == [PNEUMONIA]


@pytest.mark.parametrize(
    "response",
    [
        "",
        "\n",
        "x" * 10**6,
        "{",
        "[]",
        "null",
        '{"image_type": null}',
        "a\x00b, c, d, e",
        "Computed tomography, Chest, Unspecified view, <|im_end|>",
        "é" * 2000,
        "Computed tomography, Chest",
    ],
)
def test_response_of_any_kind_falls_back(response):
    out = rewrite_with(Model(lambda chat: response), table("Chest CT with pneumonia"))
    assert out.transformed.tolist() == [PNEUMONIA]
    assert out.verdict.tolist() == ["fallback:format"]


def many(n):
    "As many captions, of which no two are alike."
    return table(*[f"Chest CT with pneumonia of {a}{b}x" for a in ascii_lowercase for b in ascii_lowercase][:n])


def test_unreadable_responses_stop_the_run_and_are_kept(tmp_path):
    llm = Model(lambda chat: "I am sorry,\n\x1b[31m but " + "this is no radiology " * 20)
    with pytest.raises(ConfigError, match="100 of the first 100 responses of model:1 cannot be read") as error:
        rewrite_with(llm, many(150), tmp_path / "c.jsonl")
    message = str(error.value)
    assert "'I am sorry, [31m but this is no radiology" in message
    assert "choose another model" in message
    assert message.isprintable()
    assert len(message) < 450
    assert len(llm.chats) == len(read_responses(tmp_path / "c.jsonl")) == 100


@pytest.mark.parametrize("unread, stops", [(50, False), (51, True)])
def test_run_stops_where_most_of_the_first_responses_are_unreadable(unread, stops):
    llm = Model(lambda chat: "" if len(llm.chats) <= unread else pneumonia(chat))
    if stops:
        with pytest.raises(ConfigError, match="51 of the first 100 .* for instance 'an empty text'"):
            rewrite_with(llm, many(101))
    else:
        assert len(rewrite_with(llm, many(101))) == 101


def test_unreadable_responses_later_and_in_few_rows_do_not_stop():
    llm = Model(lambda chat: pneumonia(chat) if len(llm.chats) <= 100 else "rubbish")
    assert "fallback:format" in rewrite_with(llm, many(250)).verdict.tolist()
    few = rewrite_with(Model(lambda chat: "rubbish"), many(99))
    assert set(few.verdict) == {"fallback:format"}


def test_rejected_but_readable_responses_do_not_stop():
    out = rewrite_with(Model(lambda chat: pneumonia(chat) + " and fracture"), many(120))
    assert out.verdict.str.startswith("fallback:new word: ").all()


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    s = Stub()
    s.answer = as_object
    yield s
    s.shutdown()
    s.server_close()


def as_object(request):
    "The facts of a request with a condition, as the schema has it."
    fields = [field.removeprefix("Unspecified view") for field in request.split("\n")[0].split(", ")]
    return json.dumps(dict(zip(Record._fields, [*fields, "Pneumonia"])))


@pytest.mark.parametrize("kind", [ollama, vllm, vllm_without_parser, openai_newer, strict, vague, gateway, None])
def test_servers_as_they_are(stub, kind):
    stub.kind = kind or (lambda body, answer: (200, said(answer)))
    llm = OpenAIServer(f"{stub.base}#m")
    out = rewrite_with(llm, table("Chest CT with pneumonia", "Chest CT showing pneumonia"))
    assert out.verdict.tolist() == ["ok", "ok"]
    assert out.transformed.tolist() == [PNEUMONIA, PNEUMONIA]
    assert not llm.failures


def test_server_that_rejects_every_request_is_quoted(stub):
    stub.kind = lambda body, answer: refusal("The model is being updated.")
    message = r"had no response .HTTP 400: The model is being updated. x 1.*unanswered=rules"
    with pytest.raises(ConfigError, match=message):
        rewrite_with(OpenAIServer(f"{stub.base}#m"), table("Chest CT with pneumonia"))


def test_unreadable_server_gets_no_further_requests(stub, tmp_path):
    stub.answer, stub.latency = (lambda request: "I am sorry, Dave."), 0.02
    stub.kind = gateway
    llm = OpenAIServer(f"{stub.base}#m", concurrency=8)
    with pytest.raises(ConfigError, match="100 of the first 100 responses of openai:m:.* cannot.*Sure! Here is"):
        rewrite_with(llm, many(400), tmp_path / "c.jsonl")
    assert not [t for t in threading.enumerate() if t.name == "radgen-llm"]
    sent = len(stub.seen)
    time.sleep(0.3)
    assert len(stub.seen) == sent < 150
    assert len(read_responses(tmp_path / "c.jsonl")) == 100


def test_reasoning_without_an_answer_is_reported(stub):
    stub.kind = lambda body, answer: (200, said("", "length"))
    with pytest.raises(ConfigError, match="reasoning without an answer x 1"):
        rewrite_with(OpenAIServer(f"{stub.base}#m"), table("Chest CT with pneumonia"))


def test_missing_response_falls_back_where_rules_may_write():
    out = rewrite_with(Model(lambda chat: None), table("Chest CT with pneumonia"), unanswered="rules")
    assert out.transformed.tolist() == [PNEUMONIA]
    assert out.verdict.tolist() == ["fallback:no answer"]


def test_missing_response_is_an_error_and_the_rest_is_kept(tmp_path):
    rows, cache = table("Chest CT with pneumonia", "Chest CT with pneumonia of a lobe"), tmp_path / "c.jsonl"
    half = Model(lambda chat: None if "lobe" in chat[-1]["content"] else PNEUMONIA)
    half.failures["timeout"] = 1
    what = (
        r"1 of 2 requests had no response .timeout x 1.: the other responses are in .*c.jsonl, "
        "and the same command requests only those that are missing"
    )
    with pytest.raises(ConfigError, match=what):
        rewrite_with(half, rows, cache)
    later = Model(lambda chat: PNEUMONIA + " of a lobe")
    assert rewrite_with(later, rows, cache).verdict.tolist() == ["ok", "ok"]
    assert len(later.chats) == 1


def test_structured_response():
    from jsonschema import ValidationError, validate  # takes seconds

    record = {"image_type": "Computed tomography", "body_part": "Kidney", "view": ""}
    record["condition"] = "cyst between liver and kidney"
    llm = Model(lambda chat: json.dumps(record), structured=True)
    out = rewrite_with(llm, table("A cyst between liver and kidney"))
    expected = "Computed tomography, Kidney, Unspecified view, Cyst between liver and kidney"
    assert out.transformed.tolist() == [expected]
    assert out.verdict.tolist() == ["ok"]
    assert out.sources.tolist() == ["concept,model,-"]
    validate(record, llm.schemas[0])
    with pytest.raises(ValidationError):
        validate(record | {"body_part": "Head"}, llm.schemas[0])
    assert "JSON" in llm.chats[0][0]["content"]
    assert all(parse(message["content"]) for message in llm.chats[0] if message["role"] == "assistant")


def test_equal_rows_are_one_request():
    llm = Model()
    captions = (
        "Chest CT with pneumonia",
        "Fig. 1. Chest CT with pneumonia (arrow).",
        "Chest CT",
        "Chest CT without contrast with pneumonia",
    )
    out = rewrite_with(llm, table(*captions))
    assert len(llm.chats) == 2
    assert out.verdict.tolist() == ["ok", "ok", "rules", "ok"]
    assert out.transformed[3] == "Non-contrast computed tomography, Chest, Unspecified view, Pneumonia"


def test_dropped_rows_are_left_out_and_the_order_is_kept():
    rows = table("Chest CT with pneumonia", "Chest CT", "Chest CT with pneumonia")
    rows = rows.assign(keep=[True, True, False], id=list("abc")).set_index(pd.Index([7, 3, 5]))
    out = rewrite_with(Model(), rows)
    assert out.index.tolist() == [7, 3, 5]
    assert out.verdict.tolist() == ["ok", "rules", ""]
    assert out.sources.tolist() == ["concept,caption,-", "concept,caption,-", ""]
    assert out.transformed.tolist() == [
        PNEUMONIA,
        "Computed tomography, Chest, Unspecified view, Unspecified finding",
        "",
    ]


def test_rules_ask_no_model():
    rows = table("Chest CT with pneumonia", "An angle").assign(keep=[True, False])
    assert transform_captions(rows, NAMES, "rules").verdict.tolist() == ["rules", ""]
    empty = transform_captions(rows.iloc[:0], NAMES, "rules")
    assert empty.columns.tolist() == [*rows.columns, "transformed", "verdict", "sources"]


def test_progress_reports_the_share_accepted(capsys):
    rewrite_with(Model(), table("Chest CT with pneumonia", "Chest CT without pneumonia"))
    err = capsys.readouterr().err
    for text in ("model: captions", "accepted=50%", "caption/s", "model: retries", "accepted=0%"):
        assert text in err
    counts = "0 responses from the cache, 0 from the replay file, 3 sent now"
    assert f"2 requests to model:1 and 1 retries: {counts}" in err


@pytest.mark.soak
def test_replay_needs_no_model(phantoms, tmp_path, monkeypatch, capsys):
    def never(name, device):
        raise AssertionError("SmolLM2 was loaded")

    monkeypatch.setattr("radgen.captions.local.load_chat_model", never)
    data = read_rocov2(phantoms)
    selected = choose_cuis(count_cuis(data.table, data.names), 10)
    rows = transform_captions(select_rows(data.table, selected, data.names), data.names)
    assert "0 sent now" in capsys.readouterr().err
    kept = rows[rows.keep]
    asked = kept[~kept.verdict.isin(["rules", "invalid"])]
    assert 0.35 < asked.verdict.str.startswith("ok").mean() < 0.99
    assert (kept.verdict == "fallback:no answer").sum() == 0
    assert replay_path().stat().st_size < 1e6
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path))
    written = tmp_path / "replay.jsonl"
    written.write_bytes(replay_path().read_bytes() + b'{"key": "0", "answer": "no longer asked"}\n')
    write_replay(kept, data.names, written)
    assert written.read_bytes() == replay_path().read_bytes()


@pytest.mark.soak
def test_smollm2_really_answers(tmp_path):
    "Under the name of its file, so that the replay file is not read: the model is loaded."
    rows = table("CT of the chest of a 60-year-old man showing a nodule", "CT of the head with a hemorrhage")
    cache, llm = tmp_path / "c.jsonl", f"gguf:{fetch_asset('smollm2')}"
    out = transform_captions(rows, NAMES, llm, cache, device="cpu")
    responses = read_responses(cache)
    assert len(responses) >= 2
    assert any("omputed tomography" in text for text in responses.values())  # it copies what it was given
    assert out.transformed.str.contains("omputed tomography, ").all()
    assert out.verdict.str.match("ok|ok:retry|fallback:").all()
    began = time.monotonic()
    pd.testing.assert_frame_equal(transform_captions(rows, NAMES, llm, cache), out)
    assert time.monotonic() - began < 5  # nothing was loaded


def read_csv(path):
    return pd.read_csv(path, dtype=str, na_filter=False)


def test_captions_alone_can_be_rewritten_again(tmp_path, few):
    raw = Path(few.manifest["config"]["data_path"])
    out = rewrite(RewriteConfig(raw, tmp_path / "out"))
    got, given = read_csv(out / "valid_rewritten.csv"), read_csv(raw / "valid_captions.csv")
    assert got.columns.tolist() == ["ID", "Caption", "CUIs", "Transformed", "Verdict", "Sources"]
    assert got.ID.tolist() == given.ID.tolist()
    assert got.Caption.tolist() == given.Caption.tolist()
    files = ["cui_mapping.csv", "test_rewritten.csv", "train_rewritten.csv", "valid_rewritten.csv"]
    assert sorted(p.name for p in out.iterdir()) == files
    again = rewrite(RewriteConfig(out / "valid_rewritten.csv", tmp_path / "again"))
    assert read_csv(again / "valid_rewritten.csv").Transformed.tolist() == got.Transformed.tolist()


def test_captions_alone_bad_input(tmp_path):
    with pytest.raises(DataError, match="no file .*: --data-path is a folder in ROCOv2 layout, or a CSV"):
        read_texts(tmp_path / "none.csv", None)
    (tmp_path / "a.csv").write_text("ID,Text\n1,x\n")
    with pytest.raises(DataError, match="no column Caption in a.csv"):
        read_texts(tmp_path / "a.csv", None)
    (tmp_path / "train.csv").write_text("ID,Caption,CUIs\nR_1,Chest CT,\nR_2,,C0040405\n")
    with pytest.raises(ConfigError, match="no captions to rewrite"):
        rewrite(RewriteConfig(tmp_path / "train.csv", tmp_path / "out"))


def test_unknown_options_are_refused_at_once():
    with pytest.raises(ConfigError, match="no language model is called 'gpt'"):
        RewriteConfig("data", "out", llm="gpt")
    with pytest.raises(ConfigError, match="--unanswered is 'perhaps': it must be one of stop, rules"):
        RewriteConfig("data", "out", unanswered="perhaps")


REPORTS = {
    "FINDINGS: Opacity in the right lower lobe. IMPRESSION: Right lower lobe pneumonia. Follow-up CT is recommended.": (
        "X-ray, Chest, Unspecified view, Right lower lobe pneumonia"
    ),
    "FINDINGS: The heart is normal in size. No effusion or pneumothorax. IMPRESSION: No acute abnormality.": (
        "X-ray, Chest, Unspecified view, Normal"
    ),
    "Radiografía de tórax con derrame pleural izquierdo": "Radiografía de tórax con derrame pleural izquierdo",
}


def test_reports_are_read_by_their_impression_and_other_languages_stay(tmp_path):
    rows = pd.DataFrame({"ID": ["R1", "R2", "R3"], "Caption": [*REPORTS], "CUIs": [f"{XR};{CHEST}"] * 3})
    rows.to_csv(tmp_path / "train.csv", index=False)
    names = pd.DataFrame({"CUI": [XR, CHEST], "Canonical name": ["Plain x-ray", "Chest"]})
    names.to_csv(tmp_path / "cui_mapping.csv", index=False)
    out = rewrite(RewriteConfig(tmp_path / "train.csv", tmp_path / "out", text="report"))
    got = pd.read_csv(out / "train_rewritten.csv")
    assert got.Transformed.tolist() == [*REPORTS.values()]
    assert got.Verdict.tolist() == ["rules", "rules", "not read: Spanish"]


def test_unstated_normal_gives_the_template_of_the_paper():
    rows = table("Chest CT")
    assert transform_captions(rows, NAMES, "rules").transformed[0].endswith("Unspecified finding")
    assert transform_captions(rows, NAMES, "rules", unstated="normal").transformed[0].endswith("Normal")


def test_findings_may_be_left_out_where_that_is_allowed():
    rows = table("Chest CT with pneumonia and a rib fracture")
    shorter = Model(lambda chat: "Computed tomography, Chest, Unspecified view, Pneumonia")
    assert transform_captions(rows, NAMES, shorter).verdict[0].startswith("fallback:left out: ")
    assert transform_captions(rows, NAMES, shorter, allow_shorter=True).verdict[0] == "ok"
