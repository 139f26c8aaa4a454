"""One text under two names is noticed."""

from dataclasses import replace

import pytest

from fedmore.client.state.joined_texts import FILE, twin_of
from fedmore.protos.enrolment.invite import Invite, read_invite

TEXT = ("one document", "another")


@pytest.fixture
def invite(hub) -> Invite:
    return read_invite(hub.invite("amt"))


def test_a_text_that_comes_again_under_another_name(invite, tmp_path):
    assert twin_of(invite, TEXT, tmp_path) == ""
    assert twin_of(invite, TEXT, tmp_path) == ""
    other = replace(invite, name="office")
    assert twin_of(other, TEXT[::-1], tmp_path) == "amt"
    assert twin_of(other, ("a third",), tmp_path) == ""


def test_another_federation_is_another_matter(invite, tmp_path):
    twin_of(invite, TEXT, tmp_path)
    assert twin_of(replace(invite, name="office", ca="another"), TEXT, tmp_path) == ""


def test_the_record_holds_no_text_and_may_be_damaged(invite, tmp_path):
    twin_of(invite, TEXT, tmp_path)
    assert "document" not in (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text("[")
    assert twin_of(invite, TEXT, tmp_path) == ""
