from __future__ import annotations

from importlib.metadata import version

from mixc.doctor.packages import compare


def test_what_is_asked_for_is_held_against_what_is_there() -> None:
    asked = [
        f"msgspec>={version('msgspec')}",
        "msgspec>=999",
        "no-such-package-of-anybodys>=1",
        'no-such-extra>=1; extra == "flash"',
        'msgspec<0; python_version < "3"',
    ]
    found = list(compare(asked))
    assert [finding.state for finding in found] == ["note", "problem", "ok"]
    assert "not a version" in found[0].what and "msgspec>=999" in found[0].mend
    assert found[1].what == "no-such-package-of-anybodys is not installed"
    assert found[2].what.startswith("1 of 3 packages")
