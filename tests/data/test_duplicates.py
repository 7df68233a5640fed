"Near-duplicates: the sorted search against all pairs, injected copies, groups and what is dropped."

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.data.copies import COPIES, inject_copies
from radgen.data.duplicates import (
    SAME,
    bits_apart,
    close_pairs,
    compare_pairs,
    copies_report,
    drop_copies,
    find_copies,
    hash_codes,
    plot_copies,
    shrink_batch,
    similarity,
)
from radgen.data.entropy import measure_images
from radgen.data.quality import filter_images
from radgen.data.rocov2 import read_rocov2


def random_codes(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (n, 4), dtype=np.uint64)


def flip(codes, bits, rng):
    "The codes with so many of their 256 bits flipped."
    out = codes.copy()
    for row in out:
        for b in rng.choice(256, bits, replace=False):
            row[b // 64] ^= np.uint64(1) << np.uint64(b % 64)
    return out


def test_bits_by_hand():
    a, b = np.array([[0, 1, 0, 2**64 - 1]], np.uint64), np.array([[0, 2, 1, 0]], np.uint64)
    assert bits_apart(a, b).tolist() == [2 + 1 + 64]
    assert bits_apart(a, a).tolist() == [0]
    assert hash_codes(pd.Series(["0" * 63 + "1", "f" * 64])).tolist() == [[0, 0, 0, 1], [2**64 - 1] * 4]
    assert hash_codes(pd.Series([], dtype=str)).shape == (0, 4)


@pytest.mark.parametrize("bits, recall", [(0, 1), (5, 1), (13, 0.999), (25, 0.9)])
def test_close_codes_are_found(bits, recall):
    codes, rng = random_codes(3000), np.random.default_rng(1)
    pairs = close_pairs(np.concatenate([codes, flip(codes[:500], bits, rng)]))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    found = {tuple(p) for p in pairs.tolist()}
    hits = sum((i, 3000 + i) in found for i in range(500))
    # and nothing else: unrelated codes are some 128 bits apart
    assert hits >= recall * 500
    assert len(found) == hits


def test_agrees_with_all_pairs_and_repeats():
    rng = np.random.default_rng(2)
    codes = np.concatenate([flip(np.repeat(random_codes(1, s), 8, 0), 6, rng) for s in range(60)])
    i, j = np.triu_indices(len(codes), 1)
    near = bits_apart(codes[i], codes[j]) <= 12
    assert close_pairs(codes, max_bits=12).tolist() == np.stack([i[near], j[near]], 1).tolist()
    assert (close_pairs(codes, seed=0) == close_pairs(codes, seed=0)).all()


def test_small_and_empty_lists():
    assert close_pairs(random_codes(0)).shape == (0, 2)
    assert close_pairs(random_codes(1)).shape == (0, 2)
    assert close_pairs(np.zeros((2, 4), np.uint64)).tolist() == [[0, 1]]


def test_many_equal_codes_give_few_pairs_that_hold_together():
    "Two thousand equal hashes have two million pairs; each is compared with eight neighbours a round."
    pairs = close_pairs(np.zeros((2000, 4), np.uint64))
    assert len(pairs) <= 2000 * 8 * 64
    assert set(pairs.ravel().tolist()) == set(range(2000))


def test_all_pairs_of_thirty_equal_codes_are_found():
    assert len(close_pairs(np.zeros((30, 4), np.uint64))) == 30 * 29 // 2


def test_similarity():
    rng = np.random.default_rng(0)
    a = rng.integers(20, 200, (96, 96), dtype=np.uint8)
    assert similarity(a, a) == pytest.approx(1)
    assert similarity(a, a + 40) == pytest.approx(1)
    assert similarity(a, 255 - a) == pytest.approx(-1)
    assert similarity(a, (a.astype(int) + 90).clip(0, 255).astype(np.uint8)) > 0.999  # clipped pixels do not take part
    assert abs(similarity(a, rng.integers(20, 200, (96, 96), dtype=np.uint8))) < 0.1
    black = np.zeros((96, 96), np.uint8)
    assert similarity(black, black) == 1
    assert similarity(black, black + 3) == 0
    assert similarity(black[:0, :0], a) == 0


def test_similarity_by_a_loop():
    "The same sum pixel by pixel."
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 256, (96, 96), dtype=np.uint8) for _ in range(2))

    def clear(*at):
        return all(6 < m[p] < 249 for p in at for m in (a, b))

    x, y = [], []
    for i in range(96):
        for j in range(96):
            for p in ((i + 1, j), (i, j + 1)):
                if max(p) < 96 and clear((i, j), p):
                    x.append(int(a[p]) - int(a[i, j]))
                    y.append(int(b[p]) - int(b[i, j]))
    assert similarity(a, b) == pytest.approx(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)), rel=1e-4)


@pytest.fixture(scope="module")
def injected(phantoms, tmp_path_factory):
    "Another draw of copies than that of the chapter, measured; and the truth."
    folder = inject_copies(phantoms, tmp_path_factory.mktemp("copies") / "c", n=400, seed=5)
    table = filter_images(measure_images(read_rocov2(folder).table, progress=False))
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False).set_index("ID")
    return find_copies(table, progress=False), truth


@pytest.mark.soak
def test_injected_copies_are_found(injected):
    table, truth = injected
    kept = table[table.keep].set_index("id")
    sources = truth.copy_of[truth.how != ""]
    true = {frozenset((c, s)): truth.how[c] for c, s in sources.items() if c in kept.index and s in kept.index}
    found = {frozenset(g.index) for _, g in kept[kept.keeper != ""].groupby("keeper")}
    hits = len(found & set(true))
    assert hits >= 0.98 * len(true)
    assert hits >= 0.99 * len(found)
    for change in COPIES:
        pairs = [p for p in true if true[p] == change]
        assert np.mean([p in found for p in pairs]) >= 0.95, change


@pytest.mark.soak
def test_bad_phantoms_are_found(injected):
    table, truth = injected
    bad, dropped = truth.bad[table.id].to_numpy() != "", ~table.keep.to_numpy()
    assert dropped[bad].mean() >= 0.98  # recall
    assert bad[dropped].mean() >= 0.98  # precision


@pytest.mark.soak
def test_policies_drop_leaks_all_or_nothing(injected):
    table, _ = injected
    assert drop_copies(table, "keep").keep.tolist() == table.keep.tolist()
    leaks = drop_copies(table)
    gone = leaks[table.keep & ~leaks.keep]
    keeper_split = gone.keeper.map(table.set_index("id").split)
    assert len(gone)
    assert (gone.reason == "copy of a " + keeper_split + " image: " + gone.keeper).all()
    assert "test" not in set(gone.split)
    assert not copies_report(find_copies(leaks, progress=False)).index.str.contains(" and ").any()
    assert copies_report(find_copies(drop_copies(table, "all"), progress=False)).empty
    assert copies_report(table).images.sum() == (table.keeper != "").sum()
    assert len(plot_copies(table).axes[0].images) == 12


def test_keepers_by_hand(tmp_path):
    "Three copies over three splits and two within train; a dropped row takes no part."
    rng = np.random.default_rng(0)
    base = [np.kron(rng.integers(20, 200, (12, 12)), np.ones((8, 8))).astype(np.uint8) for _ in range(3)]
    rows = [
        ("a", 0, "train"),
        ("b", 1, "train"),
        ("c", 1, "train"),
        ("d", 0, "valid"),
        ("e", 0, "test"),
        ("f", 2, "test"),
        ("g", 2, "train"),
    ]
    for i, b, _ in rows:
        Image.fromarray(base[b]).save(tmp_path / f"{i}.png")
    table = measure_images(
        pd.DataFrame(
            {
                "id": [r[0] for r in rows],
                "image": [str(tmp_path / f"{r[0]}.png") for r in rows],
                "split": [r[2] for r in rows],
                "keep": [True] * 6 + [False],
                "reason": "",
            }
        ),
        progress=False,
    )
    table = find_copies(table, progress=False)
    assert table.keeper.tolist() == ["e", "b", "b", "e", "e", "", ""]
    assert drop_copies(table).keep.tolist() == [False, True, True, False, True, True, False]
    assert drop_copies(table, "all").reason.tolist() == [
        "copy of a test image: e",
        "",
        "copy of a train image: b",
        "copy of a test image: e",
        "",
        "",
        "",
    ]
    assert copies_report(table).to_dict("index") == {
        "train": {"groups": 1, "images": 2},
        "train and valid and test": {"groups": 1, "images": 3},
    }


def test_file_that_vanished_is_no_copy(tmp_path):
    assert shrink_batch([str(tmp_path / "none.png")])[0].size == 0


def test_real_sample_has_four_leaks(real):
    "Every pair was looked at: four chest films are in train and in test under two numbers."
    table = find_copies(filter_images(measure_images(read_rocov2(real).table, progress=False)), progress=False)
    assert copies_report(table).groups.to_dict() == {"test": 1, "train": 6, "train and test": 4, "valid": 2}
    kept = table[table.keep].reset_index(drop=True)
    similar = np.sort(compare_pairs(kept.image, close_pairs(hash_codes(kept.phash)), progress=False))[::-1]
    assert SAME == 0.98
    assert (similar >= SAME).sum() == 13
    assert similar[similar < SAME][:2] == pytest.approx([0.975, 0.971], abs=6e-4)
