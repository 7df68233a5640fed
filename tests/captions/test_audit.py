"The audit of rewritten captions: every kind of contradiction by hand, the baseline counted a second way, the official text, bad files, and what is written."

import csv, re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro

from conftest import OFFICIAL
from radgen import caption_audit as ca
from radgen.captions.audit import audit
from radgen.captions.audit_files import read_captions, read_rewriting
from radgen.captions.audit_report import audit_files, audit_text, blind_check, compare, plot_audit, plot_blind
from radgen.captions.config import AuditConfig
from radgen.text.encoders import token_counter
from radgen.captions.facts import source
from radgen.captions.rules import render
from radgen.captions.verify import rewrite_by_rules
from radgen.core.errors import AssetError, ConfigError, DataError

CT, XR, MR, US, CHEST, HEAD, AP, PNEUMONIA = (
    "C0040405",
    "C1306645",
    "C0024485",
    "C0041618",
    "C0817096",
    "C0006104",
    "C1999039",
    "C0032285",
)
NAMES = {
    CT: "X-Ray Computed Tomography",
    XR: "Plain x-ray",
    MR: "Magnetic Resonance Imaging",
    US: "Ultrasonography",
    CHEST: "Chest",
    HEAD: "Head",
    AP: "Anterior-Posterior",
    PNEUMONIA: "Pneumonia",
}
NODULE = "Chest CT shows a 3 cm nodule in the left lung and no effusion."
FLAIR = "Axial contrast-enhanced FLAIR MRI of the brain shows a mass."

HAND = [  # caption, concepts, rewritten, what is wrong
    (NODULE, [CT], "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung and no effusion", []),
    (NODULE, [CT], "CT, Lungs, Unspecified view, Nodule of 3 cm in left lung, no effusion.", []),
    (NODULE, [CT], "X-ray, Chest, Unspecified view, 3 cm nodule in the left lung and no effusion", ["image type"]),
    (
        NODULE,
        [CT, CHEST],
        "Computed tomography, Knee, Unspecified view, 3 cm nodule in the left lung and no effusion",
        ["body part"],
    ),
    ("Chest radiograph shows a nodule.", [XR, CHEST, AP], "X-ray, Chest, Lateral view, Nodule", ["view"]),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Axial view, 3 cm nodule in the left lung and no effusion",
        ["plane invented"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, MRI shows a 3 cm nodule in the left lung and no effusion",
        ["other modality"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 5 cm nodule in the left lung and no effusion",
        ["number invented", "number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 mm nodule in the left lung and no effusion",
        ["number invented", "number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, Nodule in the left lung and no effusion",
        ["number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the right lung and no effusion",
        ["side swapped", "side left out"],
    ),
    ("Chest CT shows a nodule.", [CT], "Computed tomography, Chest, Unspecified view, Left nodule", ["side invented"]),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the lung and no effusion",
        ["side left out"],
    ),
    (
        "CT: left nodule and right effusion",
        [CT],
        "Computed tomography, Chest, Unspecified view, Right nodule and left effusion",
        ["side moved"],
    ),
    (
        "CT: 3 cm nodule and 5 mm cyst",
        [CT],
        "Computed tomography, Chest, Unspecified view, 5 mm nodule and 3 cm cyst",
        ["number moved"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung and effusion",
        ["negation lost"],
    ),
    (NODULE, [CT], "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung", ["negation left out"]),
    (
        "CT shows a nodule and effusion",
        [CT],
        "Computed tomography, Chest, Unspecified view, Nodule and no effusion",
        ["negation invented"],
    ),
    (
        "CT: no large effusion",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, No effusion",
        ["negation moved"],
    ),
    (
        FLAIR,
        [MR],
        "Contrast-enhanced fluid-attenuated inversion recovery magnetic resonance imaging, Head, Axial view, Mass",
        [],
    ),
    (
        FLAIR,
        [MR],
        "Contrast-enhanced T1-weighted magnetic resonance imaging, Head, Axial view, Mass",
        ["sequence invented", "sequence left out"],
    ),
    (
        FLAIR,
        [MR],
        "Non-contrast fluid-attenuated inversion recovery magnetic resonance imaging, Head, Axial view, Mass",
        ["contrast invented", "contrast left out"],
    ),
    (FLAIR, [MR], "MRI, Brain, Unspecified view, Mass", ["contrast left out", "plane left out", "sequence left out"]),
    (
        "CT shows a nodule.",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Malignant nodule",
        ["new word"],
    ),
    (
        "Chest CT shows a nodule.",
        [CT],
        "Computed tomography, Chest, Unspecified view, Normal",
        ["'Normal' beside a finding"],
    ),
    (
        "Chest radiograph.",
        [XR, CHEST, PNEUMONIA],
        "X-ray, Chest, Unspecified view, Normal",
        ["'Normal' beside a finding"],
    ),
    (
        "Chest CT shows a nodule in the apex.",
        [CT],
        "Computed tomography, Chest, Unspecified view, Apex",
        ["finding left out"],
    ),
    ("Chest radiograph: no acute abnormality", [XR, CHEST], "X-ray, Chest, Unspecified view, Normal.", []),
    ("Chest radiograph: no fracture", [XR, CHEST], "X-ray, Chest, Unspecified view, Normal.", ["negation left out"]),
    ("Chest radiograph.", [XR, CHEST, AP], "X-ray, Chest, Frontal view of Normal", []),
    (
        "CT: unilateral nodule",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Left nodule",
        ["side invented", "side left out"],
    ),
    (
        "CT: bilateral effusion",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Left and right effusion",
        ["side moved"],
    ),
    ("CT of the parotid gland shows a mass", [CT, HEAD], "CT, Parotid gland, Unspecified view, Mass", []),
    ("Lateral chest radiograph with a nodule", [XR, CHEST, AP], "X-ray, Chest, Antero-posterior view, Nodule", []),
    ("Something else", [], "invalid", []),
]


def table(rows=HAND):
    "Rows as a table."
    return pd.DataFrame(
        [
            dict(id=f"R{i}", caption=c, cuis=k, transformed=t, verdict="ok" if i % 2 else "rules")
            for i, (c, k, t, _) in enumerate(rows)
        ]
    )


@pytest.mark.parametrize("row", HAND, ids=lambda r: r[2][:50] + " / " + "+".join(r[3]))
def test_each_kind_by_hand(row):
    caption, cuis, text, kinds = row
    assert sorted(ca.audit_row(text, caption, cuis, NAMES)["kinds"]) == sorted(kinds)


def test_every_kind_has_a_row():
    assert {k for r in HAND for k in r[3]} == {*ca.CONTRADICTIONS, *ca.OMISSIONS}


def test_sums_are_those_of_the_rows():
    a = audit(table(), NAMES)
    valid = len(HAND) - 1
    for kind in (*ca.CONTRADICTIONS, *ca.OMISSIONS):
        n = sum(kind in r[3] for r in HAND)
        assert (a.kinds.rows[kind], a.kinds.share[kind]) == (n, n / valid)
    m = a.modalities
    ct = [r for r in HAND if r[1][:1] == [CT]]
    assert (m.rows["Computed tomography"], m["image type stated"]["Computed tomography"]) == (len(ct), len(ct))
    assert m["image type agrees"]["Computed tomography"] == pytest.approx(1 - 1 / len(ct))
    assert (m["body part stated"]["Computed tomography"], m["body part agrees"]["Computed tomography"]) == (2, 0.5)
    assert (m["view stated"]["X-ray"], m["view agrees"]["X-ray"]) == (3, pytest.approx(2 / 3))
    assert (
        m.rows["all"] == len(HAND)
        and m.coverage["all"] == valid / len(HAND)
        and m.coverage["not stated"] == 0
        and m.rows["not stated"] == 1
    )
    s = a.scalars
    assert s["'Normal'"] == pytest.approx(sum("ormal" in r[2] for r in HAND) / valid)
    assert (s["'Normal' where a concept is a finding"], s["'Normal' where the caption affirms a finding"]) == (1, 1)
    assert s["words, median"] == np.median([len(r[2].split()) for r in HAND[:-1]]) and "tokens, median" not in s
    assert a.verdicts.to_dict() == {"rules": (len(HAND) + 1) // 2, "ok": len(HAND) // 2}


def test_order_of_rows_changes_nothing():
    count, _ = token_counter()
    a = audit(table(), NAMES, count)
    for seed in range(3):
        b = audit(table().sample(frac=1, random_state=seed).reset_index(drop=True), NAMES, count)
        pd.testing.assert_frame_equal(compare({"x": a}), compare({"x": b}))


def test_one_bad_row_does_not_touch_the_others():
    a = audit(table(), NAMES).rows.kinds
    spoilt = table()
    spoilt.loc[0, "transformed"] = "X-ray, Knee, Axial view, Right fracture of 9 cm"
    b = audit(spoilt, NAMES).rows.kinds
    assert (a[1:] == b[1:]).all() and {
        "image type",
        "number invented",
        "side swapped",
        "plane invented",
        "new word",
    } <= set(b[0])


def test_foreign_lines_are_understood():
    assert read_rewriting(
        "Image: Angiogram\nBody Part: Heart\nView of Image: Left ventricle\nPatient's Condition: Hypokinesis"
    )[0] == ("Angiogram", "Heart", "Left ventricle", "Hypokinesis")
    assert read_rewriting("X-ray, Chest, Front View of Patient with Goiter") == (
        ("X-ray", "Chest", "Front View of Patient with Goiter", "Front View of Patient with Goiter"),
        False,
    )
    assert read_rewriting("X-ray, Chest, PA, Normal.") == (("X-ray", "Chest", "PA", ""), True)
    for odd in ("", ",", "\n", "{", "{}", "[]", "a" * 5000, "|||,,,", "🩻"):
        read_rewriting(odd)
    for kind, words in {
        "Ultrasonography": "Echocardiogram, Sonogram, Ultrasound image, Doppler ultrasound",
        "Computed tomography": "CT, CT scan, Computed Tomography image",
        "X-ray": "X-Ray, Plain X-ray, Panoramic X-ray",
    }.items():
        assert {ca.type_of(w) for w in words.split(", ")} == {kind}


def test_nothing_to_count():
    a = audit(table([HAND[-1]]), NAMES)
    assert a.modalities.coverage["all"] == 0 and np.isnan(a.scalars["'Normal'"]) and a.kinds.rows.sum() == 0
    assert "| coverage | 0% |" in audit_text({"x": a})
    plot_audit({"x": a})


def test_tokens_are_the_encoders():
    from radgen.text.encoders import TextEncoder

    count, most = token_counter("minilm")
    encoder = TextEncoder("minilm", max_length=64)
    texts = [r[2] for r in HAND] + ["lung " * n for n in (61, 62, 63, 64, 100)]
    direct = [len(encoder.tokenizer(t)["input_ids"]) for t in texts]
    assert count(texts).tolist() == direct and most == encoder.tokenizer.model_max_length
    longest = encoder(["lung " * 100]).mask.sum().item()
    assert longest == 64
    rows = [(NODULE, [CT], t, []) for t in texts[-5:]]
    a = audit(table(rows), NAMES, count, limit=64)
    assert (
        a.scalars["cut at 64 tokens"] == np.mean([n > 64 for n in direct[-5:]])
        and 0 < a.scalars["cut at 64 tokens"] < 1
    )


def test_tokenizers_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no text encoder is called 'bert'.*radbert, clip, minilm"):
        token_counter("bert")
    with pytest.raises(AssetError, match="lacks config.json, a tokenizer: .*--encoder minilm"):
        token_counter(str(tmp_path))


def write(path, cells, header=("ID", "Caption", "CUIs", "Transformed", "Verdict", "Sources"), names=True):
    "A CSV file with names beside it."
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *cells])
    if names:
        with open(path.parent / "cui_mapping.csv", "w", newline="") as f:
            csv.writer(f).writerows([("CUI", "Canonical name"), *NAMES.items()])
    return path


CELLS = [(f"R{i}", c, ";".join(k), t, "ok", "concept;caption;") for i, (c, k, t, _) in enumerate(HAND)]


def test_every_layout_says_the_same(tmp_path):
    want = audit(table(), NAMES).rows.kinds.tolist()
    ours = write(tmp_path / "ours.csv", CELLS)
    llama = write(tmp_path / "llama.csv", [c[:4] for c in CELLS], ("ID", "Caption", "CUIs", "Keywords"))
    lower = write(tmp_path / "lower.csv", [c[:4] for c in CELLS], ("id", "caption", "cuis", "transformed"))
    folder = tmp_path / "prepared"
    folder.mkdir()
    t = table().assign(keep=True)
    pd.concat([t, t[:1].assign(id="dropped", transformed="", keep=False)]).to_parquet(folder / "table.parquet")
    pd.Series(NAMES).to_json(folder / "names.json")
    for path in (ours, llama, lower, folder):
        f = read_captions(path)
        assert (
            f.label == path.stem
            and f.names == NAMES
            and list(f.table) == ["id", "caption", "cuis", "transformed", "verdict"]
        )
        assert audit(f.table, f.names).rows.kinds.tolist() == want
    assert (
        set(read_captions(llama).table.verdict) == {""}
        and set(read_captions(ours).table.verdict) == {"ok"}
        and set(read_captions(folder).table.verdict) == {"ok", "rules"}
    )
    (tmp_path / "cui_mapping.csv").rename(tmp_path / "other.csv")
    with pytest.raises(ConfigError, match="no cui_mapping.csv lies beside .*give --names"):
        read_captions(ours)
    assert read_captions(ours, tmp_path / "other.csv").names == NAMES


def bad(tmp_path, text, name="x.csv", encoding="utf-8"):
    write(tmp_path / "names" / "ok.csv", CELLS)
    path = tmp_path / "names" / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text,encoding,error,told",
    [
        ("", "utf-8", DataError, "x.csv in .* is empty: it needs the header ID,Caption,CUIs"),
        ("ID,Caption,CUIs,Transformed\n", "utf-8", DataError, "has a header and no rows"),
        ("ID,Caption,Transformed\n1,a,b\n", "utf-8", DataError, "no column CUIs in x.csv"),
        (
            "ID,Caption,CUIs\n1,a,C0040405\n",
            "utf-8",
            DataError,
            "no column Transformed or Keywords in x.csv.*radgen captions rewrite",
        ),
        ("ID,Caption,CUIs,Transformed\n1,é,C0040405,x\n", "latin-1", DataError, "is not a readable CSV.*save as UTF-8"),
        (
            "ID,Caption,CUIs,Transformed\n1,a,C0040405,\n2,b,C0040405,x\n",
            "utf-8",
            DataError,
            "1 of 2 rows have no rewritten caption in .*the first is 1.*write 'invalid'",
        ),
        (
            "ID,Caption,CUIs,Transformed\n1,,C0040405,x\n2, ,C0040405,x\n",
            "utf-8",
            DataError,
            "no row has a source caption",
        ),
        ("ID,Caption,CUIs,Transformed\n1,a,chest,x\n", "utf-8", DataError, "'chest' of 1 in .* is no CUI"),
        (
            "ID,Caption,CUIs,Transformed\n1,a,C0040405,x,y\n",
            "utf-8",
            DataError,
            "more cells in a row than in its header",
        ),
        ("ID,Caption,caption,CUIs,Transformed\n1,a,a,C0040405,x\n", "utf-8", DataError, "has the column Caption twice"),
    ],
)
def test_files_that_cannot_be_judged(tmp_path, text, encoding, error, told):
    with pytest.raises(error, match=told):
        read_captions(bad(tmp_path, text, encoding=encoding))


def test_folders_that_cannot_be_judged(tmp_path):
    with pytest.raises(DataError, match="there is no folder or file"):
        read_captions(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="is not a prepared folder"):
        read_captions(tmp_path)
    (tmp_path / "table.parquet").write_text("no")
    with pytest.raises(DataError, match="is not a readable Parquet file.*run radgen prepare again"):
        read_captions(tmp_path)
    table().drop(columns="transformed").to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match="no column transformed in"):
        read_captions(tmp_path)
    table().assign(transformed=[None, *table().transformed[1:]]).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=f"1 of {len(HAND)} rows have no rewritten caption"):
        read_captions(tmp_path)
    table().assign(keep=False).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match="holds no rows that are kept"):
        read_captions(tmp_path)


def test_an_empty_source_caption_is_a_row(tmp_path):
    f = read_captions(
        write(
            tmp_path / "x.csv",
            [("1", "", CT, "Computed tomography, Unspecified region, Unspecified view, Normal", "", ""), CELLS[0]],
        )
    )
    a = audit(f.table, f.names)
    assert a.rows.kinds.tolist() == [[], []] and a.modalities.coverage["all"] == 1


def test_options_that_cannot_work(tmp_path):
    ok = write(tmp_path / "a.csv", CELLS)
    for cfg, told in (
        (AuditConfig(()), "no file is named"),
        (AuditConfig((ok,) * 5), "5 files are named: at most 4"),
        (AuditConfig((ok,), limit=0), "--limit is 0"),
        (AuditConfig((ok,), show=-1), "--show is -1"),
        (AuditConfig((ok,), out=ok), "is a file: name a folder"),
        (AuditConfig((ok,), encoder="x"), "no text encoder is called 'x'"),
    ):
        with pytest.raises(ConfigError, match=told):
            audit_files(cfg)


def test_what_is_written(tmp_path):
    a, b = (
        write(tmp_path / "p" / "captions.csv", CELLS),
        write(
            tmp_path / "q" / "captions.csv", [(*c[:3], "X-ray, Chest, Unspecified view, Normal", *c[4:]) for c in CELLS]
        ),
    )
    text = audit_files(AuditConfig((a, b), out=tmp_path / "out", show=1))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["audit.csv", "audit.md", "audit.png"]
    written = (tmp_path / "out" / "audit.md").read_text() + (tmp_path / "out" / "audit.csv").read_text()
    assert "| p/captions | q/captions |" in text and text.startswith((tmp_path / "out" / "audit.md").read_text())
    assert (
        "nodule" in text and "nodule" not in written and "R3" in text and "R3" not in written
    )  # captions go to the terminal alone
    back = pd.read_csv(tmp_path / "out" / "audit.csv", index_col=[0, 1])
    files = {l: read_captions(p) for l, p in (("p/captions", a), ("q/captions", b))}
    pd.testing.assert_frame_equal(
        back, compare({l: audit(f.table, f.names, token_counter()[0]) for l, f in files.items()}), check_names=False
    )
    assert (
        back.loc[("contradiction, rows", "image type"), "q/captions"] == sum(r[1][:1] != [XR] for r in HAND[:-1])
        and (tmp_path / "out" / "audit.png").read_bytes()[:4] == b"\x89PNG"
    )


def test_examples_cannot_steer_the_terminal(tmp_path):
    path = write(
        tmp_path / "x.csv",
        [("1", "Chest CT\x1b[31m shows a nodule", CT, "X-ray, Chest, Unspecified view, \x1b]0;x\x07 nodule", "", "")],
    )
    assert audit_files(AuditConfig((path,), show=2)).isprintable() is False  # line ends
    assert not set(audit_files(AuditConfig((path,), show=2))) & {"\x1b", "\x07"}


def test_options_by_the_command_line():
    cfg = tyro.cli(AuditConfig, args=["a.csv", "b", "--limit", "77", "--out", "o"])
    assert cfg == AuditConfig((Path("a.csv"), Path("b")), limit=77, out=Path("o"))


@pytest.mark.parametrize("n", (1, 2, 4))
def test_figure_for_one_to_four(n):
    a = audit(table(), NAMES, token_counter()[0])
    fig = plot_audit({f"file {i}": a for i in range(n)})
    assert len(fig.axes) == 5 and len(fig.legends[0].get_texts()) == n


def test_figure_of_too_many():
    with pytest.raises(ConfigError, match="5 audits cannot be drawn"):
        plot_audit({str(i): audit(table(), NAMES) for i in range(5)})


def test_blind_check(tmp_path):
    rows = [
        dict(row=i, system=s, **{k: int(k == "side" and i < n) for k in ca.BLIND}, readable=int(i != 0))
        for s, n in (("ours", 0), ("llama3", 5))
        for i in range(20)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "b.csv", index=False)
    t = blind_check(tmp_path / "b.csv").set_index(["system", "kind"])
    assert (
        t.errors["llama3", "side"] == t.errors["llama3", "any error"] == 5
        and t.errors["ours", "any error"] == 0
        and t.errors["ours", "hard to read"] == 1
    )
    p, z, n = 0.25, 1.959964, 20  # Wilson's interval by its formula
    mid, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / (1 + z * z / n),
    )
    assert (t.low["llama3", "side"], t.high["llama3", "side"]) == pytest.approx((mid - half, mid + half), abs=1e-5)
    plot_blind(t.reset_index())
    pd.DataFrame(rows).assign(side=2).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DataError, match="marks other than 0 and 1"):
        blind_check(tmp_path / "c.csv")
    with pytest.raises(DataError, match="no column normal"):
        pd.DataFrame(rows).drop(columns="normal").to_csv(tmp_path / "d.csv", index=False)
        blind_check(tmp_path / "d.csv")


# the official text, counted a second way: csv, a list of CUIs, and a few words

KINDS = {
    "C0040405": "Computed tomography",
    "C1306645": "X-ray",
    "C0024485": "Magnetic resonance imaging",
    "C0041618": "Ultrasonography",
    "C0002978": "Angiogram",
    "C0032743": "Positron emission tomography",
}


def cells(name):
    with open(OFFICIAL / name, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def plain_type(text):
    "The image type that a first field names, by a few words."
    t = text.lower()
    for kind, words in (
        ("Positron emission tomography", "pet positron"),
        ("Magnetic resonance imaging", "mri magnetic mr"),
        ("Angiogram", "angiogra arteriogra venogra"),
        ("Computed tomography", "tomogra ct"),
        ("Ultrasonography", "ultraso sonogra echo doppler"),
        ("X-ray", "x-ray xray x- radiogra fluorosc"),
    ):
        if any(re.search(rf"\b{w}" if len(w) > 3 else rf"\b{w}\b" if w[-1] != "-" else w, t) for w in words.split()):
            return kind
    return ""


def test_baseline_counted_a_second_way(official_text):
    rows = cells("train_llama3_keywords.csv")
    f = read_captions(OFFICIAL / "train_llama3_keywords.csv")
    a = audit(f.table, f.names)
    m = a.modalities
    assert len(rows) == len(f.table) == m.rows["all"] == 10311
    agree = {k: [] for k in KINDS.values()}
    for r in rows:
        found = {KINDS[c] for c in r["CUIs"].split(";") if c in KINDS}
        if len(found) == 1:
            agree[kind].append(plain_type(r["Keywords"].split(",")[0]) == kind) if (kind := next(iter(found))) else None
    for kind, n in {
        "Computed tomography": 0.65,
        "X-ray": 0.98,
        "Magnetic resonance imaging": 0.92,
        "Ultrasonography": 0.95,
        "Angiogram": 0.57,
    }.items():
        assert m["image type agrees"][kind] == pytest.approx(n, abs=0.015) and np.mean(agree[kind]) == pytest.approx(
            n, abs=0.03
        )
        assert abs(m.rows[kind] - len(agree[kind])) <= 0.01 * len(agree[kind])
    word = sum("normal" in r["Keywords"].lower() for r in rows) / len(rows)
    assert 0.62 < word < 0.64 and a.scalars["'normal' in any words"] == pytest.approx(word)
    last = sum(re.search(r"[,;:]\s*normal\.?\s*$", r["Keywords"], re.I) is not None for r in rows) / len(rows)
    assert last <= a.scalars["'Normal'"] <= word and a.kinds.rows["'Normal' beside a finding"] > 1000


def test_done_when_on_the_official_text(official_text):
    names = {r["CUI"]: r["Canonical name"] for r in cells("cui_mapping.csv")}
    rows = []
    for s in ("valid", "test"):
        concepts = {r["ID"]: r["CUIs"].split(";") for r in cells(f"{s}_concepts.csv")}
        rows += [(r["ID"], r["Caption"], concepts[r["ID"]]) for r in cells(f"{s}_captions.csv")]
    t = pd.DataFrame(rows, columns=["id", "caption", "cuis"])
    t["transformed"] = [render(rewrite_by_rules(source(c, k, names))) for c, k in zip(t.caption, t.cuis)]
    a = audit(t, names)
    assert (
        len(t) == 19831
        and (a.modalities["image type agrees"].dropna() >= 0.995).all()
        and a.modalities.coverage["all"] >= 0.97
    )
    assert not a.kinds.rows.filter(regex="^(number|side|negation)").any()
    assert a.scalars["'Normal' where a concept is a finding"] == 0 and a.kinds.rows["'Normal' beside a finding"] == 0
    hits = {k: [] for k in KINDS.values()}  # the second way
    for text, cuis in zip(t.transformed, t.cuis):
        found = {KINDS[c] for c in cuis if c in KINDS}
        if len(found) == 1 and text != "invalid":
            hits[next(iter(found))].append(text.split(",")[0].lower().endswith(next(iter(found)).lower()))
    for kind, x in hits.items():
        assert np.mean(x) >= 0.995, kind
    assert (t.transformed == "invalid").mean() <= 0.03
