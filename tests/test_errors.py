import pickle

import pytest

from gonbuild.errors import GonbuildError, InputError, MachineError, Problem, near, one_of


def test_problem_reads_as_place_fault_and_cure() -> None:
    problem = Problem("cards/song.yaml:12:5", "card 'voi-rong': unknown type 'Bao Ve'", "Did you mean 'Bảo Vệ'?")
    assert str(problem) == "cards/song.yaml:12:5: card 'voi-rong': unknown type 'Bao Ve'. Did you mean 'Bảo Vệ'?"
    assert str(Problem("", "no such card")) == "no such card."


def test_error_holds_all_its_problems() -> None:
    error = InputError([Problem("a:1", "one"), Problem("b:2", "two")])
    assert str(error) == "a:1: one.\nb:2: two."
    assert str(MachineError("the disk is full")) == "the disk is full."


def test_error_that_crosses_processes_keeps_its_problems() -> None:
    error = pickle.loads(pickle.dumps(InputError([Problem("a:1", "one", "Cure."), Problem("b:2", "two")])))
    assert isinstance(error, InputError)
    assert error.problems == (Problem("a:1", "one", "Cure."), Problem("b:2", "two"))


@pytest.mark.parametrize(("error", "code"), [(GonbuildError, 1), (InputError, 2), (MachineError, 3)])
def test_each_error_has_its_exit_code(error: type[GonbuildError], code: int) -> None:
    assert error("x").exit_code == code


def test_near_offers_the_closest_name_or_none() -> None:
    assert near("effekt", ["name", "effect"]) == "Did you mean 'effect'?"
    assert near("zzz", ["name", "effect"]) == ""


def test_one_of_joins_as_people_do() -> None:
    assert one_of(["a"]) == "a"
    assert one_of(["a", "b", "c"]) == "a, b or c"
