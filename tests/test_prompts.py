import html
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonbuild.errors import InputError
from gonbuild.form import word_diff
from gonbuild.markdown import md
from gonbuild.packs import form_entries
from gonbuild.prompts import load_templates
from gonbuild.records import Card, digest

ROOT = Path(__file__).parents[1]
CARD = Card("bao-ve-001", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng", "bao-ve", examples=("Bí mật.",))
SYSTEM = (ROOT / "templates/system.txt").read_text(encoding="utf-8").rstrip("\n")

CHAT = (Path(__file__).parent.parent / "templates" / "chat.jinja").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path):
    """Returns a maker of projects whose templates differ from ours in some files."""

    def make(**changed: str) -> Path:
        shutil.copytree(ROOT / "templates", tmp_path / "templates", dirs_exist_ok=True)
        for stem, text in changed.items():
            (path,) = (tmp_path / "templates").glob(f"{stem}.*")
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return make


def test_prompt_is_the_seeds_form():
    prompt = load_templates(ROOT).prompt(CARD)
    assert prompt.text == (
        f"<|system|>\n{SYSTEM}<|end|>\n"
        "<|user|>\nTên thẻ: Trồng Rừng\nLoại: Bảo Vệ\nHiệu ứng: +2 điểm cho Rừng<|end|>\n"
        "<|assistant|>\n"
    )
    assert prompt.without_card == f"<|system|>\n{SYSTEM}<|end|>\n<|assistant|>\n"


def test_completion_is_the_story_and_the_end_of_the_turn():
    templates = load_templates(ROOT)
    assert templates.stop == "<|end|>"
    assert templates.completion("Một câu.") == "Một câu.<|end|>"


def test_end_of_the_turn_follows_the_chat_template(project):
    chat = (
        "{% for m in messages %}{% if m.role == 'assistant' %}[A]{{ m.content }}<|end|>{% else %}"
        "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[A]{% endif %}"
    )
    templates = load_templates(project(chat=chat, card="{{ card.name }}", system="S"))
    assert templates.prompt(CARD).text == "[system]S[user]Trồng Rừng[A]"
    assert templates.completion("x") == "x<|end|>"


@pytest.mark.parametrize("name", ["system", "card", "chat"])
@pytest.mark.parametrize("change", [lambda t: t + "\n", lambda t: t.rstrip("\n"), lambda t: t.replace("\n", "\r\n")])
def test_line_ends_of_a_template_change_no_prompt(project, name, change):
    (path,) = (ROOT / "templates").glob(f"{name}.*")
    root = project()
    ours = path.read_bytes().decode()
    (root / "templates" / path.name).write_bytes(change(ours.rstrip("\n")).encode())
    assert load_templates(root).prompt(CARD) == load_templates(ROOT).prompt(CARD)


def test_template_sees_no_examples(project):
    with pytest.raises(InputError, match=r"templates/card.txt:2: cannot be rendered: .*no attribute 'examples'"):
        load_templates(project(card="{{ card.name }}\n{{ card.examples }}")).prompt(CARD)


@pytest.mark.parametrize("key", ["id", "name", "type", "effect", "deck"])
def test_template_sees_the_cards_own_fields(project, key):
    text = load_templates(project(card=f"<{{{{ card.{key} }}}}>")).prompt(CARD).text
    assert f"<{getattr(CARD, key)}>" in text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"card": "a\n{{ card.efect }}"}, "templates/card.txt:2: cannot be rendered: .*no attribute 'efect'"),
        ({"card": "a\nb\n{{ name }}"}, "templates/card.txt:3: cannot be rendered: 'name' is undefined"),
        ({"card": "{{ ''.__class__ }}"}, "templates/card.txt:1: cannot be rendered: access to attribute '__class__'"),
        (
            {"card": "\n{{ card.update(name='x') }}"},
            "templates/card.txt:2: cannot be rendered: access to attribute 'update' of 'dict'",
        ),
        ({"card": "{{ 'a' * 10 ** 9 }}"}, "templates/card.txt:1: cannot be rendered: '[*]+' is not for templates"),
        ({"card": "{{ 1 / 0 }}"}, "templates/card.txt(:1)?: .*division by zero"),
        ({"card": "{% include 'system.txt' %}"}, "templates/card.txt:1: cannot be rendered: no loader"),
        (
            {"card": "{{ 'a'.center(100001) }}"},
            "templates/card.txt:1: cannot be rendered: access to attribute 'center'",
        ),
        ({"card": "{{ [1, 2]|random }}"}, "templates/card.txt:1: is no valid template: No filter named 'random'"),
        ({"card": "{{ lipsum() }}"}, "templates/card.txt:1: cannot be rendered: 'lipsum' is undefined"),
        ({"chat": CHAT.replace("<|end|>", "</s>")}, "templates/chat.jinja: ends the assistant's turn with '</s>'"),
        ({"card": "{% for i in range(99999) %}{{ i }}{% endfor %}"}, "card.txt: makes more than 100000 characters"),
        (
            {"card": "{% for i in range(10000000) %}{% endfor %}"},
            "templates/card.txt:1: cannot be rendered: Range too big",
        ),
        ({"card": "{{ card.name"}, "templates/card.txt:1: is no valid template: unexpected end of template"),
        ({"card": "\n\n{% frob %}"}, "templates/card.txt:3: is no valid template: Encountered unknown tag 'frob'"),
        ({"card": "{{ card.name | nosuch }}"}, "templates/card.txt:1: is no valid template: No filter named 'nosuch'"),
        ({"system": "{{ card.name }}"}, "templates/system.txt:1: cannot be rendered: 'card' is undefined"),
        ({"chat": "{{ messages[9].role }}"}, "templates/chat.jinja:1: cannot be rendered"),
        ({"pack": "{% if %}"}, "templates/pack.md.jinja:1: is no valid template"),
    ],
)
def test_faulty_template_is_named_with_its_line(project, files, said):
    with pytest.raises(InputError, match=said):
        load_templates(project(**files)).prompt(CARD)


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "does not start with the prompt"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "nothing ends the assistant's turn"),
        ("{% for m in messages %}{{ m.content | upper }}.{% endfor %}", "does not start with the story"),
        ("always the same", "does not start with the story"),
        ("{% if add_generation_prompt %}A{% else %}B{% endif %}", "does not start with the prompt"),
    ],
)
def test_chat_template_that_no_model_can_continue_is_refused(project, chat, said):
    with pytest.raises(InputError, match=f"templates/chat.jinja: .*{said}"):
        load_templates(project(chat=chat))


def test_all_missing_and_broken_templates_are_named_at_once(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/chat.jinja").write_text("{% if %}")
    (tmp_path / "templates/system.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="templates/card.txt: is no file") as caught:
        load_templates(tmp_path)
    assert [p.where for p in caught.value.problems] == [
        "templates/system.txt:1",
        "templates/card.txt",
        "templates/chat.jinja:1",
        "templates/pack.md.jinja",
    ]


def test_sources_are_the_digests_of_the_files():
    sources = load_templates(ROOT).sources
    assert sources["card.txt"] == digest((ROOT / "templates/card.txt").read_bytes())
    assert sorted(sources) == sorted(path.name for path in (ROOT / "templates").iterdir())


def test_template_of_the_report_alone_may_be_missing(project):
    root = project()
    (root / "templates/report.html.jinja").unlink()
    assert load_templates(root).prompt(CARD) == load_templates(ROOT).prompt(CARD)


# The reading pack


def block(card: str, *stories: str, **more: object) -> dict:
    told = [
        {"id": f"{card}.{n}", "text": text, "box": " ", "note": "score 1.2, novelty 30", "changes": []}
        for n, text in enumerate(stories, 1)
    ]
    return {
        "id": card,
        "name": "Trồng Rừng",
        "effect": "+2 điểm cho Rừng",
        "stories": told,
        "others": [],
        "check": "0" * 8,
        **more,
    }


def pack(*cards: dict) -> str:
    groups = [{"type": "Bảo Vệ", "cards": [*cards]}, {"type": "Thiên Tai", "cards": [block("z", "Cuối.")]}]
    return load_templates(ROOT).render("pack.md.jinja", title="GON", groups=groups)


def test_pack_reads_like_this():
    changed = block("c", "Nhà xanh.", others=[{"id": "c.c7", "text": "Khác."}])
    changed["stories"][0] |= {"box": "x", "changes": word_diff("Nhà đỏ.", "Nhà xanh.")}
    text = pack(block("a", "Một.", "Hai!"), block("b"), changed)
    assert text.startswith("<!-- Tệp này do gonbuild sinh ra từ cards/")
    assert text[text.index("\n\n#") :] == (
        "\n\n# Truyện cho bộ thẻ GON\n\n## Bảo Vệ\n\n"
        "### Trồng Rừng\n\nHiệu ứng: +2 điểm cho Rừng · `a`\n\n- [ ] `a.1` Một.\n- [ ] `a.2` Hai!\n\n"
        "<!-- a 00000000; a.1: score 1.2, novelty 30; a.2: score 1.2, novelty 30 -->\n\n"
        "### Trồng Rừng\n\nHiệu ứng: +2 điểm cho Rừng · `b`\n\n_Chưa có truyện._\n\n<!-- b 00000000 -->\n\n"
        "### Trồng Rừng\n\nHiệu ứng: +2 điểm cho Rừng · `c`\n\n- [x] `c.1` Nhà xanh.\n"
        "  - Trước: Nhà ~~đỏ.~~ **xanh.**\n\n<!-- c 00000000; c.1: score 1.2, novelty 30 -->\n\n"
        "<details><summary>Ứng viên khác (1)</summary>\n\n- [ ] `c.c7` Khác.\n\n</details>\n\n"
        "## Thiên Tai\n\n### Trồng Rừng\n\nHiệu ứng: +2 điểm cho Rừng · `z`\n\n- [ ] `z.1` Cuối.\n\n"
        "<!-- z 00000000; z.1: score 1.2, novelty 30 -->\n"
    )


def test_changed_story_changes_one_line_and_new_card_one_block():
    before = pack(block("a", "Một."), block("b", "Hai.")).splitlines()
    changed = pack(block("a", "Một."), block("b", "Ba.")).splitlines()
    assert [new for old, new in zip(before, changed, strict=True) if old != new] == ["- [ ] `b.1` Ba."]
    more = pack(block("a", "Một."), block("b", "Hai."), block("c", "Tư.")).splitlines()
    start = more.index("Hiệu ứng: +2 điểm cho Rừng · `c`") - 2
    assert more[:start] + more[start + 8 :] == before


def test_pack_template_that_names_a_missing_variable_is_named(project):
    templates = load_templates(project(pack="# {{ title }}\n{{ tilte }}"))
    with pytest.raises(InputError, match=r"templates/pack.md.jinja:2: cannot be rendered: 'tilte' is undefined"):
        templates.render("pack.md.jinja", title="GON", groups=[])


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Rừng xanh! +2 điểm, 50% (thật)", "Rừng xanh! +2 điểm, 50% (thật)"),
        ("*a* _b_ `c` [d](e) {{ f }} | ~g~ \\", r"\*a\* \_b\_ \`c\` \[d\](e) \{\{ f \}\} \| \~g\~ \\"),
        ("<!-- <script>&lt;", "&lt;!-- &lt;script&gt;&amp;lt;"),
        ("# a #1", r"\# a #1"),
        ("a ##", r"a \##"),
        ("- a", r"\- a"),
        ("+ a", r"\+ a"),
        ("-2 điểm", "-2 điểm"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("1. a 2. b", r"1\. a 2. b"),
        ("12) a", r"12\) a"),
        ("123. a", r"123\. a"),
        ("1.5 điểm", "1.5 điểm"),
        ("a\n\n# b", "a # b"),
        ("https://x.vn", r"https\://x.vn"),
    ],
)
def test_markdown_and_html_are_escaped(text, escaped):
    assert md(text) == escaped


@given(st.text(st.sampled_from("ab1é \\`*_{}[]<>#|!&;.)-+=~:/\n"), max_size=20))
def test_escaped_text_reads_back_as_it_was(text):
    once = html.unescape(re.sub(r"\\(.)", r"\1", md(text)))
    assert once == " ".join(text.split())
    assert not re.search(r"<|>", md(text))


def test_stories_are_found_again_in_the_pack():
    stories = ["1. *Một* & <hai>.", "- Ba \\ bốn!", "&lt; _năm_"]
    assert [entry.text for entry in form_entries(pack(block("a", *stories)))] == [*stories, "Cuối."]
