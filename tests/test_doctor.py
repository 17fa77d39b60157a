"""The doctor sees this machine as it is."""

import sys

from medweave import doctor


def test_this_machine_passes():
    rows = doctor.checks()
    assert {row.what for row in rows} >= {"Python", "torch", "device", "free memory"}
    assert not [row for row in rows if row.state == "FAIL"]


def test_a_torch_that_is_broken_is_found_and_the_rest_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = {row.what: row for row in doctor.checks()}
    assert rows["torch"].state == "FAIL" and rows["torch"].todo
    assert "device" not in rows and "free memory" in rows


def test_missing_towers_are_a_warning_with_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "OFFLINE_PACKAGES", ("no_such_package",))
    check = doctor._towers()
    assert check.state == "WARN" and "offline" in check.todo
