"""Reads coverage's JSON report and names each module of gonbuild that is under its floor; exits 1 where one is."""

import json
import sys
from pathlib import Path

FLOOR = 90.0
"""Percent of lines and branches."""
WHOLE = (
    "agreement", "decisions", "desk", "disk", "form", "opinions", "packs", "placing", "preferences", "review_flags",
    "reviews",
    "store", "terminal", "web",
)  # fmt: skip
"""What keeps a designer's and a reviewer's work: covered in full."""


def under_floor(files: dict[str, dict]) -> list[str]:
    """Returns a line for each module under its floor, and for each that wants one and was not measured."""
    found = {Path(name).stem: told["summary"] for name, told in files.items()}
    lines = [f"{name}: not measured, wanted 100%" for name in WHOLE if name not in found]
    for name, summary in sorted(found.items()):
        floor, percent = 100.0 if name in WHOLE else FLOOR, summary["percent_covered"]
        if percent < floor:
            missed = f"{summary['missing_lines']} lines and {summary['missing_branches']} branches missed"
            lines.append(f"{name}: {int(percent * 10) / 10}% covered, wanted {floor:.0f}%: {missed}")
    return lines


if __name__ == "__main__":
    wrong = under_floor(json.loads(Path(sys.argv[1]).read_bytes())["files"])
    print("\n".join(wrong or ["Every module is covered as far as it should be."]))
    sys.exit(bool(wrong))
