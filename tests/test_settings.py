import time
import tomllib
from pathlib import Path

import pytest

from gonbuild.errors import InputError
from gonbuild.settings import PROFILES, Settings, load_settings, parse_settings, settings_table

REPOSITORY = Path(__file__).parent.parent


def parse(text: str) -> Settings:
    return parse_settings(tomllib.loads(text)["tool"]["gonbuild"], text)


def test_empty_table_is_the_nano_profile() -> None:
    assert parse("[tool.gonbuild]\n") == Settings()


def test_own_values_lie_over_the_profile_and_leave_the_rest_of_it() -> None:
    settings = parse('[tool.gonbuild]\nprofile = "mistral-7b"\n[tool.gonbuild.adapter]\nrank = 8\n')
    assert settings.adapter.rank == 8
    assert settings.adapter.alpha == PROFILES["mistral-7b"]["adapter"]["alpha"]
    assert settings.model.quantization == "nf4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperatur = 3", "pyproject.toml:3: unknown setting 'sampling.temperatur'. Did you mean 'temperature'?"),
        ("zzz = 3", "pyproject.toml:3: unknown setting 'sampling.zzz'. Known: candidates"),
        ("top_p = 7", "pyproject.toml:3: setting 'sampling.top_p' is 7. Wanted less than or equal to 1."),
        ('seed = "x"', "pyproject.toml:3: setting 'sampling.seed' is 'x'. Wanted a valid integer."),
        ("candidates = true", "pyproject.toml:3: setting 'sampling.candidates' is True. Wanted a valid integer."),
    ],
)
def test_wrong_setting_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match="pyproject.toml:3") as e:
        parse(f"[tool.gonbuild]\n[tool.gonbuild.sampling]\n{text}\n")
    assert str(e.value).startswith(message)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(InputError, match="sampling.seed") as e:
        parse("[tool.gonbuild]\nx = 1\n[tool.gonbuild.sampling]\nseed = 1.5\n[tool.gonbuild.filters]\nmin_words = 0\n")
    assert len(e.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tool = 3", "'tool' is no table"),
        ("[tool]\ngonbuild = 3", "'gonbuild' is no table"),
        ("[tool.gonbuild]\nprofile = []", "unknown profile"),
        ("[tool.gonbuild.adapter]\nweight_decay = inf", "'adapter.weight_decay' is inf"),
        ("[tool.gonbuild.adapter]\nseed = -1", "'adapter.seed' is -1. Wanted greater than or equal to 0"),
        ("[tool.gonbuild.adapter]\ntargets = []", "'adapter.targets'"),
        ('[tool.gonbuild.filters]\nbanned_words = [""]', "'filters.banned_words.0' is ''"),
        ('[tool.gonbuild.model]\nquantization = "nf4"', 'Wanted dtype = "bfloat16" with quantization = "nf4"'),
        ("[tool.gonbuild.adapter]\nrank = " + "9" * 5_000, "is no valid TOML: Exceeds the limit"),
        ("[tool.gonbuild.adapter]\nrank = " + "[" * 5_000, "is no valid TOML: maximum recursion depth exceeded"),
        ("[tool.gonbuild.adapter]\nrank = " + "[" * 250 + "]" * 250, "[tool.gonbuild] cannot be read. Invalid JSON"),
        ('[tool.gonbuild.release]\nfont = "\\u0000"', "'release.font'. Wanted a path: no NUL"),
        (
            '[tool.gonbuild.model]\nbase = "' + "ế" * 90 + '"',
            "'model.base'. Wanted a path: no NUL, parts of at most 255 b",
        ),
        (
            '[tool.gonbuild.packs]\ntitle = "a\\u202eb"',
            "'packs.title'. Wanted a text without invisible characters, found U+202E",
        ),
        ("[tool.gonbuild.filters]\nmin_words = 50", "Wanted min_words at most max_words, found 50 and 40"),
    ],
)
def test_what_no_stage_could_use_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(InputError, match="pyproject.toml") as e:
        load_settings(tmp_path)
    assert message in str(e.value)


def test_unknown_profile_is_blamed_on_who_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.gonbuild]\nprofile = "nano"\n')
    with pytest.raises(InputError, match="^--profile: unknown profile 'nan'"):
        load_settings(tmp_path, "nan")
    monkeypatch.setenv("GONBUILD_PROFILE", "nan")
    with pytest.raises(InputError, match="^GONBUILD_PROFILE: unknown profile 'nan'"):
        load_settings(tmp_path)


def test_table_in_place_of_a_value_is_no_crash() -> None:
    with pytest.raises(InputError, match="sampling"):
        parse("[tool.gonbuild]\nsampling = 3\n")


def test_unknown_profile_is_refused_with_the_near_name() -> None:
    with pytest.raises(InputError, match="unknown profile 'nan'. Wanted nano or mistral-7b. Did you mean 'nano'"):
        parse('[tool.gonbuild]\nprofile = "nan"\n')


def test_profile_of_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.gonbuild]\nprofile = "nano"\n')
    monkeypatch.setenv("GONBUILD_PROFILE", "mistral-7b")
    assert load_settings(tmp_path).profile == "mistral-7b"
    assert load_settings(tmp_path, "nano").profile == "nano"


def test_missing_and_broken_files_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file. Run gonbuild in a project"):
        load_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.gonbuild\n")
    with pytest.raises(InputError, match="pyproject.toml: is no valid TOML"):
        load_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_bytes(b"#" * (1 << 20))
    with pytest.raises(InputError, match="pyproject.toml: is larger than 256 KiB. Shorten it."):
        load_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="pyproject.toml: is no valid TOML"):
        load_settings(tmp_path)


def test_every_field_says_what_it_means() -> None:
    for stage, field in Settings.model_fields.items():
        if stage == "profile":
            continue
        for name, entry in type(getattr(Settings(), stage)).model_fields.items():
            assert entry.description, f"{stage}.{name} ({field})"


def test_readme_shows_the_table_that_the_code_gives() -> None:
    assert settings_table() in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_message_quotes_a_long_value_or_name_in_short(tmp_path: Path) -> None:
    long = "x" * 60_000
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.gonbuild]\nprofile = "nano"\n{long} = 1\n[tool.gonbuild.model]\ndtype = "{long}"\n'
    )
    with pytest.raises(InputError, match="pyproject.toml:3: unknown setting 'xxx") as e:
        load_settings(tmp_path)
    assert [len(str(p)) < 300 for p in e.value.problems] == [True, True]
    with pytest.raises(InputError, match="unknown profile 'xxx.*\\.\\.\\.'") as e:
        load_settings(tmp_path, long)
    assert len(str(e.value)) < 200


def test_many_mistakes_are_counted_and_take_no_time(tmp_path: Path) -> None:
    keys = "".join(f"key-{n} = 1\n" for n in range(5_000))
    (tmp_path / "pyproject.toml").write_text(f"[tool.gonbuild.packs]\n{keys}")
    began = time.thread_time()
    with pytest.raises(InputError, match="pyproject.toml:2: unknown setting 'packs.key-0'") as e:
        load_settings(tmp_path)
    assert len(e.value.problems) == 51
    assert time.thread_time() - began < 2  # each mistake looked through all lines: 20 s


def test_url_of_colons_takes_no_time() -> None:
    began = time.thread_time()
    with pytest.raises(InputError, match="Wanted a URL"):
        parse_settings({"cache": {"remote": "x y://" + ":" * 60_000}})
    with pytest.raises(InputError, match="Wanted no password in a URL"):
        parse_settings({"cache": {"remote": "s3://lan:" + ":" * 60_000 + "@x"}})
    assert time.thread_time() - began < 1
