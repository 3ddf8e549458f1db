"""Owns how the figures of an evaluation are told: tables in Markdown and pictures; measures nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gonbuild.markdown import md
from gonbuild.plots import bar_chart

MODELS = ("base", "adapter")
SETS = {"game": "game", "held_out": "held-out"}
TEXTS = {"BLEU": "BLEU", "chrF": "chrF", "self_bleu": "self-BLEU"}
DISTINCT = {f"distinct_{n}": f"distinct-{n}" for n in (1, 2, 3)}
KINDS = ("one region", "several regions", "a rule")

Figures = Mapping[str, Any]
Values = list[float | None]


def eval_markdown(figures: Figures) -> str:
    """Puts the figures of an evaluation into Markdown, base and adapter side by side."""
    held_out, game, sets = figures["held_out"], figures["game"], _sets(figures)
    head = (
        f"# Base `{figures['base']}` and adapter `{figures['adapter'][:8]}`\n\n"
        f"Measured on {held_out['stories']} stories of {held_out['cards']} held-out cards, on which neither is "
        f"trained, and on candidates: {held_out['candidates_per_card']} for each held-out card, "
        f"{game['candidates_per_card']} for each of the game's {game['cards']} cards. Base and adapter draw with the "
        "same noise."
    )
    shipped = [_row(name, [value], "{:.3g}") for name, value in figures["shipped"].items()]
    sections: dict[str, Iterator[str]] = {
        "Held-out stories": _held_out(figures["models"]) if held_out["cards"] else iter(()),
        "Candidates": _candidates(sets),
        "What people try": _tried(figures["tried"]),
        "Effect told right, by form": _forms(sets),
        "Shipped stories": iter([*_table([""]), *shipped]),
    }
    told = {title: "\n".join(lines) for title, lines in sections.items()}
    told["Candidates"] += "".join(f"\n\n![{name}]({name})" for name in eval_plots(figures))
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in told.items() if text)]) + "\n"


def eval_plots(figures: Figures) -> dict[str, str]:
    """Returns the pictures of an evaluation by file name: for each set of cards the shares, and the texts' figures."""
    plots = {}
    sets = _sets(figures)
    for name, rows in _shares(sets).items():
        size = figures[name]
        drawn = f"{size['candidates_per_card']} candidates for each of {size['cards']} {SETS[name]} cards"
        shares = [(label, _percent(values)) for label, values in rows.items()]
        texts = [(label, [side[key] for side in sets[name]]) for key, label in TEXTS.items() if key in sets[name][0]]
        texts += [(f"{label}, %", _percent(side[key] for side in sets[name])) for key, label in DISTINCT.items()]
        plots[f"eval-{SETS[name]}-shares.svg"] = bar_chart(drawn, "share of the candidates, %", MODELS, shares)
        plots[f"eval-{SETS[name]}-texts.svg"] = bar_chart(drawn, "BLEU and chrF 0-100; distinct in %", MODELS, texts)
    return plots


def _held_out(models: Figures) -> Iterator[str]:
    base, adapter = (models[model] for model in MODELS)
    yield from _table(MODELS)
    for key, label in {"bits_per_byte": "bits per byte", "perplexity": "perplexity per token"}.items():
        yield _row(label, [base[key], adapter[key]], "{:.3f}")
    for key in ("BLEU", "chrF"):
        yield _row(f"{key} of the candidates, 0-100", [base["held_out"][key], adapter["held_out"][key]], "{:.1f}")
    yield ""
    yield (
        "Bits per byte and perplexity are of the held-out stories, given their cards; less is better. BLEU and chrF "
        "are of the candidates as a corpus, each against all stories of its card; all texts are folded before (NFC, "
        f"one tone placement, small letters). sacrebleu's signatures: BLEU `{base['held_out']['BLEU_signature']}`, "
        f"chrF `{base['held_out']['chrF_signature']}`."
    )


def _candidates(sets: Mapping[str, Sequence[Figures]]) -> Iterator[str]:
    yield from _table([f"{SETS[name]}: {model}" for name in sets for model in MODELS])
    shares = _shares(sets)
    for label in dict.fromkeys(label for rows in shares.values() for label in rows):
        none: Values = [None] * len(MODELS)
        yield _row(label, [v for rows in shares.values() for v in rows.get(label, none)], "{:.1%}")
    sides = [side for sides in sets.values() for side in sides]
    yield _row(TEXTS["self_bleu"], [side["self_bleu"] for side in sides], "{:.1f}")
    for key, label in DISTINCT.items():
        yield _row(label, [side[key] for side in sides], "{:.3f}")
    yield ""
    yield (
        "A candidate counts for the first filter that drops it. Self-BLEU is among the candidates of one card, the "
        "mean over the cards; less is more varied. Distinct-n is the share of different word n-grams in all "
        "candidates. Both hang on how many there are: they compare base with adapter, not the two sets of cards."
    )


def _shares(sets: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Values]]:
    """Returns for each set the shares by label: of candidates that pass, that each filter drops, that tell the effect.

    The filters' order is that of the drops of the last side, a filter that dropped none in any set is left out.
    """
    filters = dict.fromkeys(name for sides in sets.values() for side in reversed(sides) for name in side["dropped_by"])
    return {
        name: {
            "pass all filters": [side["pass_rate"] for side in sides],
            **{f"dropped by {f}": [side["dropped_by"].get(f, 0.0) for side in sides] for f in filters},
            **{
                f"effect told right, {kind}": [side["effect_told"][kind]["share"] for side in sides]
                for kind in KINDS
                if kind in sides[0]["effect_told"]
            },
        }
        for name, sides in sets.items()
    }


def _tried(tried: Sequence[Figures]) -> Iterator[str]:

    yield (
        "What `gonbuild try` draws first for cards as people type them: ours, not a test set from elsewhere. A story "
        "that a filter drops has the reason behind it."
    )
    for case in tried:
        seen = " (a card of this name was trained on)" if case["name_seen_in_training"] else ""
        yield from ("", f"{md(case['card'])}{seen}", "")
        for model in MODELS:
            why = case[model]["dropped_by"]
            yield f"- {model}: {md(case[model]['text'])}" + (f" *dropped by {md(why)}*" if why else "")


def _forms(sets: Mapping[str, Sequence[Figures]]) -> Iterator[str]:

    yield from _table([f"{SETS[name]}: {column}" for name in sets for column in ("cards", *MODELS)])
    told = [[side["effect_told_by_form"] for side in sides] for sides in sets.values()]
    for form in sorted({form for sides in told for form in sides[0]}):
        cells = []
        for sides in told:
            if form in sides[0]:
                cells += [str(sides[0][form]["cards"]), *(f"{side[form]['share']:.0%}" for side in sides)]
            else:
                cells += [""] * (1 + len(MODELS))
        yield f"| {md(form)} | {' | '.join(cells)} |"


def _sets(figures: Figures) -> dict[str, list[Figures]]:
    """Returns the candidates' figures of base and adapter for each set of cards that there is."""
    models = figures["models"]
    return {name: [models[model][name] for model in MODELS] for name in SETS if models["base"][name]}


def _table(columns: Sequence[str]) -> list[str]:
    return [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def _row(label: str, values: Sequence[float | None], form: str) -> str:
    return f"| {label} | {' | '.join('' if v is None else form.format(v) for v in values)} |"


def _percent(values: Iterable[float | None]) -> Values:
    return [None if value is None else 100 * value for value in values]
