"Copies: hashes, the sorted search against all pairs, planted copies, groups and what is dropped."

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.data.tables import read_rocov2
from radgen.data.duplicates import SAME, bits_apart, close_pairs, compare_pairs, copies_report, drop_copies, find_copies, hash_codes, look_batch, plot_copies, similarity
from radgen.data.entropy import measure_images, perceptual_hash, small_version
from radgen.data.quality import filter_images
from radgen.data.copies import COPIES
from radgen.data.copies import inject_copies


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
    assert bits_apart(a, b).tolist() == [2 + 1 + 64] and bits_apart(a, a).tolist() == [0]
    assert hash_codes(pd.Series(["0" * 63 + "1", "f" * 64])).tolist() == [[0, 0, 0, 1], [2**64 - 1] * 4]
    assert hash_codes(pd.Series([], dtype=str)).shape == (0, 4)


@pytest.mark.parametrize("bits, recall", [(0, 1), (5, 1), (13, 0.999), (25, 0.9)])
def test_close_codes_are_found(bits, recall):
    codes, rng = random_codes(3000), np.random.default_rng(1)
    pairs = close_pairs(np.concatenate([codes, flip(codes[:500], bits, rng)]))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    found = {tuple(p) for p in pairs.tolist()}
    hits = sum((i, 3000 + i) in found for i in range(500))
    assert hits >= recall * 500 and len(found) == hits  # and nothing else: unrelated codes are some 128 bits apart


def test_agrees_with_all_pairs_and_repeats():
    rng = np.random.default_rng(2)
    codes = np.concatenate([flip(np.repeat(random_codes(1, s), 8, 0), 6, rng) for s in range(60)])
    i, j = np.triu_indices(len(codes), 1)
    near = bits_apart(codes[i], codes[j]) <= 12
    assert close_pairs(codes, max_bits=12).tolist() == np.stack([i[near], j[near]], 1).tolist()
    assert (close_pairs(codes, seed=0) == close_pairs(codes, seed=0)).all()


def test_small_and_empty_lists():
    assert close_pairs(random_codes(0)).shape == (0, 2) and close_pairs(random_codes(1)).shape == (0, 2)
    assert close_pairs(np.zeros((2, 4), np.uint64)).tolist() == [[0, 1]]


def test_work_does_not_explode_on_many_equal_codes():
    "Five thousand equal hashes have 12.5 million pairs; each is compared with eight neighbours a round, and the chain holds them together."
    pairs = close_pairs(np.zeros((5000, 4), np.uint64))
    assert len(pairs) <= 5000 * 8 * 64 and set(pairs.ravel().tolist()) == set(range(5000))


def test_the_hash_sees_the_picture_and_not_its_file(phantoms):
    im = Image.open(sorted((phantoms / "test_images").iterdir())[7])
    bits = lambda im: np.unpackbits(perceptual_hash(small_version(np.asarray(im))[None])[0]).astype(int)
    for other in (
        im.resize((128, 128), Image.Resampling.LANCZOS),
        im.resize((300, 200)),
        im.point([min(g + 20, 255) for g in range(256)]),
        im.point([g // 2 for g in range(256)]),
    ):
        assert abs(bits(im) - bits(other)).sum() <= 20
    for other in im.transpose(Image.Transpose.FLIP_LEFT_RIGHT), im.rotate(90):
        assert abs(bits(im) - bits(other)).sum() > 40


def test_similarity():
    rng = np.random.default_rng(0)
    a = rng.integers(20, 200, (96, 96), dtype=np.uint8)
    assert (
        similarity(a, a) == pytest.approx(1)
        and similarity(a, a + 40) == pytest.approx(1)
        and similarity(a, 255 - a) == pytest.approx(-1)
    )
    assert similarity(a, (a.astype(int) + 90).clip(0, 255).astype(np.uint8)) > 0.999  # clipped pixels do not take part
    assert abs(similarity(a, rng.integers(20, 200, (96, 96), dtype=np.uint8))) < 0.1
    black = np.zeros((96, 96), np.uint8)
    assert similarity(black, black) == 1 and similarity(black, black + 3) == 0 and similarity(black[:0, :0], a) == 0


def test_similarity_by_a_loop():
    "The same sum pixel by pixel."
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 256, (96, 96), dtype=np.uint8) for _ in range(2))
    clear = lambda *at: all(6 < m[p] < 249 for p in at for m in (a, b))
    x, y = [], []
    for i in range(96):
        for j in range(96):
            for p in ((i + 1, j), (i, j + 1)):
                if max(p) < 96 and clear((i, j), p):
                    x.append(int(a[p]) - int(a[i, j]))
                    y.append(int(b[p]) - int(b[i, j]))
    assert similarity(a, b) == pytest.approx(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)), rel=1e-4)


@pytest.fixture(scope="module")
def planted(phantoms, tmp_path_factory):
    "Another draw of copies than that of the chapter, measured; and the truth."
    folder = inject_copies(phantoms, tmp_path_factory.mktemp("copies") / "c", n=400, seed=5)
    table = filter_images(measure_images(read_rocov2(folder).table, progress=False))
    return find_copies(table, progress=False), pd.read_csv(folder / "truth.csv", keep_default_na=False).set_index("ID")


def test_planted_copies_are_found(planted, capsys):
    table, truth = planted
    kept = table[table.keep].set_index("id")
    true = {frozenset((c, s)) for c, s in truth.copy_of[truth.how != ""].items() if c in kept.index and s in kept.index}
    found = {frozenset(g.index) for _, g in kept[kept.keeper != ""].groupby("keeper")}
    recall = {
        h: np.mean([p in found for p in true if truth.how[[i for i in p if truth.how[i]][0]] == h]) for h in COPIES
    }
    with capsys.disabled():
        print(
            f"\n{len(true)} planted copies: recall {len(true & found) / len(true):.3f} ({', '.join(f'{h} {r:.3f}' for h, r in recall.items())}), precision {len(true & found) / len(found):.3f}"
        )
    assert (
        len(true & found) >= 0.98 * len(true)
        and len(true & found) >= 0.99 * len(found)
        and min(recall.values()) >= 0.95
    )


def test_bad_phantoms_are_found(planted, capsys):
    table, truth = planted
    bad, dropped = truth.bad[table.id].to_numpy() != "", ~table.keep.to_numpy()
    recall, precision = dropped[bad].mean(), bad[dropped].mean()
    with capsys.disabled():
        print(f"\n{bad.sum()} planted bad images: recall {recall:.3f}, precision {precision:.3f}")
    assert recall >= 0.98 and precision >= 0.98


def test_policies(planted):
    table, _ = planted
    leaks, none = drop_copies(table), drop_copies(table, "keep")
    assert none.keep.tolist() == table.keep.tolist()
    gone = leaks[table.keep & ~leaks.keep]
    assert (
        len(gone)
        and (
            gone.reason == "copy of a " + gone.keeper.map(table.set_index("id").split) + " image: " + gone.keeper
        ).all()
        and "test" not in set(gone.split)
    )
    assert not copies_report(find_copies(leaks, progress=False)).index.str.contains(" and ").any()
    assert copies_report(find_copies(drop_copies(table, "all"), progress=False)).empty
    with pytest.raises(ConfigError, match="--copies is 'most': choose leaks, all, keep"):
        drop_copies(table, "most")
    assert len(plot_copies(table).axes) == 12 and copies_report(table).images.sum() == (table.keeper != "").sum()


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


def test_a_file_that_vanished_is_no_copy(tmp_path):
    assert look_batch([str(tmp_path / "none.png")])[0].size == 0


def test_the_real_sample(real, capsys):
    "Every pair was looked at: four chest films are in train and in test under two numbers."
    table = find_copies(filter_images(measure_images(read_rocov2(real).table, progress=False)), progress=False)
    report, kept = copies_report(table), table[table.keep].reset_index(drop=True)
    similar = np.sort(compare_pairs(kept.image, pairs := close_pairs(hash_codes(kept.phash)), progress=False))[::-1]
    with capsys.disabled():
        print(
            f"\nthe real sample: {len(pairs)} pairs proposed, {(similar >= SAME).sum()} called copies, the next at {similar[similar < SAME][:2].round(3)}\n{report.to_string()}"
        )
    assert (similar >= SAME).sum() == 13 and similar[similar < SAME][:2] == pytest.approx([0.975, 0.971], abs=6e-4)
    assert report.groups.to_dict() == {"test": 1, "train": 6, "train and test": 4, "valid": 2} and SAME == 0.98


def test_copies_in_a_run_of_equal_hashes_are_compared():
    "Thirty pictures with one hash: every pair is looked at."
    assert len(close_pairs(np.zeros((30, 4), np.uint64))) == 30 * 29 // 2
