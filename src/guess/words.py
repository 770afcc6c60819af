"""Findings as people read them and Hydra takes them: lines, words of a command line, a file of configs/competition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from src.guess.finding import Finding

GLOBAL = ("size", "epochs", "batch_size")  # keys outside of the section `competition` that a folder decides as well


def lines(findings: Sequence[Finding]) -> list[str]:
    """One line per finding: key = value, the rule in brackets, what was seen."""
    width = max((len(finding.key) for finding in findings), default=0)
    return [
        f"  {finding.key or '(no key)':<{width}} = {shown(finding.value)}  [{finding.rule}] {finding.why}"
        for finding in findings
    ]


def words(findings: Sequence[Finding]) -> list[str]:
    """key=value for every finding with a key, as Hydra takes them."""
    return [f"{full_key(finding.key)}={quoted(finding.value)}" for finding in findings if finding.key]


def full_key(key: str) -> str:
    return key if key in GLOBAL else f"competition.{key}"


def shown(value: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value[:8]))
        return f"[{text}{', …' if len(value) > 8 else ''}]"
    return "none" if value is None else str(value)


def quoted(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def yaml_text(root: Path, findings: Sequence[Finding], command: str) -> str:
    """The file configs/competition/NAME.yaml: every decision with its reason and the likeliest alternatives."""
    out = ["# @package _global_", f"# What `./run.sh {command}` found; change what it got wrong.", "competition:"]
    section = [finding for finding in findings if finding.key and finding.key not in GLOBAL]
    out += [f"  root: {scalar(str(root))}"]
    for finding in section:
        out += comment(finding, "  ")
        out.append(f"  {finding.key}: {scalar(finding.value)}")
    for finding in findings:
        if not finding.key:
            out.append(f"  # {finding.rule}: {shown(finding.value)} ({finding.why})")
    for finding in findings:
        if finding.key in GLOBAL:
            out += comment(finding, "")
            out.append(f"{finding.key}: {scalar(finding.value)}")
    return "\n".join(out) + "\n"


def comment(finding: Finding, indent: str) -> list[str]:
    text = f"{indent}# {finding.rule}: {finding.why}"
    if finding.others:
        text += f" (or: {', '.join(shown(other) for other in finding.others)})"
    return [" ".join(text.split("\n"))]


def scalar(value: Any) -> str:
    """A value as YAML writes it in one line."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    return text.removesuffix("...").strip()
