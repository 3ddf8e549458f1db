"""gonbuild builds the story packs of a card game; `load_project` is its Python API.

project = gonbuild.load_project("path/to/game")
project.plan()                          # what a build would do, and why
project.write_story("bao-ve-001", n=4)  # texts that pass the filters, best first
"""

from gonbuild.errors import GonbuildError, InputError, MachineError, Problem
from gonbuild.pipeline import Built, Project, load_project
from gonbuild.records import Card, Judged, Story

__version__ = "0.1.0"
__all__ = [
    "Built",
    "Card",
    "GonbuildError",
    "InputError",
    "Judged",
    "MachineError",
    "Problem",
    "Project",
    "Story",
    "load_project",
]
