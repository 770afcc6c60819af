"""What one check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GB = 1e9


@dataclass(frozen=True)
class Finding:
    """level: warning, it will be slower or other than wished for; problem, it will end badly. seen: what is there.
    cure: what to do, of warnings and problems."""

    level: Literal["ok", "warning", "problem"]
    subject: str
    seen: str
    cure: str = ""

    def line(self) -> str:
        return f"{self.level:<8} {self.subject:<12} {self.seen}" + (f"; {self.cure}" if self.cure else "")


def ok(subject: str, seen: str) -> Finding:
    return Finding("ok", subject, seen)


def warning(subject: str, seen: str, cure: str) -> Finding:
    return Finding("warning", subject, seen, cure)


def problem(subject: str, seen: str, cure: str) -> Finding:
    return Finding("problem", subject, seen, cure)


def size(number: float) -> str:
    """15.8 GB, 64 MB."""
    return f"{number / GB:.1f} GB" if number >= GB else f"{number / 1e6:.0f} MB"
