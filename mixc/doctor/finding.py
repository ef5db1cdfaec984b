"""What `mixc doctor` has found."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The trainer's part of them comes as JSON of this form (runtime/doctor.py)."""

    state: Literal["ok", "note", "problem"]
    """A problem would stop training, or keep it off the GPUs that are here."""
    what: str
    why: str = ""
    mend: str = ""

    def __str__(self) -> str:
        lines = [f"{self.state:8} {self.what}"]
        lines += [f"           why:  {self.why}"] if self.why else []
        lines += [f"           mend: {self.mend}"] if self.mend else []
        return "\n".join(lines)
