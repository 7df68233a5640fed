"Audits side by side: the command, what it writes, the figure, and what is refused."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from audit_cases import CELLS, CT, INDEPENDENT, NAMES, WORKED, XR, table, write_csv

from radgen.captions import clinical_text
from radgen.captions.audit import audit
from radgen.captions.audit_files import read_captions
from radgen.captions.audit_report import audit_both, audit_files, audit_text, compare_audits, plot_audit
from radgen.captions.clinical_text import ReadingPipeline
from radgen.captions.config import AuditConfig
from radgen.captions.second_reader import read_rows
from radgen.core.errors import ConfigError


class WordCounter:
    "Counts words instead of tokens."

    limit = 512

    def __call__(self, texts):
        return np.array([len(text.split()) for text in texts])


COUNT = WordCounter()


@pytest.fixture(scope="module")
def worked():
    return audit(table(), NAMES, COUNT)


def test_compare_audits_ignores_the_order_of_rows(worked):
    shuffled = table().sample(frac=1, random_state=0).reset_index(drop=True)
    again = audit(shuffled, NAMES, COUNT)
    pd.testing.assert_frame_equal(compare_audits({"x": worked}), compare_audits({"x": again}))


def test_audit_text_writes_shares_without_a_valid_row():
    nothing = audit(table([WORKED[-1]]), NAMES)
    assert "| coverage | 0% |" in audit_text({"x": nothing})
    assert plot_audit({"x": nothing}).axes


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(files=()), "0 files are named: .* compares one to 4"),
        (dict(files=("a.csv",) * 5), "5 files are named"),
        (dict(limit=0), "--limit is 0"),
        (dict(show=-1), "--show is -1"),
    ],
)
def test_audit_files_refuses_options(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        audit_files(replace(AuditConfig((write_csv(tmp_path / "a.csv"),)), **changes), COUNT)


def test_audit_files_refuses_a_file_in_the_place_of_its_folder(tmp_path):
    path = write_csv(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        audit_files(AuditConfig((path,), out=path), COUNT)


def test_audit_files_writes_numbers_and_prints_captions(tmp_path):
    normal = [(*c[:3], "X-ray, Chest, Unspecified view, Normal", *c[4:]) for c in CELLS]
    paths = (write_csv(tmp_path / "p" / "captions.csv"), write_csv(tmp_path / "q" / "captions.csv", normal))
    out = tmp_path / "out"
    text = audit_files(AuditConfig(paths, out=out, show=1), COUNT)
    assert sorted(p.name for p in out.iterdir()) == ["audit.csv", "audit.md", "audit.png"]
    markdown = (out / "audit.md").read_text(encoding="utf-8")
    assert "| p/captions | q/captions |" in text
    assert text.startswith(markdown)
    written = markdown + (out / "audit.csv").read_text(encoding="utf-8")
    for word in ("nodule", "R3"):  # captions go to the terminal alone
        assert word in text
        assert word not in written
    back = pd.read_csv(out / "audit.csv", index_col=[0, 1])
    files = {label: read_captions(path) for label, path in zip(("p/captions", "q/captions"), paths)}
    pipeline = ReadingPipeline()
    audits = {label: audit_both(file, COUNT, 64, pipeline) for label, file in files.items()}
    pd.testing.assert_frame_equal(back, compare_audits(audits), check_names=False)
    wrong_type = sum(row[1][:1] != [XR] for row in WORKED[:-1])
    assert back.loc[("contradiction, rows", "image type"), "q/captions"] == wrong_type
    assert (out / "audit.png").read_bytes()[:4] == b"\x89PNG"


def test_examples_cannot_steer_the_terminal(tmp_path):
    line = ("1", "Chest CT\x1b[31m shows a nodule", CT, "X-ray, Chest, Unspecified view, \x1b]0;x\x07 nodule", "", "")
    shown = audit_files(AuditConfig((write_csv(tmp_path / "x.csv", [line]),), show=2), COUNT)
    assert "nodule" in shown
    assert not set(shown) & {"\x1b", "\x07"}


def test_audit_config_reads_the_command_line():
    cfg = tyro.cli(AuditConfig, args=["a.csv", "b", "--limit", "77", "--out", "o"])
    assert cfg == AuditConfig((Path("a.csv"), Path("b")), limit=77, out=Path("o"))


@pytest.mark.parametrize("n", (1, 4))
def test_plot_audit_draws_one_to_four_files(worked, n):
    fig = plot_audit({f"file {i}": worked for i in range(n)})
    assert len(fig.axes) == 5
    assert len(fig.legends[0].get_texts()) == n


def test_audit_files_prints_both_counts_and_says_which_is_which(tmp_path, worked):
    text = audit_files(AuditConfig((write_csv(tmp_path / "a.csv"),), show=1), COUNT)
    share = worked.totals.contradiction
    assert share > 0.5
    assert f"| a contradiction (own reading) | {share:.1%} |" in text
    assert "| a contradiction (independent reading) |" in text
    assert "Independent reading: NegEx of negspaCy" in text
    assert "a: negation lost (independent reading)" in text


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_independent_reading_finds_what_a_person_finds(kind):
    pipeline, found = ReadingPipeline(), {}
    lines, captions = [row[2] for row in WORKED], [row[0] for row in WORKED]
    for row, reading in zip(WORKED, read_rows(pipeline, lines, captions, [[]] * len(WORKED))):
        for name in reading.kinds:
            found.setdefault(name, []).append(row[2])
    assert set(found.get(kind, [])) == {row[2] for row in WORKED if set(row[3]) & INDEPENDENT[kind]}


def test_audit_files_without_the_libraries_counts_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(clinical_text, "LIBRARIES", ("no_such_library",))
    text = audit_files(AuditConfig((write_csv(tmp_path / "a.csv"),)), COUNT)
    assert "Independent reading: left out; " in text
    assert "pip install 'radgen[audit]'" in text
    assert "(independent reading)" not in text
    assert "a contradiction (own reading)" in text


def test_audit_files_compares_the_rows_that_all_files_have(tmp_path):
    paths = (write_csv(tmp_path / "a.csv", CELLS[:9]), write_csv(tmp_path / "b.csv", CELLS[4:20]))
    text = audit_files(AuditConfig(paths), COUNT)
    assert "Compared on the 5 rows that all 2 files have (a 9, b 16)." in text
    assert "| rows | 5 | 5 |" in text
    apart = (paths[0], write_csv(tmp_path / "c.csv", CELLS[10:12]))
    text = audit_files(AuditConfig(apart), COUNT)
    assert "The files have no row in common: each is counted by itself (a 9, c 2)." in text
    assert "| rows | 9 | 2 |" in text
