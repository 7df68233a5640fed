"Preparation as a whole: the funnel adds up, nothing is measured twice, a kill leaves the old or the new, Ray says what we say."

import os, shutil, signal, subprocess, sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import radgen.entropy, radgen.prepare
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json
from radgen.data.cuis import select_rows
from radgen.data.rows import reason_kind
from radgen.data.tables import SPLITS
from radgen.data.copies import inject_copies
from radgen.data.phantoms import make_phantoms
from radgen.prepared.config import PrepareConfig
from radgen.prepared.folder import load_prepared
from radgen.prepared.prepare import funnel, plot_funnel, prepare
from radgen.prepared.stages import run_stage


@pytest.fixture
def raw(phantoms, tmp_path, monkeypatch):
    "A small data set with copies, and a cache of its own."
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    return inject_copies(make_phantoms(tmp_path / "plain", 90, 20, 30, seed=3), tmp_path / "raw", n=25)


@pytest.fixture
def decoded(monkeypatch):
    "The images that measuring decodes."
    seen, load = [], radgen.entropy.load_grey
    monkeypatch.setattr(radgen.entropy, "load_grey", lambda image: (seen.append(Path(image).stem), load(image))[1])
    return seen


def cfg(raw, **kw):
    return PrepareConfig(raw, raw.parent / "out", **{"llm": "rules", "workers": 1, **kw})


def test_the_funnel_adds_up(raw):
    prepared = prepare(cfg(raw))
    rows = pd.read_csv(prepared.dir / "funnel.csv", keep_default_na=False)
    rejects = pd.read_csv(prepared.dir / "rejects.csv")
    assert rows.columns.tolist() == ["stage", "reason", *SPLITS, "all"] and rows.stage.drop_duplicates().tolist() == [
        "given",
        "read",
        "concepts",
        "image quality",
        "copies",
    ]
    before = None
    for stage, part in rows.groupby("stage", sort=False):
        left, gone = part[part.reason == ""].iloc[0], part[part.reason != ""]
        for c in (*SPLITS, "all"):
            if before is not None:
                assert left[c] == before[c] - gone[c].sum()
            if c != "all":
                assert gone[c].sum() == ((rejects.stage == stage) & (rejects.split == c)).sum()
        before = left
    assert (
        [before[s] for s in SPLITS]
        == [prepared.manifest["rows"][s] for s in SPLITS]
        == [len(prepared.rows(s)) for s in SPLITS]
    )
    given = pd.concat(pd.read_csv(raw / f"{s}_captions.csv") for s in SPLITS)
    assert len(rejects) + prepared.table.keep.sum() == len(given) and set(rejects.id) | set(
        prepared.table.id[prepared.table.keep]
    ) == set(given.ID)
    assert rejects.id.is_unique and rejects.reason.str.len().gt(3).all() and "other" not in set(rejects.stage)
    assert (rows[rows.stage == "copies"]["all"].iloc[:-1].sum() > 0) and all(
        (prepared.dir / "fig" / f"{f}.png").stat().st_size > 5000
        for f in ("funnel", "cuis", "modalities", "entropy", "kept", "copies")
    )
    assert len(plot_funnel(rows).axes) == 1
    copies, balance = (
        pd.read_csv(prepared.dir / "copies.csv"),
        pd.read_csv(prepared.dir / "modalities.csv", index_col="modality"),
    )
    assert (
        (copies.groupby("keeper").size() > 1).all()
        and set(copies.keeper) <= set(copies.id)
        and set(rejects.id[rejects.stage == "copies"]) <= set(copies.id)
    )
    assert balance.kept.sum() >= prepared.manifest["rows"]["train"] and (balance.kept <= balance.before).all()


def test_funnel_by_hand():
    table = pd.DataFrame(
        {
            "id": list("abcdef"),
            "split": ["train"] * 4 + ["valid", "test"],
            "keep": [True, False, False, False, False, True],
            "reason": [
                "",
                "CUI not selected: C1 x",
                "entropy below 1.5: 1.2",
                "copy of a test image: f",
                "no named CUI",
                "",
            ],
        }
    )
    rejects = pd.DataFrame(
        {"id": ["g", "h"], "split": ["train", "test"], "reason": ["image missing", "malformed CUI: c1"]}
    )
    assert funnel(table, rejects).values.tolist() == [
        ["given", "", 5, 1, 2, 8],
        ["read", "image missing", 1, 0, 0, 1],
        ["read", "malformed CUI", 0, 0, 1, 1],
        ["read", "", 4, 1, 1, 6],
        ["concepts", "CUI not selected", 1, 0, 0, 1],
        ["concepts", "no named CUI", 0, 1, 0, 1],
        ["concepts", "", 3, 0, 1, 4],
        ["image quality", "entropy below 1.5", 1, 0, 0, 1],
        ["image quality", "", 2, 0, 1, 3],
        ["copies", "copy of a test image", 1, 0, 0, 1],
        ["copies", "", 1, 0, 1, 2],
    ]


def test_no_image_is_measured_twice(raw, decoded):
    first = prepare(cfg(raw, k=5))
    n = len(decoded)
    assert n == (reason_kind(first.table.reason) != "CUI not selected").sum() == len(set(decoded))
    unreadable = set(first.table.id[first.table.reason.str.startswith("image unreadable")])
    decoded.clear()
    prepare(cfg(raw, k=5, min_entropy=2.0))
    assert set(decoded) == unreadable  # other bounds: only what could not be decoded is tried again
    decoded.clear()
    more = prepare(cfg(raw, k=10))
    fresh = set(more.table.id[reason_kind(more.table.reason) != "CUI not selected"]) - set(
        first.table.id[reason_kind(first.table.reason) != "CUI not selected"]
    )
    assert set(decoded) == fresh | unreadable and fresh  # more concepts: the images that they bring
    i = more.rows("train").iloc[0]
    os.utime(i.image, (1, 1))
    decoded.clear()
    prepare(cfg(raw, k=10))
    assert set(decoded) == {i.id} | set(more.table.id[more.table.reason.str.startswith("image unreadable")])
    decoded.clear()
    again = prepare(cfg(raw, k=10))
    assert not decoded  # up to date
    shutil.rmtree(raw.parent / "cache")
    scratch = prepare(replace(cfg(raw, k=10), out=raw.parent / "other"))
    pd.testing.assert_frame_equal(scratch.table, again.table)  # what was remembered is what would be measured


def test_an_interrupted_measurement_goes_on(raw, decoded, monkeypatch):
    monkeypatch.setattr(radgen.prepare, "SLICE", 20)
    real, calls = radgen.prepare.measure_images, []

    def measure(table, **kw):
        calls.append(len(table))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(table, **kw)

    monkeypatch.setattr(radgen.prepare, "measure_images", measure)
    with pytest.raises(KeyboardInterrupt):
        prepare(cfg(raw))
    assert not (raw.parent / "out").exists() and len(decoded) == 40
    done = set(decoded)
    decoded.clear()
    prepared = prepare(cfg(raw))
    assert (
        len(set(decoded) & done)
        == prepared.table.reason[prepared.table.id.isin(done)].str.startswith("image unreadable").sum()
    )


@pytest.mark.parametrize("change", ["option", "image", "caption", "names"])
def test_what_changes_the_result_is_done_anew(raw, change):
    first = prepare(cfg(raw))
    if change == "image":
        os.utime(first.rows("train").image[0])
    if change == "caption":
        (raw / "train_captions.csv").write_text((raw / "train_captions.csv").read_text() + "\n")
    if change == "names":
        (raw / "cui_mapping.csv").write_text((raw / "cui_mapping.csv").read_text().replace("Chest", "Thorax"))
    second = prepare(cfg(raw, copies="all" if change == "option" else "leaks"))
    assert second.manifest["fingerprint"] != first.manifest["fingerprint"]
    assert prepare(cfg(raw, copies="all" if change == "option" else "leaks", workers=2)).manifest == second.manifest


def test_a_kill_leaves_the_old_or_the_new(raw):
    out = raw.parent / "out"
    prepare(cfg(raw, k=3))
    old = read_json(out / "manifest.json")["fingerprint"]
    code = f"from radgen.prepare import *; import sys; prepare(PrepareConfig({str(raw)!r}, {str(out)!r}, llm='rules', workers=1, k=int(sys.argv[1])))"
    start, ks = time.perf_counter(), [4, 5, 6, 7, 8]
    subprocess.run([sys.executable, "-c", code, "4"], check=True, capture_output=True)
    whole = time.perf_counter() - start
    assert read_json(out / "manifest.json")["fingerprint"] != old
    for n, k in enumerate(ks[1:]):
        p = subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.72 + 0.09 * n))  # mostly while it writes
        p.send_signal(signal.SIGKILL)
        p.wait()
        now = load_prepared(out)
        assert now.manifest["config"]["k"] in (*ks[: n + 2], 3) and now.manifest["rows"] == {
            s: len(now.rows(s)) for s in SPLITS
        }
        assert (
            len(pd.read_csv(out / "rejects.csv")) + now.table.keep.sum() == 165
            and (out / "fig" / "funnel.png").exists()
        )
    final = prepare(cfg(raw, k=8))
    assert final.manifest["config"]["k"] == 8 and not [p for p in raw.parent.iterdir() if p.name.startswith(".tmp-out")]


def test_options_reach_the_stages(raw):
    base = prepare(cfg(raw))
    knee = prepare(cfg(raw, k="knee"))
    assert 1 <= len(knee.selected) <= 50
    every = prepare(cfg(raw, rule="any"))
    assert every.table.keep.sum() > base.table.keep.sum() and {"no CUI selected", "CUI not selected"} & set(
        reason_kind(base.table.reason)
    ) == {"CUI not selected"}
    no_ct = prepare(cfg(raw, rule="any", exclude=("C0040405",)))
    assert (
        not any("C0040405" in c for c in no_ct.rows("train").cuis)
        and no_ct.table.reason.str.startswith("CUI excluded: C0040405").any()
    )
    only = prepare(cfg(raw, k=0, include=("C0024485",), rule="any"))
    assert only.selected == ["C0024485"] and all("C0024485" in c for c in only.rows("train").cuis)
    strict = prepare(cfg(raw, min_entropy="10%"))
    assert strict.table.reason.str.contains(r"\(10%\)").any()
    assert (
        prepare(cfg(raw, copies="keep")).table.keep.sum()
        > base.table.keep.sum()
        > prepare(cfg(raw, copies="all")).table.keep.sum()
    )
    assert {"C0205090", "C0205091"} & set(prepare(cfg(raw, unnamed="keep", k=39)).selected) and not {
        "C0205090",
        "C0205091",
    } & set(prepare(cfg(raw, k=30)).selected)


@pytest.fixture(scope="module")
def ray_here():
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[ray]')")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_ray_says_what_we_say(raw, ray_here, monkeypatch):
    monkeypatch.setattr(radgen.prepare, "BLOCK", 32)
    local = prepare(cfg(raw, min_contrast="2%"))
    shutil.rmtree(raw.parent / "cache")
    by_ray = prepare(replace(cfg(raw, min_contrast="2%", engine="ray"), out=raw.parent / "by_ray"))
    pd.testing.assert_frame_equal(by_ray.table, local.table)
    assert by_ray.manifest["content"] == local.manifest["content"]
    for name in "funnel.csv", "rejects.csv", "cuis.csv", "copies.csv":
        assert (by_ray.dir / name).read_text() == (local.dir / name).read_text()


def test_ray_keeps_the_order_of_rows(ray_here):
    table = pd.DataFrame(
        {
            "id": [f"i{n}" for n in range(1000)],
            "cuis": [["C0000001"] if n % 3 else ["C0000002", "C0000001"] for n in range(1000)],
            "split": "train",
        },
        index=range(5, 1005),
    )
    stage = partial(select_rows, selected=["C0000001"], names={"C0000001": "a", "C0000002": "b"})
    pd.testing.assert_frame_equal(run_stage(stage, table, "ray"), run_stage(stage, table))


def test_without_ray_one_sentence(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray: pip install -e '.\[ray\]'"):
        prepare(cfg(raw, engine="ray"))


def test_rows_of_an_unknown_split_are_in_the_funnel(raw):
    for s in SPLITS:
        shutil.copytree(raw / f"{s}_images", raw.parent / "pictures", dirs_exist_ok=True)
    rows = pd.concat(
        pd.read_csv(raw / f"{s}_captions.csv").merge(pd.read_csv(raw / f"{s}_concepts.csv")).assign(split=s)
        for s in SPLITS
    ).set_axis(["id", "caption", "cuis", "split"], axis=1)
    rows["split"] = rows.split.where(rows.index != 3, "holdout")
    rows.assign(image=rows.id + ".jpg").to_csv(raw.parent / "own.csv", index=False)
    prepared = prepare(cfg(raw.parent / "own.csv", names=raw / "cui_mapping.csv", image_root=raw.parent / "pictures"))
    funnel_, rejects = (
        pd.read_csv(prepared.dir / "funnel.csv", keep_default_na=False),
        pd.read_csv(prepared.dir / "rejects.csv"),
    )
    assert (
        funnel_["all"].iloc[0] == len(rows)
        and (funnel_[funnel_.reason != ""]["all"].sum()) == len(rejects)
        and (rejects.split == "holdout").sum() == 3 == funnel_.set_index("reason")["all"]["unknown split"]
    )


@pytest.mark.parametrize(
    "cell, hint",
    [
        ("", "for 'no CUIs'; give every image its UMLS concepts .* C1306645;C0817096"),
        ("X-ray", "for 'malformed CUI'; a CUI is C and seven digits"),
    ],
)
def test_a_table_without_concepts_says_what_to_write(raw, cell, hint):
    (raw / "own.csv").write_text(
        "image,caption,cuis,split\n"
        + "".join(
            f"train_images/{p.name},An X-ray,{cell},train\n" for p in sorted((raw / "train_images").iterdir())[:9]
        )
    )
    with pytest.raises(DataError, match=f"9 of 9 are rejected {hint}"):
        prepare(replace(cfg(raw / "own.csv"), out=raw.parent / "out"))


@pytest.mark.parametrize("where", ["given", "beside", "above"])
def test_another_file_of_names_is_noticed(raw, where):
    shutil.copy(raw / "cui_mapping.csv", tmp := raw.parent / "cui_mapping.csv")
    rows = (
        pd.read_csv(raw / "train_captions.csv")
        .merge(pd.read_csv(raw / "train_concepts.csv"))
        .set_axis(["image", "caption", "cuis"], axis=1)
        .assign(image=lambda t: "train_images/" + t.image + ".jpg")
    )
    rows.to_csv(raw / "own.csv", index=False)
    names = dict(given=tmp, beside=raw / "cui_mapping.csv", above=tmp)[where]
    if where == "above":
        (raw / "cui_mapping.csv").unlink()
    options = replace(cfg(raw / "own.csv"), out=raw.parent / "out", names=tmp if where == "given" else None)
    assert "Chest" in prepare(options).names.values()
    names.write_text(names.read_text().replace("Chest", "Thorax"))
    assert "Thorax" in prepare(options).names.values()


def test_parquet_behind_links_and_around_the_prepared_folder(raw):
    "Files as the hub's cache has them, links to blobs without a suffix; and a prepared folder among them."
    hub, blobs = raw.parent / "hub", raw.parent / "blobs"
    hub.mkdir()
    blobs.mkdir()
    for n, s in enumerate(SPLITS):
        rows = pd.read_csv(raw / f"{s}_captions.csv", dtype=str).merge(
            pd.read_csv(raw / f"{s}_concepts.csv", dtype=str)
        )
        pq.write_table(
            pa.table(
                {
                    "image": [{"bytes": (raw / f"{s}_images" / f"{i}.jpg").read_bytes(), "path": i} for i in rows.ID],
                    "image_id": rows.ID.tolist(),
                    "caption": rows.Caption.tolist(),
                    "cui": rows.CUIs.str.split(";").tolist(),
                }
            ),
            blobs / f"b{n}",
        )
        (hub / f"{s}-00000-of-00001.parquet").symlink_to(blobs / f"b{n}")
    options = replace(cfg(hub), out=hub / "prepared", names=raw / "cui_mapping.csv")
    first, folder = prepare(options), prepare(cfg(raw))
    assert prepare(options).manifest == first.manifest
    same = ["id", "caption", "cuis", "split", "keep", "reason", "entropy", "phash", "keeper", "transformed"]
    pd.testing.assert_frame_equal(first.table[same], folder.table[same])
    assert first.images("train", 32).tolist() == folder.images("train", 32).tolist()
    one = prepare(replace(options, data_path=hub / "train-00000-of-00001.parquet", out=raw.parent / "one"))
    assert one.manifest["rows"] == {"train": (one.table.keep).sum(), "valid": 0, "test": 0}


def test_a_damaged_store_and_a_foreign_folder(raw, decoded):
    prepare(cfg(raw))
    (store,) = (raw.parent / "cache" / "measures").iterdir()
    store.write_bytes(b"PAR1 damaged")
    decoded.clear()
    prepare(cfg(raw, min_entropy=1.6))
    assert decoded and pd.read_parquet(store).key.is_unique
    (raw.parent / "foreign").mkdir()
    for name in "manifest.json", "table.parquet":
        (raw.parent / "foreign" / name).write_text("{}")
    with pytest.raises(DataError, match="prepared by another version of radgen"):
        load_prepared(raw.parent / "foreign")


def test_a_new_decoder_is_a_reason_to_look_again(raw, monkeypatch):
    first = prepare(cfg(raw))
    monkeypatch.setattr(radgen.prepare, "decoders", lambda: ["another"])
    assert prepare(cfg(raw)).manifest["fingerprint"] != first.manifest["fingerprint"]


def test_the_figure_of_concepts_says_what_was_kept(raw):
    from radgen.data.cuis import plot_choice

    prepared = prepare(cfg(raw, rule="any", k=1))
    train = prepared.table[prepared.table.split == "train"]
    fig = plot_choice(pd.read_csv(prepared.dir / "cuis.csv", keep_default_na=False), prepared.selected, train)
    assert f"chosen: {train.keep.sum():,} of {len(train):,}" in [
        t.get_text() for t in fig.axes[1].get_legend().get_texts()
    ]
    assert sum(p.get_facecolor()[2] > p.get_facecolor()[0] + 0.1 for p in fig.axes[0].patches) == 1
