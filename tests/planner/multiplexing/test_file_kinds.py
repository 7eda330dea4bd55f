"""Files of several services are told from those of one."""

from planner.multiplexing.file_kinds import is_shared_problem


def test_problems_of_several_services_are_told_from_others() -> None:
    assert is_shared_problem({"services": [{}, {}]})
    assert is_shared_problem({"services": [{}], "objective": {"goal": "served_load"}})
    assert not is_shared_problem({"services": [{}], "objective": {"goal": "min_cost"}})
    assert not is_shared_problem({"services": "chat"})
