"Audits side by side: the command, what it writes, the figure, and what is refused."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from audit_cases import CELLS, CT, NAMES, WORKED, XR, table, write_csv

from radgen.captions.audit import audit
from radgen.captions.audit_files import read_captions
from radgen.captions.audit_report import audit_files, audit_text, compare_audits, plot_audit
from radgen.captions.config import AuditConfig
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
    audits = {label: audit(file.table, file.names, COUNT) for label, file in files.items()}
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
