"""One report of everything the starter has to reach.

``python -m starter.report --data ../shared/data --out build/starter_report``

Every section's result is kept in the folder as JSON and taken from there the next time, unless
the model's files or the number of planes are others; ``--only`` measures some sections,
``--again`` measures anew. A table of all sections that are there is printed and written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starter import measures, word_measures
from starter.measures import Lab, Row

__all__ = ["SECTIONS", "identity", "main", "table"]

SECTIONS: Mapping[str, Callable[[Lab], list[Row]]] = {
    "click": measures.clicks,
    "box": measures.boxes,
    "concept": measures.concept,
    "instances": measures.instances,
    "phase": measures.phase,
    "presence": word_measures.presence,
    "two_words": word_measures.two_words,
    "blood": word_measures.blood,
    "speed": measures.speed,
    "few_shot": measures.few_shot,
}
_HEAD = ("measured", "on", "n", "target", "value", "Otsu + watershed", "reached")


def identity(lab: Lab) -> str:
    """Hash of the model's files and of how much is looked at: results of one are for no other."""
    digest = hashlib.sha256(str(lab.limit).encode())
    for path in lab.files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def measure(lab: Lab, out: Path, names: list[str], again: bool) -> dict[str, list[Row]]:
    """Measure what is asked for and not there yet; returns all that is there for this model."""
    out.mkdir(parents=True, exist_ok=True)
    key = identity(lab)
    kept: dict[str, list[Row]] = {}
    for name, section in SECTIONS.items():
        path = out / f"{name}.json"
        known = _read(path, key)
        if name in names and (again or known is None):
            start = time.perf_counter()
            known = section(lab)
            seconds = time.perf_counter() - start
            _write(path, key, lab, known, seconds)
            print(f"{name}: {len(known)} numbers in {seconds:.0f} s", flush=True)
        if known is not None:
            kept[name] = known
    return kept


def table(sections: Mapping[str, list[Row]]) -> str:
    """All rows as one table in Markdown; where only one of two bounds is broken, it says so."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    for rows in sections.values():
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    target = ""
    if row.target is not None:
        target = f"{'<=' if row.at_most else '>='} {row.target:g} {row.unit}".rstrip()
    verdict = {True: "yes", False: "**no**", None: ""}[row.reached]
    return [
        row.what,
        row.on,
        "" if row.count is None else f"{row.count:,}",
        target,
        _number(row.value, row.unit),
        "" if row.plain is None else _number(row.plain, ""),
        verdict,
    ]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} {unit}" if unit in ("ms", "MB") else f"{value:.3f} {unit}".rstrip()


def _read(path: Path, key: str) -> list[Row] | None:
    """Rows of a section measured with the same files, if there are any."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return [Row(**row) for row in found["rows"]] if found["identity"] == key else None


def _write(path: Path, key: str, lab: Lab, rows: list[Row], seconds: float) -> None:
    described: dict[str, Any] = {
        "identity": key,
        "device": str(lab.segmenter.device),
        "limit": lab.limit,
        "seconds": round(seconds, 1),
        # Other work on the machine spoils times, not scores.
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(described, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="the data folder")
    parser.add_argument("--out", default="build/starter_report", help="folder of the results")
    parser.add_argument("--run", default=None, help="folder of a run; by default what ships")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--limit", type=int, default=None, help="planes of a set, for a quick look")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    run = None if options.run is None else Path(options.run)
    lab, out = Lab(Path(options.data), run, options.device, options.limit), Path(options.out)
    sections = measure(lab, out, options.only, options.again)
    text = table(sections)
    (out / "report.md").write_text(text + "\n")
    judged = [row for rows in sections.values() for row in rows if row.reached is not None]
    reached = sum(bool(row.reached) for row in judged)
    print(f"{text}\n\n{reached} of {len(judged)} targets reached")


if __name__ == "__main__":
    main()
