"""All that is needed to repeat a run: command, code, packages, data and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from src.reporting.report.record import Record
from src.reporting.report.section import Block, Listing, Note, Section, Table


def repeat(record: Record, data: Sequence[tuple[str, str]], changed: Sequence[str], config: str) -> Section:
    """data: what the rows and tables are known by. changed: settings that differ from the defaults. config: the text of
    config.yaml."""
    made = {k: manifest.get("made_by") or {} for k, manifest in record.manifests.items()}
    commands = list(dict.fromkeys(str(m["command"]) for m in made.values() if m.get("command")))
    blocks: list[Block] = []
    if commands:
        blocks.append(Listing("Command" if len(commands) == 1 else "Commands, by session", "\n".join(commands)))
    else:
        blocks.append(
            Note("The command was not kept by the version that made this run; its whole configuration is below.")
        )
    rows = [[name, value] for name, value in _versions(record, made)] + [[name, value] for name, value in data]
    blocks.append(Table("Code, packages and data", ["", "as it was"], rows, left=2))
    blocks.append(Listing(f"{len(changed)} settings that differ from the defaults", "\n".join(changed) or "none"))
    blocks.append(Listing("config.yaml", config, folded=True))
    return Section("repeat", "To repeat it", blocks)


def _versions(record: Record, made: Mapping[int, Mapping[str, object]]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for k, manifest in record.manifests.items():
        entries = {name: str(value) for name, value in made[k].items() if name != "command"}
        entries.setdefault("torch", str(manifest.get("torch", "not known")))
        for name in ("source", "teacher"):
            if manifest.get(name):
                entries[{"source": "first weights"}.get(name, name)] = str(manifest[name])
        for name, value in entries.items():
            found.setdefault(name, []).append(value)
    return [(name, " · ".join(dict.fromkeys(values))) for name, values in found.items()]
