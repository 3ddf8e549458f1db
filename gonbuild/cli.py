"""Owns the command line and all that is printed; decides nothing that a game's own tool could not ask for too."""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gonbuild import __version__
from gonbuild.disk import disk_trouble, write_aside
from gonbuild.errors import (
    EXIT_DONE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_MACHINE,
    EXIT_UNFINISHED,
    GonbuildError,
    InputError,
    MachineError,
    Problem,
)
from gonbuild.ranks import process, processes
from gonbuild.review_flags import add_flags

if TYPE_CHECKING:
    from gonbuild.desk import Desk
    from gonbuild.pipeline import Project
    from gonbuild.plan import Plan, Step
    from gonbuild.records import Judged

DESCRIPTION = """\
Builds the story packs of a card game. Cards and templates go in, a LoRA adapter is trained or reused, candidate
stories are sampled, filtered and chosen, and JSON and Markdown packs come out. What has not changed stays as it is,
to the byte; `gonbuild plan` says what would change, and why."""

EPILOG = """\
files:
  cards/*.yaml               the decks                templates/            prompts and the Markdown pack
  cards/examples/*.jsonl     more training stories    cards/reviews.yaml    what people decided on the stories
  pyproject.toml             settings, under [tool.gonbuild]
  build/packs/               the packs, committed     build/stories.lock.jsonl   what each was made from, committed
  build/cache/               adapters, candidates     build/report/         what was dropped, measured, learned

exit codes:
  0  done                    1  cards without enough good stories, or `check` found stale packs
  2  the input is wrong      3  this machine can't (disk, GPU, model missing)      130  interrupted

environment:
  GONBUILD_PROFILE  the profile, as --profile         GONBUILD_CACHE   the cache's folder, else build/cache
  GONBUILD_REMOTE   the shared store's URL            GONBUILD_REMOTE_READ_ONLY=1   send nothing there
  GONBUILD_REVIEWER who decides, as --by; else git's user.name

examples:
  gonbuild stories                       bring the packs up to date
  gonbuild plan                          what would be done, and why
  gonbuild stories --refresh bao-ve-001  ask for new stories of one card
  gonbuild try "Tên thẻ: Vớt Rác Trên Hồ. Loại: Bảo Vệ. Hiệu ứng: +2 điểm cho Sông"
"""

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)", re.I)
_USER = re.compile(r"://[^/@\s]+@")
"""Name and password in a URL, which drivers like to repeat in what they say."""

REVIEW = """\
decide which stories ship; without options story by story, key by key
Decisions are lines of cards/reviews.yaml, which every build honours. A story is named by card and slot, bao-ve-001.2,
a candidate by card and index as in stories.md, bao-ve-001.c17."""
RELEASE = (
    "or if something stands against a release: too few approved stories, stale pins, near-duplicates, "
    "a text that the game cannot show"
)
EVAL = "measure base and adapter side by side; writes eval.md, eval.json and plots to build/report"
WORKERS = (
    "processes of this host that draw candidates, each on a GPU of its own with `model.device = cuda` (default: 1)"
)
RAY = "draw candidates on this Ray cluster, `auto` for the one that this host belongs to"
EXPORT = """\
write the adapter, alone or merged, its base, the training stories or what marks teach, for other tools
A merged adapter and a base are whole models in full precision, with tokenizer and chat template. They are made in the
CPU's memory, in `model.dtype`: 14.8 GiB for Mistral-7B."""

EXPORTED = """\
adapter: a PEFT folder; base: the model that it adapts; chat: the decks' stories as JSON Lines;
preferences: a folder with reviewers' marks as pairs, dpo.jsonl, and one by one, kto.jsonl, as trl reads them"""


def main(argv: Sequence[str] | None = None, load: Callable[[str, str | None], "Project"] | None = None) -> int:
    """Runs one command and returns its exit code; every error ends here, as one line or more on stderr.

    `load` opens the project of a folder with a profile; by default `gonbuild.load_project` does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or pipe of another encoding shows escapes, and goes on
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    args.load = load
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if processes() > 1 and args.run is not _train:
            what = f"{processes()} processes were started, and together they can only train"
            raise InputError(Problem("", what, "Launch `gonbuild train`, then run this command without the launcher."))
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept", EXIT_INTERRUPTED, args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        return EXIT_DONE
    except GonbuildError as e:
        return _fail(str(e), e.exit_code, args)
    except OSError as e:
        where = str(e.filename or "")
        return _fail(str(MachineError(Problem(where, str(e.strerror or e)))), EXIT_MACHINE, args)
    except Exception as e:
        if trouble := disk_trouble(e):
            return _fail(str(MachineError(Problem("", f"{trouble}: {e}"))), EXIT_MACHINE, args)
        what = f"internal error: {type(e).__name__}: {e}. --debug shows where; please report it."
        return _fail(what, EXIT_MACHINE, args)
    return code


def _fail(text: str, code: int, args: argparse.Namespace) -> int:
    if args.debug:
        for line in traceback.format_exc().splitlines():
            print(_visible(line), file=sys.stderr)
    if process() and code == EXIT_INPUT:
        return code  # the first process says it too
    for line in text.splitlines():
        print(f"gonbuild: {_visible(line)}", file=sys.stderr)
    return code


def _visible(text: str) -> str:
    """Shows control characters as escapes, since card text must not steer a terminal, and secrets not at all."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8 and not value.startswith("/"):  # a path of a secret is none
            text = text.replace(value, "***")
    text = _USER.sub("://***@", text)
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    group.add_argument("--root", metavar="DIR", default=".", help="the project's folder (default: this one)")
    group.add_argument("--profile", help="nano (anywhere) or mistral-7b (wants a GPU); overrides the settings")
    group.add_argument("--debug", action="store_true", help="show a traceback with an error")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gonbuild", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"gonbuild {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        first, _, rest = text.partition("\n")
        sub = commands.add_parser(
            name, parents=[common], help=first, description=f"{first}\n{textwrap.dedent(rest)}", formatter_class=raw
        )
        sub.set_defaults(run=run)
        return sub

    stories = command(
        "stories", _stories, "bring the packs up to date\nTrains the adapter only if a stale card needs candidates."
    )
    plan = command("plan", _plan, "say what `stories` would do, and why; changes nothing")
    for sub in (stories, plan):
        sub.add_argument("--refresh", nargs="+", metavar="CARD", default=[], help="cards to make anew, or `all`")
    check = command(
        "check", _check, "exit 1 if the packs are stale, or hold copies that nobody accepted; no model, no network"
    )
    check.add_argument(
        "--release", action="store_true", help="or if something stands against releasing them: " + RELEASE
    )
    command("report", _report, "write build/report/index.html: what was built and why, figures, reviews")
    why = command("why", _why, "tell a card's story: its inputs, adapter, scores, and what was dropped")
    why.add_argument("card", help="id of a card")
    command("train", _train, "train the adapter, unless the cache holds it")
    eval_ = command("eval", _eval, EVAL)
    for sub in (stories, eval_):
        sub.add_argument("--workers", type=int, default=1, metavar="N", help=WORKERS)
        sub.add_argument("--ray", default="", metavar="ADDRESS", help=RAY)
    add_flags(command("review", _review, REVIEW))
    try_ = command("try", _try, "print candidates for one card with their verdicts; writes no pack")
    try_.add_argument("card", help="id of a card, or 'Tên thẻ: ... Loại: ... Hiệu ứng: ...'")
    try_.add_argument("-n", type=int, default=8, metavar="N", help="candidates (default: 8)")
    import_ = command("import", _import, "read a chat-format training file into cards/examples")
    import_.add_argument("file", help='JSON Lines: {"messages": [{"role", "content"}, ...]} each')
    import_.add_argument("--force", action="store_true", help="overwrite cards/examples/NAME.jsonl")
    export = command("export", _export, EXPORT)
    export.add_argument("what", choices=["adapter", "base", "chat", "preferences"], help=EXPORTED)
    export.add_argument("to", metavar="PATH", help="folder or file to write; it must not exist yet")
    export.add_argument("--merged", action="store_true", help="adapter: a whole model with the adapter in its weights")
    schema = command("schema", _schema, "print a JSON Schema for editors, or the settings table")
    schema.add_argument("what", choices=["cards", "reviews", "settings", "table"], nargs="?", default="cards")
    command("doctor", _doctor, "say what this machine can run")
    cache = command("cache", _cache, "list what is kept, clear it, or push today's adapter to the shared store")
    cache.add_argument("what", choices=["list", "clear", "push"], nargs="?", default="list")
    return parser


# --- commands ------------------------------------------------------------------------------------


def _project(args: argparse.Namespace) -> "Project":
    from gonbuild.pipeline import load_project

    project: Project = (args.load or load_project)(args.root, args.profile)
    project.store.warn = lambda line: print(_visible(f"gonbuild: {line}"), file=sys.stderr)
    return project


def _drawing_project(args: argparse.Namespace) -> "Project":
    from gonbuild.drawing import drawing

    project = _project(args)
    project.draw = drawing(project.settings, args.workers, args.ray)
    return project


def _stories(args: argparse.Namespace) -> int:
    project = _drawing_project(args)
    with Bars() as progress:
        built = project.build(args.refresh, progress, _print_plan)
    if built.plan.changes:
        print(f"{_count(len(built.stories), 'card')} made; see build/packs/stories.md and `git diff build/packs`.")
    return _say_short(built.short)


def _plan(args: argparse.Namespace) -> int:
    plan = _project(args).plan(args.refresh)
    _print_plan(plan)
    return _say_short(plan.short)


def _check(args: argparse.Namespace) -> int:
    project = _project(args)
    plan = project.plan()
    _print_plan(plan)
    if plan.changes:
        print("The packs are stale. Run `make stories` and commit build/.", file=sys.stderr)
        return EXIT_UNFINISHED
    code = _say_short(plan.short)
    problems = project.check()
    if args.release:
        more, notes = project.check_release()
        problems = [*dict.fromkeys([*problems, *more])]
        _print_lines([f"note: {note}" for note in notes])
    for problem in problems:
        print(_visible(f"gonbuild: {problem}"), file=sys.stderr)
    if args.release:
        told = f"{_count(len(problems), 'thing')} to mend before a release."
        _print_lines([told if problems else "Ready for a release."])
    return EXIT_UNFINISHED if problems else code


def _report(args: argparse.Namespace) -> int:
    print(f"wrote {_short_path(_project(args).report())}")
    return EXIT_DONE


def _why(args: argparse.Namespace) -> int:
    _print_lines(_project(args).why(args.card))
    return EXIT_DONE


def _train(args: argparse.Namespace) -> int:
    from gonbuild.curves import KEPT, PICTURE
    from gonbuild.report import training_line

    project = _project(args)
    with Bars() as progress:
        folder = project.train(progress)
    if not process():
        record = folder / KEPT
        curve = f"; its loss curve in build/report/{PICTURE}" if record.is_file() else ""
        print(f"adapter {folder.name[:8]} is in {_short_path(folder)}{curve}")
        if told := training_line(record.read_bytes() if record.is_file() else b""):
            print(_visible(f"trained on {told}"))
    return EXIT_DONE


def _eval(args: argparse.Namespace) -> int:
    from gonbuild.comparison import eval_markdown

    project = _drawing_project(args)
    with Bars() as progress:
        figures = project.evaluate(progress)
    print(eval_markdown(figures), end="")
    return EXIT_DONE


def _review(args: argparse.Namespace) -> int:
    from gonbuild.desk import Desk
    from gonbuild.review_flags import decided_lines, listed, reviewer

    desk = Desk(_project(args))
    by = args.by or reviewer(desk.project.root)
    if args.web:
        from gonbuild.web import serve

        desk.sheets()  # mistakes are told here, not in a browser
        serve(desk, args.host, args.port, by, lambda url: print(f"Reviewing at {url}\nCtrl-C ends it.", flush=True))
    elif args.list:
        _print_lines(listed(desk))
    elif (lines := decided_lines(desk, args, by)) is not None:
        _print_lines(lines)
    else:
        _review_here(desk, by)
    return EXIT_DONE


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(_visible(line))


def _review_here(desk: "Desk", by: str) -> None:
    from gonbuild.terminal import Session

    if not sys.stdin.isatty() or importlib.util.find_spec("termios") is None:
        cure = "`gonbuild review --web` works in a browser, and `gonbuild review --help` has flags for scripts."
        raise InputError(Problem("", "reviewing key by key wants a terminal", cure))
    made = Session(desk, _Terminal(), by).run()
    print(f"{_count(made, 'decision')} made" + ("; `make stories` brings them into the packs." if made else "."))


def _try(args: argparse.Namespace) -> int:
    from gonbuild.chat import parse_card_text

    project = _project(args)
    card = parse_card_text(args.card) if ":" in args.card else args.card
    with Bars() as progress:
        judged = project.try_card(card, args.n, progress)
    for j in judged:
        print(_candidate_line(j, project.settings.selection.card_weight))
    print(f"{sum(j.kept for j in judged)} of {len(judged)} pass")
    return EXIT_DONE


def _import(args: argparse.Namespace) -> int:
    from gonbuild.cards import examples_jsonl
    from gonbuild.chat import import_chat

    project, source = _project(args), Path(args.file)
    if not source.is_file():
        raise InputError(Problem(args.file, "no such file", "Name a chat-format JSON Lines file."))
    found = import_chat(source.read_bytes(), args.file)
    for problem in found.unplaced:
        print(f"not placed: {_visible(str(problem))}", file=sys.stderr)
    if not found.cards:
        raise InputError(Problem(args.file, "holds no story that could be placed", "Wanted chat-format JSON Lines."))
    target = project.root / "cards" / "examples" / f"{source.stem}.jsonl"
    if target.exists() and not args.force:
        raise InputError(Problem(_short_path(target), "is there already", "--force overwrites it."))
    write_aside(target, examples_jsonl(found.cards).encode())
    stories = sum(len(card.examples) for card in found.cards)
    print(f"{stories} stories of {_count(len(found.cards), 'card')} -> {_short_path(target)}; "
          f"{_count(len({p.where for p in found.unplaced}), 'line')} not placed")  # fmt: skip
    if not project.settings.dataset.examples:
        print("No adapter is trained on them while dataset.examples is 0; filters compare with them all the same.")
    return EXIT_DONE


def _export(args: argparse.Namespace) -> int:
    from gonbuild.dataset import chat_jsonl

    project, target = _project(args), Path(args.to)
    if args.merged and args.what != "adapter":
        raise InputError(Problem("--merged", "is for `export adapter` alone"))
    if args.what == "chat":
        if target.exists():
            raise InputError(Problem(args.to, "is there already", "Name a path that is free."))
        ws = project.workspace()
        write_aside(target, chat_jsonl(ws.library.cards, ws.templates.system).encode())
    elif args.what == "preferences":
        told = project.export_preferences(target)
        print(f"{_count(len(told.pairs), 'pair')}, {_count(len(told.rows), 'marked story', 'marked stories')}")
    else:
        with Bars() as progress:
            project.export(args.what, target, merged=args.merged, progress=progress)
    print(f"wrote {args.to}")
    return EXIT_DONE


def _schema(args: argparse.Namespace) -> int:
    from gonbuild.cards import card_schema
    from gonbuild.reviews import reviews_schema
    from gonbuild.settings import Settings, settings_table

    if args.what == "table":
        print(settings_table(), end="")
        return EXIT_DONE
    schemas = {"cards": card_schema, "reviews": reviews_schema, "settings": Settings.model_json_schema}
    schema = schemas[args.what]()
    print(json.dumps(schema, ensure_ascii=False, indent=2))
    return EXIT_DONE


def _doctor(args: argparse.Namespace) -> int:
    project = _project(args)
    machine, profiles = project.models.examine()
    for name, value in machine.items():
        print(f"{name:<22} {value}")
    for name, (missing, needs) in profiles.items():
        print(f"profile {name:<14} {'runs here' if not missing else 'cannot run here: ' + '; '.join(missing)}")
        for need in needs:
            print(f"{'  memory, GiB':<22} {need}")
    return EXIT_DONE


def _cache(args: argparse.Namespace) -> int:
    project = _project(args)
    store = project.store
    if args.what == "clear":
        store.clear(project.settings.machine.lock_timeout_s)
        print(f"cleared {_short_path(store.root)}")
        return EXIT_DONE
    if args.what == "push":
        with Bars() as progress:
            key = project.push(progress)
        if key:
            print(_visible(f"adapter {key[:8]} is in {project.settings.cache.remote}"))
        return EXIT_DONE if key else EXIT_MACHINE
    entries = store.entries()
    for entry in entries:
        print(f"{entry.kind:<12} {entry.key[:16]}  {entry.size / 1e6:9.2f} MB")
    print(f"{_count(len(entries), 'entry', 'entries')}, {sum(e.size for e in entries) / 1e6:.1f} MB, "
          f"in {_short_path(store.root)}")  # fmt: skip
    return EXIT_DONE


# --- printing ------------------------------------------------------------------------------------


def _print_plan(plan: "Plan") -> None:
    _print_lines(plan_lines(plan))
    sys.stdout.flush()


def plan_lines(plan: "Plan") -> list[str]:
    """Puts a plan into words, a line a step; kept cards are counted, not listed."""
    kept = sum(not step.changes for step in plan.cards)
    if not plan.changes:
        few = f", {len(plan.short)} of them with too few stories" if plan.short else ""
        lines = [f"Nothing to do: {_count(kept, 'card')} up to date{few}."]
    else:
        named = [(_name(group), group[0]) for group in ([plan.adapter], *_alike(plan.cards), [plan.packs])]
        width = max(len(name) for name, _ in named)
        lines = [f"{name:<{width}}  {s.action:<10}  {'; '.join(s.reasons)}".rstrip() for name, s in named]
        if kept:
            lines.insert(-1, f"{_count(kept, 'card')} kept")
    pending = (f"not in cards/reviews.yaml: {line}" for line in plan.pending)
    return [*lines, *pending, *(f"note: {note}" for note in plan.notes)]


def _alike(steps: Sequence["Step"]) -> list[list["Step"]]:
    """Groups changing steps for one line each: more than eight with the same action and reasons go together."""
    groups: dict[object, list[Step]] = {}
    for step in steps:
        if step.changes:
            groups.setdefault((step.action, step.reasons), []).append(step)
    return [part for group in groups.values() for part in ([group] if len(group) > 8 else [[step] for step in group])]


def _name(steps: Sequence["Step"]) -> str:
    if steps[0].what == "adapter":
        return f"adapter {steps[0].adapter[:8]}"
    return steps[0].what + (f" and {len(steps) - 1} more" if len(steps) > 1 else "")


def _say_short(short: Any) -> int:
    for card, why in sorted(short.items()):
        print(_visible(f"gonbuild: card '{card}' has {why}; see `gonbuild why {card}`"), file=sys.stderr)
    return EXIT_UNFINISHED if short else EXIT_DONE


def _candidate_line(j: "Judged", card_weight: float) -> str:
    verdict = j.dropped_by
    mark = "ok  " if verdict is None else "drop"
    why = f"   [{verdict.reason}]" if verdict else f"   [score {j.candidate.score(card_weight):.2f}]"
    return f"{mark} {j.candidate.index:>3}  {_visible(j.candidate.text)}{_visible(why)}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _short_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class _Terminal:
    """A person's terminal: single keys, and lines that can be edited."""

    def key(self) -> str:
        import termios
        import tty

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
        try:
            tty.setcbreak(handle, termios.TCSADRAIN)  # not its default, which throws away what was typed ahead
            return os.read(handle, 1).decode("latin-1")  # past Python's buffer, which `line` does not read
        finally:
            termios.tcsetattr(handle, termios.TCSADRAIN, before)

    def line(self, prompt: str, start: str = "") -> str:
        import readline

        readline.set_startup_hook(lambda: readline.insert_text(start))
        try:
            return input(prompt).strip()
        except EOFError:
            return ""
        finally:
            readline.set_startup_hook()

    def say(self, text: str) -> None:
        print("\n".join(map(_visible, text.split("\n"))), flush=True)


class Bars:
    """Progress on stderr: a bar for each step on a terminal, a plain line at its start and end elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""
        self._losses: list[float] = []
        """Of the training that goes on."""

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, what: str, done: int, total: int, loss: float | None = None, /) -> None:
        if what != self._what:
            self._losses = []
        if loss is not None:
            self._losses.append(loss)
        # Who closed stderr has no use for progress, and wants the packs still.
        with contextlib.suppress(BrokenPipeError):
            if not process():
                self._show(what, done, total)

    def _show(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if what != self._what:
                print(f"{what}: {total} to do", file=sys.stderr, flush=True)
            elif done == total:
                fell = f", loss {self._losses[0]:.2f} -> {self._losses[-1]:.2f}" if self._losses else ""
                print(f"{what}: done{fell}", file=sys.stderr, flush=True)
            self._what = what if done < total else ""
            return
        if what != self._what:
            from tqdm import tqdm

            self._close()
            self._what, self._bar = what, tqdm(total=total, desc=what, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if self._losses:
            from gonbuild.plots import sparkline

            self._bar.set_postfix_str(f"loss {self._losses[-1]:.2f} {sparkline(self._losses)}")
        if done == total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""


if __name__ == "__main__":
    sys.exit(main())
