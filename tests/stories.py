"""Example stories that tell their effect, a spread of all plain files, for properties that hold for any."""

from pathlib import Path

from gonbuild.cards import parse_examples
from gonbuild.effects import read_effect, tell

EXAMPLES = Path(__file__).parent.parent / "cards" / "examples"
STORIES = [
    (card.name, card.effect, story)
    for path in sorted(EXAMPLES.glob("plain-*.jsonl"))
    for card in parse_examples(path.read_bytes(), path.name)[0][::5]
    for story in card.examples
    if not tell(story, read_effect(card.effect))
]
"""(name, effect, story)"""
