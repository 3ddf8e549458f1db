"""Owns the line from cards to packs: `plan` says what a build does and why, `build` follows that plan.

With workspace and making it knows every stage; those that load much are imported when a step needs them.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gonbuild import packs
from gonbuild.base import locate_base
from gonbuild.decisions import told
from gonbuild.disk import committed, folder_aside, links_out, write_all_aside, write_aside
from gonbuild.drawing import Draw, draw_here
from gonbuild.errors import GonbuildError, InputError, Problem, near
from gonbuild.models import Models
from gonbuild.packs import Line, Lock
from gonbuild.plan import GENERATE, KEEP, PLACE, RELOCK, SELECT, Pinned, Plan, Situation, Step, make_plan
from gonbuild.plan import diff as diff_in_words
from gonbuild.ranks import process, processes
from gonbuild.records import Card, Judged, Preferences, Progress, Request, Story, digest, quiet
from gonbuild.remote import Remote
from gonbuild.report import candidates_jsonl, card_history
from gonbuild.reviews import EDIT, Decision, stale_notes
from gonbuild.settings import Settings, load_settings
from gonbuild.store import KINDS, Store
from gonbuild.workspace import Workspace

if TYPE_CHECKING:
    from gonbuild.making import Made

REPORT = "build/report"
CACHE = "build/cache"
FOLDERS = ("cards", "cards/examples", "templates", "build", packs.PACKS, REPORT, CACHE)
CANDIDATES = f"{REPORT}/candidates.jsonl"
MOST_CANDIDATES = 1024
REPORTED = 500
"""Cards at most whose report a build writes: each story takes 3 ms to compare; `gonbuild report` takes any number."""
FORM_CURE = f"`gonbuild review --from {packs.FORM}` takes it down, `git checkout {packs.FORM}` drops it."


@dataclass(frozen=True)
class Built:
    """What a build did."""

    plan: Plan
    stories: Mapping[str, tuple[Story, ...]] = field(default_factory=dict)
    """Of the cards that were made anew."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Cards that ship fewer stories than they want -> why."""


class Project:
    """A folder with `cards/`, `templates/` and `[tool.gonbuild]`, ready to plan and build.

    `models` is the road to base, adapter and engine, `remote` the one to the store that machines share; tests put fakes
    there.
    """

    def __init__(
        self, root: Path, settings: Settings, store: Store, models: Models | None = None, remote: Remote | None = None
    ) -> None:
        self.root, self.settings, self.store = root, settings, store
        self.models = models or Models(root, settings, store)
        self.remote = remote or Remote(settings.cache, store)
        self.draw: Draw = draw_here
        """How builds and evaluations draw candidates that the store lacks; `drawing` returns others."""

    def workspace(self) -> Workspace:
        """Returns a fresh look at the folder."""
        ws = Workspace(self.root, self.settings, self.store, self.models, self.remote)
        ws.draw = self.draw
        return ws

    def plan(self, refresh: Collection[str] = ()) -> Plan:
        """Returns what a build would do and why; `refresh` names cards that shall be made anew (`all` for all).

        Raises:
            InputError: cards, templates or lock are wrong, or `refresh` names an unknown card.
        """
        return _plan(self.workspace(), refresh)

    def build(
        self,
        refresh: Collection[str] = (),
        progress: Progress = quiet,
        announce: Callable[[Plan], object] = lambda _plan: None,
    ) -> Built:
        """Brings the packs up to date, following the plan; writes nothing where nothing is stale.

        `announce` is told the plan before anything of it is done.

        Raises:
            InputError, MachineError: as `plan`, or while training or generating; the packs are then untouched.
        """
        plan = self.plan(refresh)
        if not plan.changes:
            announce(plan)
            return Built(plan, short=plan.short)
        with self.store.lock(self.settings.machine.lock_timeout_s):
            ws = self.workspace()  # another build may have ended while this one waited
            plan = _plan(ws, refresh)
            if plan.pending:
                what = "holds what a build would overwrite"
                raise InputError(
                    [Problem(packs.FORM, f"{what}: {line.rstrip('.')}", FORM_CURE) for line in plan.pending]
                )
            announce(plan)
            built = _run(ws, plan, progress)
            try:
                if len(ws.scan.cards) <= REPORTED:
                    self._report(ws.after_build(), plan)
            except (GonbuildError, OSError) as e:  # the packs are written, and whole
                self.store.warn(f"the packs are written, and there is no report of them: {e}")
            return built

    def report(self) -> Path:
        """Writes build/report/index.html, of the project as it stands; returns its path.

        Raises:
            InputError: as `plan`, or the project has no templates/report.html.jinja.
            MachineError: the disk is full.
        """
        ws = self.workspace()
        return self._report(ws, _plan(ws, ()))

    def _report(self, ws: Workspace, plan: Plan) -> Path:
        from gonbuild.overview import overview
        from gonbuild.report_page import PAGE, render_report

        write_aside(self.root / PAGE, render_report(ws, overview(ws, plan)))
        return self.root / PAGE

    def check(self) -> list[Problem]:
        """Returns what stands against packs that are up to date, so that no plan says it.

        Shipped stories that are too near to training stories or to each other, with nobody's consent; and a cache that
        somebody committed, which could tell anything of them.

        Raises:
            InputError: as `plan`.
        """
        if self.store.root == self.root / CACHE and (files := committed(self.root, CACHE)):
            what = f"{files} of its files are committed, and a cache of somebody's is not to be trusted"
            return [Problem(CACHE, what, f"`git rm -r --cached {CACHE}` takes them out.")]
        return self.workspace().copies

    def check_release(self) -> tuple[list[Problem], list[str]]:
        """Returns what stands against a release of the packs, beside their being stale, and notes that do not.

        Raises:
            InputError: as `plan`.
        """
        from gonbuild.release import check_release

        return check_release(self.workspace())

    def why(self, card: str) -> list[str]:
        """Tells a card's story in lines: what the next build does with it, what its stories are and came from.

        Raises:
            InputError: as `plan`, or an unknown card.
        """
        ws = self.workspace()
        steps = {step.what: step for step in _plan(ws, ()).cards}
        if card not in steps:
            raise InputError(Problem("", f"unknown card '{card}'", near(card, list(steps))))
        line = ws.lock.lines.get(card)
        return card_history(steps[card], line, ws.read(CANDIDATES))

    def train(self, progress: Progress = quiet) -> Path:
        """Trains the adapter that today's inputs ask for, unless store or remote has it; returns its folder.

        The loss is drawn into build/report while it trains, and the whole curve is kept there afterwards.
        Of the processes of one launch the first does so, and the others train with it.
        """
        from gonbuild.curves import drawn_live, keep_curve
        from gonbuild.making import adapter_folder

        if processes() > 1 and self.settings.adapter.method != "sft":
            what = f"{processes()} processes were started, and learning from marks takes one"
            raise InputError(Problem("", what, "Run `gonbuild train` without the launcher."))
        if process():
            ws = self.workspace()
            self.models.help(ws.rows, self.store.root / "training" / ws.adapter_key)
            return self.store.root / "adapter" / ws.adapter_key
        with self.store.lock(self.settings.machine.lock_timeout_s):
            folder = adapter_folder(self.workspace(), progress=drawn_live(progress, self.root / REPORT))
        self.models.let_go()
        keep_curve(folder, self.root / REPORT)
        return folder

    def push(self, progress: Progress = quiet) -> str:
        """Sends today's adapter from the store to the remote; returns its key, or nothing where a warning says why not.

        Raises:
            InputError: no remote is set, or the store does not have the adapter.
        """
        key = self.workspace().adapter_key
        if not self.settings.cache.remote:
            raise InputError(
                Problem("", "no remote is set", "Wanted cache.remote in the settings, or GONBUILD_REMOTE.")
            )
        if self.store.get("adapter", key) is None:
            what = f"adapter {key[:8]}, which today's cards and settings ask for, is not in the cache"
            raise InputError(Problem("", what, "`gonbuild train` makes it, and sends it."))
        return key if self.remote.push(key, progress) else ""

    def export(self, what: str, target: Path, *, merged: bool = False, progress: Progress = quiet) -> None:
        """Writes a folder for other tools, whole or not at all: today's `adapter`, merged if wished, or its `base`.

        Raises:
            InputError: the target is there already.
            MachineError: the disk is full, or memory is too small to merge.
        """
        from gonbuild.export import write_adapter

        if target.exists():
            raise InputError(Problem(str(target), "is there already", "Name a path that is free."))
        folder = self.train(progress) if what == "adapter" else None
        with folder_aside(target) as aside:
            if folder is not None and not merged:
                write_adapter(folder, locate_base(self.settings.model, self.root), aside)
            else:
                ws = self.workspace()
                chat = ws.read("templates/chat.jinja").decode()
                self.models.write_model(folder, aside, ws.templates, chat)

    def export_preferences(self, target: Path) -> Preferences:
        """Writes what reviewers' marks teach into a folder, whole or not at all: dpo.jsonl and kto.jsonl for trl.

        A file that would be empty is not written. Returns what was written.

        Raises:
            InputError: the target is there already, or there are no marks.
        """
        from gonbuild.preferences import dpo_jsonl, kto_jsonl

        if target.exists():
            raise InputError(Problem(str(target), "is there already", "Name a path that is free."))
        told = self.workspace().preferences
        if not told.rows:
            wanted = "Ban stories, and approve or pin others: `gonbuild review`."
            raise InputError(Problem("", "no story of these cards bears a reviewer's mark", wanted))
        files = {"dpo.jsonl": dpo_jsonl(told.pairs), "kto.jsonl": kto_jsonl(told.rows)}
        with folder_aside(target) as aside:
            for name, text in files.items():
                if text:
                    (aside / name).write_text(text, encoding="utf-8")
        return told

    def evaluate(self, progress: Progress = quiet) -> dict[str, Any]:
        """Measures base and adapter side by side, and today's stories; writes eval.* into build/report.

        Trains and generates what the store lacks.
        """
        from gonbuild.comparison import eval_markdown, eval_plots
        from gonbuild.figures import figures

        with self.store.lock(self.settings.machine.lock_timeout_s):
            measured = figures(self.workspace(), progress)
        written = {
            "eval.json": json.dumps(measured, ensure_ascii=False, indent=1) + "\n",
            "eval.md": eval_markdown(measured),
            **eval_plots(measured),
        }
        for name, text in written.items():
            write_aside(self.root / REPORT / name, text.encode())
        return measured

    def try_card(self, card: Card | str, n: int = 4, progress: Progress = quiet) -> tuple[Judged, ...]:
        """Returns n candidates for a card, in the project or not, each with its verdicts; writes no pack.

        Trains the adapter where the store lacks it.
        """
        from gonbuild.filters import judge
        from gonbuild.making import adapter_folder, context

        if not 1 <= n <= MOST_CANDIDATES:
            raise InputError(Problem("", f"{n} candidates were asked for", f"Wanted 1 to {MOST_CANDIDATES}."))
        ws = self.workspace()
        if isinstance(card, str):
            known = {c.id: c for c in ws.library.cards}
            if card not in known:
                form = "Wanted an id of a card, or 'Tên thẻ: ... Loại: ... Hiệu ứng: ...'."
                raise InputError(Problem("", f"unknown card '{card}'", near(card, list(known)) or form))
            card = known[card]
        requests = [Request(card.id, ws.templates.prompt(card), 0, n)]
        ctx = context(ws, {})
        with self.store.lock(self.settings.machine.lock_timeout_s):
            folder = adapter_folder(ws, progress=progress)
        drawn = ws.models.generate(folder, requests, progress)
        return tuple(judge(candidate, card, ctx) for _, candidates in drawn for candidate in candidates)

    def write_story(self, card: Card | str, n: int = 4) -> list[str]:
        """Returns the texts of those of n candidates that pass the filters, best first.

        `card` is an id of the project or a `gonbuild.Card`.
        """
        from gonbuild.selection import best_first

        return [c.text for c in best_first(self.try_card(card, n), self.settings.selection.card_weight)]


def load_project(path: Path | str = ".", profile: str | None = None) -> Project:
    """Opens the project in a folder: its settings are read and checked, nothing else is done yet.

    Raises:
        InputError: no pyproject.toml there, settings that are wrong, or folders of a build that lie elsewhere.
    """
    root = Path(path).resolve()
    cache = Path(os.environ.get("GONBUILD_CACHE") or root / CACHE)
    if problems := links_out(root, (*FOLDERS, *(f"{CACHE}/{kind}" for kind in KINDS))):
        raise InputError(problems)
    return Project(root, load_settings(root, profile), Store(cache))


def _plan(ws: Workspace, refresh: Collection[str]) -> Plan:
    _ = ws.reviews  # mistakes in decks and decisions are told together
    ids = [card.id for card in ws.scan.cards]
    for name in refresh:
        if name not in ids and name != "all":
            raise InputError(Problem("--refresh", f"unknown card '{name}'", near(name, ids)))
    situation = Situation(
        wanted={card.id: ws.card_inputs(card) for card in ws.scan.cards},
        settings={ws.settings_key: ws.stage_settings},
        rounds=ws.settings.selection.rounds,
        candidates=ws.settings.sampling.candidates,
        lock=ws.lock,
        adapter=ws.adapter_key,
        adapter_reasons=_adapter_reasons(ws),
        has_adapter=lambda adapter: _fits_base(ws, adapter),
        has_candidates=lambda *names: ws.store.has("candidates", digest(ws.candidate_inputs(*names))),
        still_passes=lambda card: _still_pass(ws, card),
        pack_reasons=lambda: tuple(f"{name}: {why}" for name, why in ws.changed_packs.items()),
        refresh=frozenset(ids if "all" in refresh else refresh),
        remote=ws.settings.cache.remote,
        row_notes=ws.scan.row_notes,
        pins={card: {slot: _pinned(d) for slot, d in pins.items()} for card, pins in ws.pins.items()},
        accepted=ws.accepted,
        refused=ws.refused,
        pending=_pending(ws),
    )
    return make_plan(situation, (*ws.scan.notes, *stale_notes(ws.reviews, ws.scan.cards)))


def _pinned(decision: Decision) -> Pinned:
    return Pinned(decision.text, "edited" if decision.kind == EDIT else "pinned")


def _pending(ws: Workspace) -> tuple[str, ...]:
    decisions, problems = ws.pending
    return (*(told(d) for d in decisions), *map(str, problems))


def _fits_base(ws: Workspace, adapter: str) -> bool:
    """Tells whether an adapter is in the store and was made for today's base; a lock may name one of another base."""
    made = ws.store.inputs("adapter", adapter)
    same = made is not None and all(made.get(name) == ws.adapter_inputs[name] for name in ("base", "model"))
    return same and ws.store.has("adapter", adapter)


def _adapter_reasons(ws: Workspace) -> tuple[str, ...]:
    """Compares today's adapter with the one that most cards were made with, as far as the store knows it."""
    uses: dict[str, int] = {}
    for line in ws.lock.lines.values():
        uses[line.adapter] = uses.get(line.adapter, 0) + 1
    for key in sorted(uses, key=lambda k: (-uses[k], k)):
        earlier = ws.store.inputs("adapter", key)
        if earlier is not None:
            return tuple(diff_in_words(earlier, ws.adapter_inputs)) or ("not in the store",)
    return ("never built here",)


def _still_pass(ws: Workspace, card: str) -> bool:
    from gonbuild.making import still_pass

    return still_pass(ws, card)


def _run(ws: Workspace, plan: Plan, progress: Progress) -> Built:
    from gonbuild.making import make_stories

    for name in (packs.PACKS, REPORT):  # what cannot be written is found before the work
        (ws.root / name).mkdir(parents=True, exist_ok=True)
    kept = {step.what: ws.stories(step.what) for step in plan.cards if step.action in (KEEP, RELOCK)}
    kept |= {step.what: ws.placed(step.what, step.held) for step in plan.cards if step.action == PLACE}
    work = make_stories(ws, [s for s in plan.cards if s.action in (SELECT, GENERATE)], kept, progress)
    lines = _lines(ws, plan, work, kept)
    if work:
        judged = {m.card.id: m.judged for m in work}
        weight = ws.settings.selection.card_weight
        write_aside(ws.root / CANDIDATES, candidates_jsonl(ws.read(CANDIDATES), judged, set(lines), weight))
    write_packs(ws, lines)  # last: whatever fails before leaves the earlier ones
    made = {step.what: lines[step.what].stories for step in plan.cards if step.action in (PLACE, SELECT, GENERATE)}
    return Built(plan, made, {card: line.short for card, line in lines.items() if line.short})


def _lines(ws: Workspace, plan: Plan, work: Iterable["Made"], kept: Mapping[str, Sequence[Story]]) -> dict[str, Line]:
    """Returns the new lock: kept lines as they are, relocked and placed ones with today's inputs, made ones anew."""
    from gonbuild.bleu import signature
    from gonbuild.selection import commonest_drops

    cards = {card.id: card for card in ws.scan.cards}
    lines = {}
    for step in plan.cards:
        if step.action == KEEP:
            lines[step.what] = ws.lock.lines[step.what]
        elif step.action == RELOCK:
            lines[step.what] = replace(ws.lock.lines[step.what], inputs=ws.card_inputs(cards[step.what]))
        elif step.action == PLACE:
            lines[step.what] = _placed_line(ws, step, cards[step.what], kept[step.what])
    for m in work:
        drops = ", ".join(f"{name} {count}" for name, count in commonest_drops(m.judged))
        more = f" and {len(m.stories) - m.found} from before" if len(m.stories) > m.found else ""
        short = f"{m.found} new{more} of {m.count} stories; dropped by {drops}" if m.found < m.count else ""
        lines[m.card.id] = Line(
            card=m.card.id,
            inputs=ws.card_inputs(m.card),
            adapter=m.adapter,
            stories=m.stories,
            signature=signature(),
            short=short,
            rounds=m.rounds if short else 0,
            others=tuple(packs.Other(other.candidate or 0, other.text) for other in m.others),
        )
    return lines


def _placed_line(ws: Workspace, step: Step, card: Card, stories: Sequence[Story]) -> Line:
    """Returns the line of a card whose slots people filled, as far as they changed; no candidate is looked at."""
    from gonbuild.bleu import signature

    inputs = ws.card_inputs(card)
    line = ws.lock.lines.get(card.id) or Line(card.id, inputs, step.adapter, (), signature())
    enough = len(stories) >= inputs["stories"]
    return replace(
        line,
        inputs=inputs,
        stories=tuple(stories),
        short="" if enough else line.short,
        rounds=0 if enough else line.rounds,
    )


def write_packs(ws: Workspace, lines: Mapping[str, Line]) -> None:
    """Writes lock and packs, all or none, the lock first: packs that a crash left behind are rendered from it again."""
    files = ws.render(lines)
    folder = ws.root / packs.PACKS
    lock = packs.lock_bytes(Lock(lines, {**ws.lock.settings, ws.settings_key: ws.stage_settings}))
    changed: dict[Path, bytes | None] = {ws.root / packs.LOCK: lock or None} if lock != ws.lock_bytes else {}
    changed |= {folder / name: data for name, data in files.items() if ws.pack_bytes.get(name) != data}
    changed |= dict.fromkeys(folder / name for name in ws.pack_bytes.keys() - files.keys())
    write_all_aside(changed)
    ws.remember_build(lock, files)
