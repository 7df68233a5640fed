"No image is measured twice, interrupted measurements continue, options reach the stages, Ray gives the same."

import os
import shutil
import sys
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from prepare_options import options

from radgen.core.errors import ConfigError, DataError
from radgen.data.cuis import select_rows
from radgen.data.entropy import measure_images
from radgen.data.rows import reason_kind
from radgen.prepared.prepare import prepare
from radgen.prepared.stages import run_stage, run_stages


def unreadable(table):
    return set(table.id[table.reason.str.startswith("image unreadable")])


def measured(table):
    "The images that a run has to measure."
    return set(table.id[reason_kind(table.reason) != "CUI not selected"])


def test_measure_each_image_once(raw, decoded):
    first = run_stages(options(raw, k=5)).table
    assert len(decoded) == len(measured(first)) == len(set(decoded))
    decoded.clear()
    run_stages(options(raw, k=5, min_entropy=2.0))
    assert set(decoded) == unreadable(first)  # other bounds: only what could not be decoded is tried again
    decoded.clear()
    more = run_stages(options(raw, k=10)).table
    fresh = measured(more) - measured(first)
    assert fresh
    assert set(decoded) == fresh | unreadable(more)  # more concepts: the images that they bring
    decoded.clear()
    row = more[more.keep].iloc[0]
    os.utime(row.image, (1, 1))
    run_stages(options(raw, k=10))
    assert set(decoded) == {row.id} | unreadable(more)  # a touched image


def test_stored_measures_are_those_that_would_be_measured(raw, own_cache):
    run_stages(options(raw))
    stored = run_stages(options(raw)).table
    shutil.rmtree(own_cache)
    pd.testing.assert_frame_equal(run_stages(options(raw)).table, stored)


def test_interrupted_measurement_continues(raw, decoded, monkeypatch):
    monkeypatch.setattr("radgen.prepared.stages.SLICE", 15)
    calls = []

    def measure(table, **more):
        calls.append(len(table))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure_images(table, **more)

    monkeypatch.setattr("radgen.prepared.stages.measure_images", measure)
    with pytest.raises(KeyboardInterrupt):
        run_stages(options(raw))
    assert len(decoded) == 30
    done = set(decoded)
    decoded.clear()
    table = run_stages(options(raw)).table
    assert set(decoded) & done == unreadable(table) & done


def test_damaged_store_is_replaced(raw, own_cache, decoded):
    run_stages(options(raw))
    (store,) = (own_cache / "measures").iterdir()
    store.write_bytes(b"PAR1 damaged")
    decoded.clear()
    run_stages(options(raw))
    assert decoded
    assert pd.read_parquet(store).key.is_unique


@pytest.fixture(scope="module")
def base(small_raw, tmp_path_factory):
    "The stages with default options."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield small_raw, run_stages(options(small_raw))


def test_option_k_knee(base):
    raw, _ = base
    assert 1 <= len(run_stages(options(raw, k="knee")).selected) <= 50


def test_option_rule_any_keeps_more(base):
    raw, curated = base
    assert run_stages(options(raw, rule="any")).table.keep.sum() > curated.table.keep.sum()
    kinds = set(reason_kind(curated.table.reason))
    assert "CUI not selected" in kinds
    assert "no CUI selected" not in kinds


def test_option_exclude_drops_a_concept(base):
    raw, _ = base
    table = run_stages(options(raw, rule="any", exclude=("C0040405",))).table
    assert not any("C0040405" in cuis for cuis in table[table.keep].cuis)
    assert table.reason.str.startswith("CUI excluded: C0040405").any()


def test_option_include_alone(base):
    raw, _ = base
    curated = run_stages(options(raw, k=0, include=("C0024485",), rule="any"))
    assert curated.selected == ["C0024485"]
    assert all("C0024485" in cuis for cuis in curated.table[curated.table.keep].cuis)


def test_option_bound_as_a_share(base):
    raw, _ = base
    assert run_stages(options(raw, min_entropy="10%")).table.reason.str.contains(r"\(10%\)").any()


def test_option_copies(base):
    raw, curated = base
    kept = {policy: run_stages(options(raw, copies=policy)).table.keep.sum() for policy in ("keep", "all")}
    assert kept["keep"] > curated.table.keep.sum() > kept["all"]


def test_option_unnamed(base):
    raw, curated = base
    unnamed = {"C0205090", "C0205091"} & set(curated.counts.cui)
    assert unnamed
    every = len(curated.counts)
    assert unnamed <= set(run_stages(options(raw, unnamed="keep", k=every)).selected)
    assert not unnamed & set(run_stages(options(raw, k=every - len(unnamed))).selected)


@pytest.mark.parametrize(
    "cell, hint",
    [
        ("", "for 'no CUIs'; give every image its UMLS concepts, .* C1306645;C0817096"),
        ("X-ray", "for 'malformed CUI: X-ray'; a CUI is C and seven digits"),
    ],
)
def test_table_without_concepts_says_what_to_write(raw, cell, hint):
    images = sorted((raw / "train_images").iterdir())[:9]
    rows = "".join(f"train_images/{p.name},An X-ray,{cell},train\n" for p in images)
    (raw / "own.csv").write_text("image,caption,cuis,split\n" + rows)
    with pytest.raises(DataError, match=f"9 of 9 are rejected {hint}"):
        run_stages(options(raw / "own.csv", concepts="data"))


def test_ray_missing_gives_one_sentence(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray: pip install -e '.\[ray\]'"):
        run_stages(options(raw, engine="ray"))


@pytest.fixture(scope="module")
def ray_here():
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[ray]')")
    for attempt in range(4):  # it gives itself 30 seconds, which are too few on a machine that has other work
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception as e:
            if "timed out during startup" not in str(e) or attempt == 3:
                raise
            ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.soak
def test_ray_prepares_the_same_folder(raw, own_cache, ray_here, monkeypatch):
    monkeypatch.setattr("radgen.prepared.stages.BLOCK", 32)
    cfg = options(raw, min_contrast="2%")
    local = prepare(cfg)
    shutil.rmtree(own_cache)
    by_ray = prepare(replace(cfg, engine="ray", out=raw.parent / "by_ray"))
    pd.testing.assert_frame_equal(by_ray.table, local.table)
    assert by_ray.manifest["content"] == local.manifest["content"]
    for name in ("funnel.csv", "rejects.csv", "cuis.csv", "copies.csv"):
        assert (by_ray.dir / name).read_text() == (local.dir / name).read_text()


@pytest.mark.soak
def test_ray_keeps_the_order_of_rows(ray_here):
    cuis = [["C0000001"] if n % 3 else ["C0000002", "C0000001"] for n in range(1000)]
    table = pd.DataFrame({"id": [f"i{n}" for n in range(1000)], "cuis": cuis, "split": "train"}, index=range(5, 1005))
    stage = partial(select_rows, selected=["C0000001"], names={"C0000001": "a", "C0000002": "b"})
    pd.testing.assert_frame_equal(run_stage(stage, table, "ray"), run_stage(stage, table))
