"""The catalogue of faults: each has a number, and tests that do it. One that is renamed or dropped is missed here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

# In virtual time on the scheduler, in one process, or on a real Ray.
CATALOGUE = {
    "F1 a worker that crashes in mid-task": {
        "unit/test_dealer": [
            "a_lost_chunk_is_dealt_before_those_that_wait",
            "each_chunk_is_accepted_once_whatever_happens",
        ],
        "runtime/test_ray_drills": ["a_worker_that_is_lost_in_the_middle_of_a_chunk_leaves_no_trace"],
    },
    "F2 a worker that hangs": {
        "unit/test_dealer": ["a_chunk_whose_lease_ends_is_dealt_again_and_its_worker_replaced_later"],
        "runtime/test_ray_drills": ["a_worker_that_is_lost_in_the_middle_of_a_chunk_leaves_no_trace"],
    },
    "F3 a straggler": {"unit/test_dealer": ["stragglers_do_not_hold_up_a_round"]},
    "F4 no memory left": {
        "unit/test_dealer": ["a_task_that_needs_more_memory_than_there_is_is_named_in_one_process_too"],
        "runtime/test_ray_drills": ["a_worker_that_is_lost_in_the_middle_of_a_chunk_leaves_no_trace"],
    },
    "F5 no memory left on a GPU": {"unit/test_loop_and_evaluate": ["a_gpu_without_memory_says_what_would_need_less"]},
    "F6 a task that is not finite": {
        "unit/test_loop_and_evaluate": ["a_task_that_is_not_finite_is_as_if_it_were_not_there"]
    },
    "F7 a task that raises": {
        "unit/test_loop_and_evaluate": ["a_task_that_raises_is_named_with_the_line_that_reproduces_it"],
        "runtime/test_ray_faults": ["an_error_in_a_task_ends_the_run_and_names_the_task"],
    },
    "F8 damaged data": {"unit/test_images": ["a_bit_that_the_disk_lost_is_found_when_its_class_is_used"]},
    "F9 an answer that comes twice": {
        "unit/test_dealer": ["a_late_answer_of_a_worker_that_was_given_up_counts_and_its_second_does_not"],
        "runtime/test_cluster_drills": ["the_cluster_s_troubles_leave_no_trace"],
    },
    "F10 a parameter actor that dies within a step": {
        "unit/test_crashes": ["a_crash_at_any_point_changes_nothing"],
        "runtime/test_ray_drills": ["a_parameter_actor_that_is_lost_is_built_again_from_its_checkpoint"],
    },
    "F11 a driver that is killed": {
        "unit/test_durable_model": ["a_run_survives_whatever_happens_to_it"],
        "runtime/test_signals": ["a_driver_that_is_killed_outright_leaves_nobody_behind_and_its_run_goes_on"],
    },
    "F12 a node that is lost": {
        "unit/test_dealer": ["when_the_last_worker_is_not_replaced_patience_ends"],
        "runtime/test_cluster_drills": ["the_cluster_s_troubles_leave_no_trace"],
    },
    "F13 a head that is lost": {
        "runtime/test_head": ["a_head_that_stays_away_ends_the_run_in_one_line"],
        "runtime/test_head_lost": ["a_run_whose_head_is_lost_ends_and_goes_on_on_another_cluster"],
    },
    "F14 a network that is cut": {
        "unit/test_dealer": ["a_late_worker_that_answers_after_all_is_used_again"],
        "runtime/test_two_hosts": ["a_link_that_loses_every_packet_leaves_no_trace"],
    },
    "F15 MLflow is away": {
        "unit/test_journal_and_publisher": ["a_tracker_that_fails_is_tried_again_until_it_has_all"],
        "runtime/test_sync": ["what_mlflow_missed_is_sent_once_however_often_it_is_sent"],
    },
    "F16 MLflow's run is deleted or its params differ": {
        "unit/test_journal_and_publisher": ["a_run_that_is_deleted_while_it_trains_is_followed_by_one_that_has_all"],
        "unit/test_tracking": ["a_param_that_changed_becomes_a_tag_with_its_latest_value"],
    },
    "F17 a full disk": {"unit/test_storage": ["a_full_disk_ends_the_run_in_one_line_and_with_room_it_goes_on"]},
    "F18 a folder that cannot be written, or vanishes": {
        "unit/test_storage": [
            "a_read_only_folder_is_told_before_anything_starts",
            "a_folder_that_vanishes_is_named_and_not_made_anew",
        ]
    },
    "F19 a signal": {
        "unit/test_stop": ["a_second_signal_ends_the_process_at_once"],
        "runtime/test_signals": ["a_signal_in_the_middle_of_training"],
    },
    "F20 a machine that is about to be taken away": {
        "unit/test_dealer": ["a_leaving_worker_keeps_its_result_and_gets_no_more"],
        "runtime/test_cluster_drills": ["the_cluster_s_troubles_leave_no_trace"],
    },
    "F21 a worker that joins late": {"unit/test_dealer": ["a_worker_that_joins_late_gets_work_at_once"]},
    "F22 an object store that is full": {
        "runtime/test_full_store": [
            "what_a_step_no_longer_needs_leaves_the_store",
            "a_theta_for_which_there_is_no_room_anywhere_ends_the_run_in_one_line",
        ]
    },
    "F23 a clock that jumps": {"unit/test_journal_and_publisher": ["time_does_not_go_back"]},
    "F24 another recipe on a resume": {
        "unit/test_loop_and_evaluate": ["a_resume_with_another_recipe_is_refused_and_says_in_what"]
    },
    "F25 another version or torch on a resume": {
        "unit/test_checkpoint": ["a_newer_format_is_named"],
        "unit/test_loop_and_evaluate": ["other_numerics_are_refused_unless_accepted_and_then_recorded"],
    },
    "F26 a damaged checkpoint": {
        "unit/test_checkpoint": ["every_flipped_byte_is_found_or_harmless", "every_truncation_is_found"],
        "unit/test_loop_and_evaluate": ["a_damaged_checkpoint_is_passed_over_and_the_person_who_looks_on_is_told"],
    },
    "F27 two runs in one folder": {
        "unit/test_crashes": [
            "a_second_run_in_the_folder_is_refused_and_told_who_writes_there",
            "of_two_keepers_at_once_exactly_one_survives",
        ]
    },
    "F28 other data on a resume": {
        "unit/test_loop_and_evaluate": ["a_resume_with_another_recipe_is_refused_and_says_in_what"]
    },
    "F29 something that is left behind": {
        "runtime/test_leaks": [
            "a_run_that_is_finished_leaves_its_results",
            "a_run_that_is_stopped_leaves_what_it_goes_on_from",
        ]
    },
    "F30 a task that kills its workers": {
        "unit/test_dealer": ["a_task_that_kills_its_workers_is_tried_alone_and_named"],
        "runtime/test_ray_drills": ["a_task_that_kills_every_worker_is_named"],
    },
    "F31 a flaky machine": {"unit/test_dealer": ["a_flaky_machine_gets_little_work_and_the_run_goes_on"]},
    "F32 no worker left": {"unit/test_dealer": ["with_no_worker_at_all_patience_ends_and_says_so_on_the_way"]},
}


@cache
def names(file: str) -> set[str]:
    tree = ast.parse((TESTS / f"{file}.py").read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", CATALOGUE)
def test_every_fault_is_done(fault: str) -> None:
    assert CATALOGUE[fault]
    for file, tests in CATALOGUE[fault].items():
        assert not {f"test_{test}" for test in tests} - names(file)


def test_no_number_is_left_out() -> None:
    assert [fault.split()[0] for fault in CATALOGUE] == [f"F{number}" for number in range(1, 33)]
