"""What the workflow file gives to whom: a pull request gets nothing that it could keep, spend or poison."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PATH = Path(__file__).parent.parent / ".github" / "workflows" / "stories.yml"
TEXT = PATH.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def steps(job: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]


def test_it_is_the_only_workflow() -> None:
    assert [path.name for path in PATH.parent.iterdir()] == ["stories.yml"]


def test_pull_requests_run_with_their_own_rights(workflow: dict[str, Any]) -> None:
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads `on` as true
    assert workflow[True]["push"] == {"branches": ["main"]}
    assert "pull_request_target" not in TEXT
    assert "workflow_run" not in TEXT
    assert workflow["permissions"] == {"contents": "read"}


def test_only_main_may_write(workflow: dict[str, Any]) -> None:
    check, regenerate = workflow["jobs"]["check"], workflow["jobs"]["regenerate"]
    assert set(workflow["jobs"]) == {"check", "regenerate"}
    assert check["if"] == "github.event_name == 'pull_request'"
    assert "permissions" not in check
    assert regenerate["if"] == "github.event_name == 'push'"
    assert regenerate["permissions"] == {"contents": "write", "pull-requests": "write"}
    assert [job["steps"][0]["with"] for job in (check, regenerate)] == [{"persist-credentials": False}] * 2


def test_pull_requests_have_no_secret_and_no_cache(workflow: dict[str, Any]) -> None:
    check = workflow["jobs"]["check"]
    told = str([check, workflow["env"]])
    assert "secrets." not in told
    assert "github.token" not in told
    assert not steps(check, "actions/cache")
    assert all("cache" not in step.get("with", {}) for step in steps(check, "actions/setup-python"))


def test_the_cache_is_not_where_a_commit_could_put_one(workflow: dict[str, Any]) -> None:
    place = Path(workflow["env"]["GONBUILD_CACHE"])
    assert place.is_absolute()
    (cache,) = steps(workflow["jobs"]["regenerate"], "actions/cache")
    assert cache["with"]["path"] == str(place)


def test_the_write_token_is_given_to_the_last_step_alone(workflow: dict[str, Any]) -> None:
    *earlier, last = workflow["jobs"]["regenerate"]["steps"]
    assert last["env"] == {"GH_TOKEN": "${{ github.token }}"}
    assert "github.token" not in str(earlier)
    assert "gonbuild" not in last["run"]


def test_actions_are_pinned_by_commit(workflow: dict[str, Any]) -> None:
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in used)


def test_no_text_of_a_pull_request_gets_into_a_command(workflow: dict[str, Any]) -> None:
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands
    assert not [command for command in commands if "${{" in command]


def test_every_job_ends(workflow: dict[str, Any]) -> None:
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
