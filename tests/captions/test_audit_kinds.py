"Kinds of difference between a rewritten caption and its source, each in a worked example."

import pytest
from audit_cases import NAMES, WORKED

from radgen.captions.audit import CONTRADICTIONS, OMISSIONS, audit_row


@pytest.mark.parametrize("row", WORKED, ids=lambda row: row[2][:50] + " / " + "+".join(row[3]))
def test_audit_row_finds_the_kinds_of_a_worked_example(row):
    caption, cuis, text, kinds = row
    assert sorted(audit_row(text, caption, cuis, NAMES).kinds) == sorted(kinds)


def test_every_kind_has_a_worked_example():
    assert {kind for row in WORKED for kind in row[3]} == {*CONTRADICTIONS, *OMISSIONS}
