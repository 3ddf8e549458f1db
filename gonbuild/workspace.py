"""Owns what is there: a project's cards, templates, settings, lock and packs, and the keys of what is made from them.

It reads and remembers, decides nothing, and writes nothing but memos into the store.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gonbuild import packs
from gonbuild.drawing import Draw, draw_here
from gonbuild.errors import InputError, Problem
from gonbuild.form import Shown, form_card, form_decisions
from gonbuild.models import Models
from gonbuild.packs import Line, Lock, Other
from gonbuild.placing import fixed_stories, pinned_stories, placed
from gonbuild.records import Card, Deck, Preferences, Row, Story, digest
from gonbuild.remote import Remote
from gonbuild.reviews import REVIEWS, REVIEWS_BYTES, Decision, Reviews, check_reviews, parse_reviews
from gonbuild.settings import Settings
from gonbuild.sources import read_bytes
from gonbuild.store import Store

if TYPE_CHECKING:
    from gonbuild.cards import Library
    from gonbuild.dataset import Split
    from gonbuild.filters import StoryIndex
    from gonbuild.prompts import Templates

# A step's version: raised by whoever changes what the step makes of the same inputs.
LIBRARY_STEP, ADAPTER_STEP, CANDIDATES_STEP, FILTERS_STEP, PACKS_STEP = 2, 2, 2, 3, 3
PREFERENCES_STEP = 1
READ_BYTES, LOCK_BYTES = 1 << 30, 128 << 20
"""What is read of a file at most; 128 MiB of lock are some 30,000 cards."""


@dataclass(frozen=True)
class Scan:
    """The project's inputs as the cheap steps leave them: nothing here needs a model."""

    key: str
    decks: tuple[Deck, ...]
    cards: tuple[Card, ...]
    """Without their examples."""
    prompts: Mapping[str, str]
    """Card id -> digest of its rendered prompts."""
    rows: Mapping[str, str]
    """Source -> digest of its training rows."""
    notes: tuple[str, ...]
    row_notes: tuple[str, ...]
    """What deserves a look before an adapter is trained on the rows."""


class Workspace:
    """A project's inputs, read when first asked for; one object sees one state of the folder."""

    def __init__(self, root: Path, settings: Settings, store: Store, models: Models, remote: Remote) -> None:
        self.root, self.settings, self.store, self.models, self.remote = root, settings, store, models, remote
        self.draw: Draw = draw_here
        """What draws candidates that the store lacks into it."""

    def after_build(self) -> "Workspace":
        """Returns a look at what a build wrote, which reads the inputs that were read for it no second time."""
        ws = Workspace(self.root, self.settings, self.store, self.models, self.remote)
        inputs = ("library", "templates", "training_index", "split", "scan", "review_bytes", "reviews")
        vars(ws).update({name: value for name, value in vars(self).items() if name in inputs})
        return ws

    def read(self, name: str, limit: int = READ_BYTES) -> bytes:
        """Returns a file's bytes, none where there is no such file.

        Raises:
            InputError: it is larger than `limit` bytes, cannot be read, or is a link out of the project.
        """
        path = self.root / name
        data, problem = read_bytes(path, self.root, limit) if os.path.lexists(path) else (b"", None)
        if len(data) > limit:
            problem = Problem(name, f"is larger than {limit >> 20} MiB", "Delete it, or restore the earlier one.")
        if problem:
            raise InputError(problem)
        return data

    @cached_property
    def library(self) -> "Library":
        """Decks and examples, read in full."""
        from gonbuild.cards import read_library

        return read_library(self.root)

    @cached_property
    def templates(self) -> "Templates":
        """The project's templates, compiled."""
        from gonbuild.prompts import load_templates

        return load_templates(self.root)

    @cached_property
    def rows(self) -> list[Row]:
        """The adapter's training rows: stories that tell their card's effect and are not held out."""
        from gonbuild.dataset import training_rows
        from gonbuild.effects import read_effect, tell

        return training_rows(
            self.library.cards,
            self.split.training,
            self.templates,
            self.settings.dataset,
            lambda story, card: not tell(story, read_effect(card.effect)) and self.split.may_train(story),
        )

    @cached_property
    def preferences(self) -> Preferences:
        """What reviewers' marks on today's cards teach."""
        from gonbuild.preferences import read_marks

        return read_marks(self.scan.cards, self.templates, *self.reviews.marks())

    @cached_property
    def training_index(self) -> "StoryIndex":
        """All stories that a model may have seen, to compare with; a second or two for some ten thousand."""
        from gonbuild.filters import StoryIndex

        cards = (*self.library.cards, *self.library.examples)
        return StoryIndex((story, card.effect) for card in cards for story in card.examples)

    @cached_property
    def split(self) -> "Split":
        """The example cards that models may train on, and those that none may."""
        from gonbuild.dataset import split

        return split(self.library.cards, self.library.examples, self.models.held_out())

    @cached_property
    def scan(self) -> Scan:
        """The cheap steps' results, from the store while no file of theirs has changed."""
        inputs = {
            "files": {
                path.relative_to(self.root).as_posix(): digest(read_bytes(path, self.root, READ_BYTES)[0])
                for pattern in ("cards/*.y*ml", "cards/examples/*.jsonl", "templates/*")
                for path in sorted(self.root.glob(pattern))
                if path.is_file() and path != self.root / REVIEWS
            },
            "dataset": self.settings.dataset.model_dump(),
            "held_out": sorted(self.models.held_out()),
            "steps": [LIBRARY_STEP, FILTERS_STEP],  # whether an example tells its effect is a filter's word
        }
        value = self.store.memo("library", inputs, self._scan)
        return Scan(
            key=digest(inputs),
            decks=tuple(Deck(d["stem"], d["title"], tuple(d["cards"])) for d in value["decks"]),
            cards=tuple(Card(**card) for card in value["cards"]),
            prompts=value["prompts"],
            rows=value["rows"],
            notes=tuple(value["notes"]),
            row_notes=tuple(value["row_notes"]),
        )

    def _scan(self) -> dict[str, Any]:
        from gonbuild.dataset import row_digests, row_notes
        from gonbuild.effects import read_effect

        library = self.library
        prompts = {card.id: self.templates.prompt(card) for card in library.cards}
        # The pack's template is tried here, so that a mistake in it is found before any model runs.
        trial = {card.id: (Story(f"{card.id}.1", card.name, 0, 0.0, 0.0, (card.effect,)),) for card in library.cards}
        for stories in (trial, {}):
            others = [Other(1, card.type) for card in library.cards[:1] if stories] * 2
            form = partial(_trial_form, stories, others)
            self._pack_files(library.decks, library.cards, stories, form)
        trained = {(row.source, row.completion) for row in self.rows}
        notes = [
            f"{card.where}: card '{card.id}': effect: could not read '{unread}'; only its text is checked"
            for card in library.cards
            if (unread := read_effect(card.effect).unread)
        ]
        notes += [
            f"{card.where}: card '{card.id}': example {n} does not tell the effect and is not trained on; mend it"
            for card in library.cards
            for n, story in enumerate(card.examples, 1)
            if (card.id, self.templates.completion(story)) not in trained
        ]
        return {
            "decks": [vars(deck) for deck in library.decks],
            "cards": [{**vars(card), "examples": ()} for card in library.cards],
            "prompts": {card: digest([p.text, p.without_card]) for card, p in prompts.items()},
            "rows": row_digests(self.rows),
            "notes": notes,
            "row_notes": row_notes(self.rows),
        }

    @cached_property
    def review_bytes(self) -> bytes:
        """The decisions' file as it stands on the disk, empty where there is none.

        Raises:
            InputError: it cannot be read, or is a link out of the project.
        """
        return self.read(REVIEWS, REVIEWS_BYTES)

    @cached_property
    def reviews(self) -> Reviews:
        """What people decided.

        Raises:
            InputError: mistakes in the file, or decisions that cannot be honoured; mistakes of the decks come along.
        """
        reviews, problems = parse_reviews(self.review_bytes)
        try:
            problems += self.review_problems(reviews)
        except InputError as e:
            raise InputError([*e.problems, *problems]) from None
        if problems:
            raise InputError(problems)
        return reviews

    def review_problems(self, reviews: Reviews) -> list[Problem]:
        """Says which decisions cannot be honoured with today's cards and settings."""
        limits = self.settings.filters
        return check_reviews(
            reviews, self.scan.cards, self.settings.selection.stories, limits.max_words, limits.max_sentences
        )

    # The keys: each a digest of named inputs, which the store keeps beside what was made from them.

    @cached_property
    def adapter_inputs(self) -> dict[str, Any]:
        """Everything that decides the adapter's weights; marks do where it learns from them."""
        return {
            **self._learned,
            "base": self.models.identity(),
            "rows": dict(self.scan.rows),
            "model": self.settings.model.model_dump(include={"dtype", "quantization", "double_quantization"}),
            "adapter": self.settings.adapter.model_dump(mode="json"),
            "step": ADAPTER_STEP,
        }

    @property
    def _learned(self) -> dict[str, Any]:
        method = self.settings.adapter.method
        if method == "sft":
            return {}
        from gonbuild.preferences import preference_digests

        return {"preferences": preference_digests(self.preferences, method), "preferences_step": PREFERENCES_STEP}

    @cached_property
    def adapter_key(self) -> str:
        """Key of the adapter that today's rows and settings ask for."""
        return digest(self.adapter_inputs)

    def candidate_inputs(self, adapter: str, card: str, round_: int) -> dict[str, Any]:
        """Everything that decides one card's candidates of one round (from 0)."""
        count = self.settings.sampling.candidates
        return self.draw_inputs(adapter, card, self.scan.prompts[card], round_ * count, (round_ + 1) * count)

    def draw_inputs(self, maker: Any, card: str, prompt: str, first: int, last: int) -> dict[str, Any]:
        """Everything that decides candidates `first` to `last - 1`; the maker is an adapter, or inputs of a base."""
        return {
            "adapter": maker,
            "card": card,
            "prompt": prompt,
            "sampling": self.settings.sampling.model_dump(mode="json"),
            "first": first,
            "last": last,
            "without_card": self.settings.selection.card_weight > 0,
            "step": CANDIDATES_STEP,
        }

    @cached_property
    def stage_settings(self) -> dict[str, Any]:
        """The settings that every card's stories depend on; the lock names them by digest."""
        return {
            "sampling": self.settings.sampling.model_dump(mode="json"),
            "selection": {"card_weight": self.settings.selection.card_weight},
            "filters": {**self.settings.filters.model_dump(mode="json"), "step": FILTERS_STEP},
        }

    @cached_property
    def settings_key(self) -> str:
        """Digest of the stage settings."""
        return digest(self.stage_settings)

    def card_inputs(self, card: Card) -> dict[str, Any]:
        """Everything of one card's own that its stories depend on, as its lock line keeps it."""
        return {
            "name": card.name,
            "type": card.type,
            "effect": card.effect,
            "stories": card.stories or self.settings.selection.stories,
            "prompt": self.scan.prompts[card.id],
            "settings": self.settings_key,
        }

    # What was built before.

    @cached_property
    def lock_bytes(self) -> bytes:
        """The lock as it stands on the disk.

        Raises:
            InputError: as `read`, or it is empty, as no build leaves it.
        """
        data = self.read(packs.LOCK, LOCK_BYTES)
        if not data and (self.root / packs.LOCK).exists():
            raise InputError(Problem(packs.LOCK, "is empty", packs.RESTORE))
        return data

    @cached_property
    def lock(self) -> Lock:
        """The lock, read; that its packs are remembered here says that it was checked."""
        return packs.read_lock(self.lock_bytes, checked=self._written is not None)

    @cached_property
    def pack_bytes(self) -> dict[str, bytes]:
        """Every pack file's bytes by name; a file in the folder that no build wrote is none of ours."""
        paths = [p for p in sorted((self.root / packs.PACKS).glob("[!.]*")) if p.is_file()]
        found = {p.name: read_bytes(p, self.root, READ_BYTES)[0] for p in paths}  # a link out is not what we wrote
        return {n: data for n, data in found.items() if n in self._pack_names or data.startswith(packs.JSON_HEAD)}

    @cached_property
    def _pack_names(self) -> frozenset[str]:
        return frozenset({*packs.NAMES, *(f"{deck.stem}.json" for deck in self.scan.decks)})

    def stories(self, card: str) -> tuple[Story, ...]:
        """Returns what a card ships, as the lock has it."""
        line = self.lock.lines.get(card)
        return line.stories if line else ()

    def fixed(self, card: str, held: Collection[int] = ()) -> dict[int, Story]:
        """Returns what stands in a card's slots before any candidate is chosen: what people put there, and `held`."""
        earlier = self.stories(card)
        return fixed_stories(pinned_stories(card, self.pins.get(card, {}), earlier), earlier, held)

    def placed(self, card: str, held: Collection[int] = ()) -> tuple[Story, ...]:
        """Returns a card's stories with what people put into its slots, and no candidate looked at."""
        count = next(c.stories for c in self.scan.cards if c.id == card) or self.settings.selection.stories
        return placed(card, self.fixed(card, held), self.stories(card), count)

    @cached_property
    def pins(self) -> dict[str, dict[int, Decision]]:
        """Card id -> slot -> what people put there, those that are not stale."""
        return {card.id: pins for card in self.scan.cards if (pins := self.reviews.pins(card))}

    def accepted(self, line: Line) -> list[int]:
        """Returns the slots of a line whose stories people accepted."""
        return [s.slot for s in line.stories if self.reviews.accepts(line.card, s.text)]

    def refused(self, line: Line) -> dict[int, str]:
        """Returns the slots of a line whose stories may not stay, and why: `making.refused_slots` says which."""
        return {int(slot): why for slot, why in self._refused.get(line.card, {}).items()}

    @cached_property
    def _refused(self) -> dict[str, dict[str, str]]:
        inputs = self.shipped_inputs(self.lock_bytes)
        found: dict[str, dict[str, str]] = self.store.memo("refused", inputs, self._find_refused)
        return found

    @cached_property
    def copies(self) -> list[Problem]:
        """What stands against shipped stories as near copies: `copies.shipped_copies` says which."""
        found = self.store.memo("copies", self.shipped_inputs(self.lock_bytes), self._find_copies)
        return [Problem(**told) for told in found]

    def shipped_inputs(self, lock: bytes) -> dict[str, Any]:
        """Everything that decides whether the stories of a lock pass."""
        return {
            "lock": digest(lock),
            "library": self.scan.key,
            "reviews": digest(self.review_bytes),
            "settings": self.settings_key,
            "stories": self.settings.selection.stories,
        }

    def _find_refused(self) -> dict[str, dict[str, str]]:
        from gonbuild.making import refused_slots

        return refused_slots(self)

    def _find_copies(self) -> list[dict[str, str]]:
        from gonbuild.copies import shipped_copies

        return [vars(problem) for problem in shipped_copies(self)]

    def render(self, lines: Mapping[str, Line]) -> dict[str, bytes]:
        """Returns every pack file's bytes for the lines of a lock."""

        def form(card: Card) -> dict[str, Any]:
            line = lines.get(card.id)
            return form_card(card, line.stories if line else (), line.others if line else (), self.reviews)

        stories = {card: line.stories for card, line in lines.items()}
        return self._pack_files(self.scan.decks, self.scan.cards, stories, form)

    def _pack_files(
        self,
        decks: Sequence[Deck],
        cards: Sequence[Card],
        stories: Mapping[str, Sequence[Story]],
        form: Callable[[Card], Mapping[str, Any]],
    ) -> dict[str, bytes]:
        def markdown(**values: Any) -> str:
            return self.templates.render("pack.md.jinja", **values)

        return packs.pack_files(self.settings.packs.title, decks, cards, stories, form, markdown)

    @cached_property
    def pending(self) -> tuple[list[Decision], list[Problem]]:
        """Decisions in stories.md that the reviews have not, and what of it cannot be understood."""
        if self._written is not None and self._found.get("stories.md") == self._written.get("stories.md"):
            return [], []
        return self.decisions_in(self.pack_bytes.get("stories.md", b"").decode("utf-8", "replace"), packs.FORM)

    def decisions_in(self, form: str, where: str, by: str = "") -> tuple[list[Decision], list[Problem]]:
        """Returns the decisions in a filled-in stories.md that the reviews have not, and what cannot be understood."""
        cards = {}
        for card in self.scan.cards:
            line = self.lock.lines.get(card.id)
            others = {f"{card.id}.c{o.candidate}": o.text for o in (line.others if line else ())}
            cards[card.id] = Shown(card, {s.id: s for s in self.stories(card.id)}, others)
        return form_decisions(form, cards, self.reviews, where, by)

    @cached_property
    def changed_packs(self) -> dict[str, str]:
        """Pack files that are not what lock, cards and templates give -> why; empty where all is well.

        A digest of every file is remembered when packs are written, so that nothing needs rendering here.
        """
        wanted, why = self._written, "edited by hand"
        if wanted is None:
            rendered = self.render(self.lock.lines)
            wanted, why = _digests(rendered), "is not what the lock, the cards and the templates give"
            if wanted == self._found:
                self._remember_packs(self.lock_bytes, rendered)
        names = sorted(n for n in {*wanted, *self._found} if wanted.get(n) != self._found.get(n))
        reasons = {name: why if name in self._found else "missing" for name in names}
        return {name: reasons[name] if name in self._pack_names else "no deck makes it any more" for name in names}

    @cached_property
    def _found(self) -> dict[str, str]:
        """Pack file -> digest, as they stand on the disk."""
        return _digests(self.pack_bytes)

    @cached_property
    def _written(self) -> dict[str, str] | None:
        """Pack file -> digest, as a build wrote them for this lock; None where none is remembered."""
        told: dict[str, str] | None = self.store.read_json("packs", digest(self._pack_inputs(self.lock_bytes)))
        return told

    def remember_build(self, lock: bytes, files: Mapping[str, bytes]) -> None:
        """Notes what a build knows of the lock and the pack files that it wrote: all stories there passed."""
        self._remember_packs(lock, files)
        self.store.memo("refused", self.shipped_inputs(lock), dict)

    def _remember_packs(self, lock: bytes, files: Mapping[str, bytes]) -> None:
        self.store.memo("packs", self._pack_inputs(lock), lambda: _digests(files))

    def _pack_inputs(self, lock: bytes) -> dict[str, Any]:
        return {
            "lock": digest(lock),
            "library": self.scan.key,
            "reviews": digest(self.review_bytes),
            "title": self.settings.packs.title,
            "step": PACKS_STEP,
        }


def _trial_form(stories: Mapping[str, Sequence[Story]], others: Sequence[Other], card: Card) -> dict[str, Any]:
    return form_card(card, stories.get(card.id, ()), others, Reviews())


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest(data) for name, data in files.items()}
