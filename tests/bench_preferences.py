"""Shows on the embedded base that an adapter learns from reviewers' bans, and prints one table.

    python tests/bench_preferences.py [--candidates 8]      about five minutes on two cores

The flaw: a story that opens with the region that gets the points, "Rừng tăng 2 điểm nhờ ...", and so with the score
instead of a scene. Among candidates for the game's cards that pass the filters, 30 with the flaw are banned, three a
card, and up to three others of the same card are approved. Adapters are trained as `gonbuild train` does, without the
marks and with them, and draw for the cards of gonbuild/nano/held-out.txt: no mark is of those, and no model was trained
on them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gonbuild.evaluate import distinct_n
from gonbuild.filters import judge
from gonbuild.making import adapter_folder, context
from gonbuild.pipeline import Project, load_project
from gonbuild.records import REGIONS, Card, Judged, Request
from gonbuild.reviews import Decision, Reviews
from gonbuild.settings import AdapterSettings
from gonbuild.workspace import Workspace

REPOSITORY = Path(__file__).parent.parent
BANS, A_CARD = 30, 3
Texts = dict[str, tuple[str, ...]]


def flawed(text: str) -> bool:
    """Tells whether a story opens with a region's name."""
    return text.partition(" ")[0].rstrip(",") in REGIONS


@dataclass(frozen=True)
class Drawn:
    """What one adapter draws, judged, and what its training took."""

    taught: Sequence[Judged]
    """For cards with marks."""
    held_out: Sequence[Judged]
    seconds: tuple[float, float]
    """On stories, on marks."""


def draw(ws: Workspace, folder: Path, cards: Sequence[Card], count: int) -> list[list[Judged]]:
    """Returns each card's candidates with their verdicts."""
    requests = [Request(card.id or card.name, ws.templates.prompt(card), 0, count) for card in cards]
    drawn = ws.models.generate(folder, requests, lambda *_: None)
    ctx = context(ws, {})
    return [[judge(c, card, ctx) for c in found] for card, (_, found) in zip(cards, drawn, strict=True)]


def collect(cards: Sequence[Card], judged: Sequence[Sequence[Judged]]) -> tuple[Texts, Texts]:
    """Returns approved and banned stories by card id: of cards that have three with the flaw and one without it."""
    liked: Texts = {}
    banned: Texts = {}
    for card, candidates in zip(cards, judged, strict=True):
        texts = list(dict.fromkeys(j.candidate.text for j in candidates if j.kept))
        bad = [text for text in texts if flawed(text)][:A_CARD]
        good = [text for text in texts if not flawed(text)][:A_CARD]
        if len(bad) == A_CARD and good and len(banned) < BANS // A_CARD:
            liked[card.id], banned[card.id] = tuple(good), tuple(bad)
    return liked, banned


def commonest(words: Sequence[str]) -> tuple[str, float]:
    """Returns the commonest word and its share."""
    word, count = Counter(words).most_common(1)[0]
    return word, count / len(words)


def measure(
    project: Project, adapter: AdapterSettings, marks: tuple[Mapping[str, Sequence[str]], ...], counts: tuple[int, int]
) -> Drawn:
    """Trains an adapter by its settings and the marks, unless the cache holds it, and draws with it."""
    changed = project.settings.model_copy(update={"adapter": adapter})
    project = Project(project.root, changed, project.store)
    ws = project.workspace()
    kinds = (("approve", ""), ("ban", "opens with the score"))
    ws.reviews = Reviews(
        tuple(
            Decision(card, kind, text, reason=reason)
            for (kind, reason), texts in zip(kinds, marks, strict=True)
            for card, told in texts.items()
            for text in told
        )
    )
    folder = adapter_folder(ws)
    told = json.loads((folder / "training.json").read_bytes())
    taught = [card for card in ws.library.cards if card.id in marks[1]]
    held_out = list({card.name.casefold(): card for card in ws.split.held_out}.values())
    drawn = [draw(ws, folder, cards, n) for cards, n in zip((taught, held_out), counts, strict=True)]
    flat = [[j for candidates in each for j in candidates] for each in drawn]
    return Drawn(flat[0], flat[1], (told["seconds"], told.get("preferences", {}).get("seconds", 0.0)))


def figures(drawn: Drawn) -> list[str]:
    """Returns a column of the table."""

    def share(judged: Sequence[Judged], kept: bool = False) -> str:
        return f"{sum(j.kept if kept else flawed(j.candidate.text) for j in judged) / len(judged):.1%}"

    texts = [j.candidate.text for j in drawn.held_out]
    clean = sum(j.kept and not flawed(j.candidate.text) for j in drawn.held_out)
    return [
        share(drawn.held_out),
        share(drawn.taught),
        share(drawn.held_out, kept=True),
        f"{clean / len(texts):.1%}",
        f"{distinct_n(texts, 2):.2f}",
        "{0[0]} {0[1]:.1%}".format(commonest([text.partition(" ")[0].rstrip(",") for text in texts])),
        f"{sum(len(text.split()) for text in texts) / len(texts):.1f}",
        " + ".join(f"{seconds:.0f} s" for seconds in drawn.seconds if seconds),
    ]


def main() -> None:
    """Collects the marks, trains three adapters and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=8, help="for each held-out card (default: 8)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of adapter, as preference_beta=0.2")
    args = parser.parse_args()
    project = load_project(REPOSITORY)
    ws = project.workspace()
    cards = sorted(ws.library.cards, key=lambda card: card.id)
    count = ws.settings.sampling.candidates
    marks = collect(cards, draw(ws, adapter_folder(ws), cards, count))
    liked, banned = (sum(map(len, texts.values())) for texts in marks)
    print(f"{banned} stories of {len(marks[1])} cards banned, {liked} approved", flush=True)
    own = {name: float(value) for name, _, value in (told.partition("=") for told in args.set)}
    columns = []
    for method in ("sft", "dpo", "kto"):
        adapter = AdapterSettings.model_validate({**dict(project.settings.adapter), "method": method, **own})
        columns.append(figures(measure(project, adapter, marks, (count, args.candidates))))
        print(method, *columns[-1], flush=True)
    names = [
        "candidates with the flaw, held-out cards",
        f"the same, the {len(marks[1])} cards with marks",
        "candidates that pass the filters, held-out cards",
        "of all, those that pass and do not have the flaw",
        "distinct-2 of all candidates, held-out cards",
        "commonest first word, held-out cards",
        "words a candidate, held-out cards",
        "training, on stories + on marks",
    ]
    print("\n| | sft | dpo | kto |\n|---|---|---|---|")
    for name, *row in zip(names, *columns, strict=True):
        print(f"| {' | '.join([name, *row])} |")


if __name__ == "__main__":
    main()
