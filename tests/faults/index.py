"""
The faults that people report of gateways before model servers, and where this one is seen not to have them.

    .venv/bin/python -m tests.faults.index       the table for the README

A fault has the tests that prove its claim, wherever they are. What cannot be tested here says why.
"""

from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent.parent


class Fault(NamedTuple):
    """
    One fault.

    `claim` is what the proxy does instead; `tests` are ids as pytest takes them, from the repository's root; `untested`
    is what of it no test here holds, and why.
    """

    claim: str
    tests: tuple[str, ...]
    untested: str = ""


def _in(path: str, *names: str) -> tuple[str, ...]:
    """Return the ids of tests of one module: `faults/test_x` is tests/faults/test_x.py."""
    return tuple(f"tests/{path}.py::test_{name}" for name in names)


FAULTS: Final[dict[str, Fault]] = {
    "F01": Fault(
        "When the client leaves, the model server's connection is closed at once, in every phase; it is logged as 499.",
        _in(
            "faults/test_f01_client_leaves",
            "the_upstream_is_left_when_the_client_leaves",
            "the_upstream_is_left_when_a_client_that_does_not_read_leaves",
            "a_client_that_leaves_while_it_sends_its_body_costs_the_upstream_nothing",
        ),
    ),
    "F02": Fault(
        "A pooled connection that the server has just closed is replaced once by a fresh one, and nothing else is.",
        _in(
            "faults/test_f02_stale_connection",
            "a_used_connection_that_dies_without_an_answer_is_replaced",
            "there_is_only_one_retry",
            "a_fresh_connection_that_dies_is_not_retried",
            "a_used_connection_that_dies_inside_an_answer_is_not_retried",
            "a_connection_that_was_seen_closing_is_not_used",
        ),
    ),
    "F03": Fault(
        "An answer that is cut at any byte is the whole one or an error; no finish reason is invented.",
        (
            *_in(
                "faults/test_f03_every_byte",
                "an_answer_that_is_cut_anywhere_is_whole_or_an_error",
                "where_another_replica_goes_on_the_answer_is_whole_wherever_the_first_one_is_cut",
            ),
            *_in(
                "faults/test_f03_cut_stream",
                "a_stream_that_was_cut_ends_in_an_error_event_and_done",
                "a_stream_that_was_cut_before_its_first_event_is_502",
                "a_whole_answer_that_was_cut_is_502",
            ),
            *_in("faults/test_failover", "the_client_gets_one_whole_answer"),
            *_in("clients/test_clients", "a_cut_answer_is_an_error"),
        ),
    ),
    "F04": Fault(
        "One place retries: two attempts at the most, within a budget, and only what did not run.",
        (
            *_in(
                "faults/test_f04_f05_f06_retries",
                "a_request_that_was_not_taken_goes_to_another_replica",
                "what_may_have_run_or_would_fail_again_is_never_sent_twice",
                "a_timeout_is_never_sent_twice",
                "two_attempts_are_the_most_however_many_replicas_there_are",
                "retries_end_with_the_budget",
            ),
            *_in("upstream/test_retry", "only_what_did_not_run_is_tried_again"),
        ),
    ),
    "F05": Fault(
        "A 4xx never ejects a replica, and the last one is never ejected to nothing.",
        _in(
            "faults/test_f04_f05_f06_retries",
            "4xx_never_eject",
            "the_last_replica_is_never_ejected_to_nothing",
            "when_all_are_ejected_the_least_bad_serves",
        ),
    ),
    "F06": Fault(
        "A replica that is gone is passed over at once, and names are looked up again while requests run.",
        (
            *_in(
                "faults/test_f04_f05_f06_retries",
                "a_refused_connection_goes_to_another_replica_and_ejects_at_once",
                "a_connection_that_does_not_come_about_goes_to_another_replica",
            ),
            *_in("upstream/test_health", "a_replica_that_refuses_the_connection_is_out_at_once"),
            *_in("upstream/test_pool", "every_address_of_a_name_is_a_replica_and_they_follow_the_name"),
        ),
        "The Kubernetes API is not watched: a headless Service's DNS names the pods that are ready.",
    ),
    "F07": Fault(
        "Beyond its bounds the proxy lets requests wait, then refuses them before their bodies are read.",
        (
            *_in(
                "faults/test_f07_load_shedding",
                "beyond_the_bound_a_request_waits_and_beyond_the_queue_it_is_503",
                "a_large_body_is_refused_before_it_is_read_and_the_client_can_read_why",
                "a_client_that_leaves_the_queue_frees_its_place_there",
            ),
            *_in("edge/test_admission", "in_any_order_nothing_leaks_and_no_bound_is_crossed"),
        ),
        "Thousands of streams at once are a load of `make bench`, not of a test.",
    ),
    "F08": Fault(
        "A large prompt is translated beside the loop while streams go on, and no event sets a timer.",
        _in(
            "faults/test_f08_large_prompts",
            "a_streams_events_pass_while_a_large_body_is_translated",
            "nothing_on_the_path_of_an_event_sets_a_timer",
        ),
        "Added milliseconds depend on the machine: `make bench` measures them.",
    ),
    "F09": Fault(
        "Each event is relayed before the next one exists, with headers that tell proxies not to collect.",
        (
            *_in("faults/test_f09_f10_relaying", "each_event_is_relayed_before_the_next_is_sent"),
            *_in("edge/test_relay", "a_streamed_answer"),
            *_in("upstream/test_client", "nagles_algorithm_is_off_on_both_sides"),
        ),
    ),
    "F10": Fault(
        "Wherever the bytes of a stream are cut, the client gets the same events.",
        (
            *_in(
                "faults/test_f09_f10_relaying",
                "a_stream_that_comes_byte_by_byte_is_the_same_stream",
                "an_http_chunk_may_end_anywhere",
            ),
            *_in(
                "wire/test_sse",
                "any_cut_gives_the_same_events",
                "every_form_of_an_event_is_read_whole_and_byte_by_byte",
            ),
            *_in("translate/test_stream_properties", "any_cut_of_the_bytes_gives_the_same_bytes"),
        ),
    ),
    "F11": Fault(
        "An event may have megabytes; one over the cap ends the stream with an error that names the cap.",
        (
            *_in(
                "faults/test_f11_large_events",
                "three_megabytes_in_one_event_arrive_whole",
                "a_larger_one_behind_others_ends_the_stream_and_names_the_cap",
            ),
            *_in("wire/test_sse", "an_endless_event_is_refused_before_it_is_stored"),
        ),
    ),
    "F12": Fault(
        "A silent stream is kept open by comments, between events only, and before the first token too.",
        _in(
            "faults/test_f12_keep_alive",
            "comments_come_while_the_upstream_has_not_answered_yet",
            "comments_stand_between_events_and_never_inside_one",
            "no_comment_comes_when_the_interval_is_zero",
        ),
    ),
    "F13": Fault(
        "Four timers, for all, for a model or by header; the 504 names the one that rang, and comments calm none.",
        (
            *_in(
                "faults/test_f13_timers",
                "the_timer_that_rings_is_named_whoever_set_it",
                "comments_to_the_client_calm_no_timer",
                "another_models_timer_is_not_this_ones",
            ),
            *_in("upstream/test_timers", "connect", "bytes_that_keep_coming_keep_a_stream_alive"),
            *_in(
                "edge/test_deadlines",
                "a_header_wins_over_the_model_and_the_model_over_the_configuration",
                "a_header_that_is_no_number_of_seconds_is_refused_by_name",
            ),
        ),
    ),
    "F14": Fault(
        "A body may have 32 MiB; one that is larger is a 413 that names the limit, before it is read.",
        (
            *_in(
                "faults/test_f14_large_bodies",
                "a_declared_length_over_the_limit_is_refused_before_a_byte_of_it_is_sent",
                "a_client_that_sends_it_all_the_same_still_gets_its_answer",
                "a_chunked_body_is_counted_and_refused_at_the_limit",
                "a_body_just_under_the_limit_arrives_whole",
            ),
            *_in("faults/test_f07_load_shedding", "bytes_of_bodies_are_counted_while_they_come_and_given_back"),
        ),
    ),
    "F15": Fault(
        "Nothing is left of a request that is over, and a stream holds little however long it is.",
        (
            *_in("soak/test_soak", "nothing_is_left_of_two_thousand_requests_of_which_some_clients_leave"),
            *_in(
                "faults/test_backpressure",
                "a_client_that_stops_reading_stops_the_upstream",
                "streams_that_nobody_reads_take_little_memory_and_are_whole_in_the_end",
            ),
            *_in("translate/test_transcript", "a_stream_costs_its_text_and_some_collected_events"),
        ),
    ),
    "F16": Fault(
        "Counters are back at zero after every kind of end, that of a worker or a replica too.",
        (
            *_in("chaos/test_chaos", "nothing_is_lost_doubled_or_cut_unseen_while_replicas_and_workers_die"),
            *_in("faults/test_f04_f05_f06_retries", "counters_are_back_at_zero_after_every_kind_of_end"),
            *_in("upstream/test_exchange", "clients_that_leave_do_not_use_up_the_pool"),
            *_in("process/test_workers", "a_killed_worker_is_replaced_and_the_other_workers_streams_go_on"),
            *_in("observe/test_replicas", "of_a_dead_worker_nothing_runs_and_what_it_counted_stays"),
            *_in("store/test_shared", "the_leases_of_a_killed_process_end"),
        ),
    ),
    "F17": Fault(
        "Token counts are always asked of the model server, and shown only to a client that asked.",
        (
            *_in("faults/test_f17_usage", "usage_is_asked_for_and_shown_only_to_who_asked"),
            *_in("translate/test_stream_rules", "usage_that_is_none_is_an_error"),
            *_in("translate/test_completion", "a_missing_total_is_filled"),
        ),
    ),
    "F18": Fault(
        "The arguments of a streamed call are whole JSON, or the stream says that they are not.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f18_f20_a_garbled_call_has_its_id_and_name_once_a_stable_index_and_whole_arguments",
            ),
            *_in("faults/test_swallowed_calls", "a_swallowed_answer_is_an_error_and_not_an_empty_answer"),
            *_in(
                "translate/test_stream_rules",
                "calls_that_share_an_index_are_told_apart_by_id_or_by_name_after_the_end",
                "an_announced_call_that_does_not_arrive_is_an_error",
                "arguments_cut_at_the_limit_are_never_completed",
            ),
            *_in("clients/test_clients", "half_a_call_is_an_error_and_does_not_run"),
        ),
    ),
    "F19": Fault(
        "A call that leaks as text is a call again, however it is cut; no more than a marker is held back.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f19_a_call_that_leaks_as_text_comes_as_a_call_however_it_is_cut",
            ),
            *_in(
                "translate/test_leaked",
                "a_marked_call_is_found",
                "what_is_no_call_is_returned_unchanged",
                "only_the_start_of_a_marker_is_held_back",
            ),
        ),
    ),
    "F20": Fault(
        "A streamed call has its id and name once and a stable index; in a whole answer it has no index.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f18_f20_a_garbled_call_has_its_id_and_name_once_a_stable_index_and_whole_arguments",
                "f20_a_call_in_a_whole_answer_has_no_index",
            ),
            *_in(
                "translate/test_stream_rules",
                "a_repeated_id_and_name_are_sent_once",
                "indices_are_made_contiguous",
                "fragments_of_two_calls_that_alternate_keep_their_places",
            ),
        ),
    ),
    "F21": Fault(
        "Roles come in an order that the template takes, and no tool result is lost; strict mode refuses instead.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f21_a_user_may_speak_after_a_result_and_no_result_is_lost",
                "f21_strict_mode_refuses_instead_and_names_the_rule",
            ),
            *_in(
                "translate/test_request_properties",
                "every_text_is_on_the_wire_once",
                "every_call_is_on_the_wire_with_one_result_behind_it",
            ),
            *_in("oracle/test_oracle", "no_random_history_is_rejected"),
        ),
    ),
    "F22": Fault(
        "Any id of a call has nine letters or digits on the wire: the same at every turn and in every process.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f22_an_id_is_nine_alphanumerics_on_the_wire_the_same_at_every_turn_and_in_every_proxy",
            ),
            *_in(
                "translate/test_request_rules",
                "an_id_has_one_wire_id_everywhere_and_forever",
                "ids_that_meet_on_the_wire_are_told_apart",
            ),
            *_in("wire/test_ids", "ten_thousand_texts_have_ten_thousand_digests"),
        ),
    ),
    "F23": Fault(
        "What the model server refuses is left out and named in a header; what it takes goes on as it came.",
        (
            *_in("faults/test_f18_f25_translation", "f23_a_field_that_vllm_refuses_is_left_out_and_named"),
            *_in("edge/test_relay", "the_rules_that_changed_a_request_are_named_in_a_header"),
            *_in("translate/test_request_refusals", "a_member_that_no_rule_reads_goes_on_as_it_came"),
            *_in("upstream/test_pool", "auto_leaves_out_the_rules_that_an_upstream_can_do_without"),
        ),
    ),
    "F24": Fault(
        "A turn of the assistant with neither text nor calls is not sent.",
        (
            *_in("faults/test_f18_f25_translation", "f24_an_assistant_turn_of_nothing_is_not_sent"),
            *_in("oracle/test_oracle", "a_shape_that_may_be_sent_is_accepted_everywhere"),
        ),
    ),
    "F25": Fault(
        "The model server's error keeps its status and its words; one about the prompt's length has OpenAI's code.",
        (
            *_in(
                "faults/test_f18_f25_translation",
                "f25_a_prompt_that_is_too_long_has_its_status_its_words_and_the_code_that_agents_act_on",
            ),
            *_in(
                "edge/test_relay",
                "an_upstreams_error_keeps_its_status",
                "an_error_event_before_anything_else_becomes_a_real_status",
            ),
            *_in("translate/test_failure", "every_shape_becomes_one"),
        ),
    ),
    "F26": Fault(
        "Every 503 of the proxy's own says when to come back, and a model server's Retry-After is passed on.",
        (
            *_in(
                "faults/test_f26_retry_after",
                "every_503_of_the_proxys_own_says_when_to_come_back",
                "what_the_model_server_says_about_it_is_passed_on_as_it_is",
                "what_is_no_time_is_not",
            ),
            *_in(
                "faults/test_f04_f05_f06_retries",
                "a_replica_that_asks_for_a_pause_gets_one_while_others_can_serve",
            ),
        ),
    ),
    "F27": Fault(
        "At SIGTERM readiness says no, streams are finished, and what runs too long is told so; the exit code is 0.",
        (
            *_in(
                "faults/test_f27_drain",
                "readiness_says_no_at_once_and_all_else_is_answered_while_the_delay_lasts",
                "a_kept_connection_is_told_to_go_elsewhere",
                "after_the_delay_idle_connections_are_closed_and_streams_are_finished",
                "what_runs_too_long_ends_in_an_error_event_and_the_exit_code_is_0",
            ),
            *_in("process/test_workers", "running_streams_of_all_workers_are_finished"),
        ),
    ),
    "F28": Fault(
        "Probes are answered while the model server hangs and every place is taken, from what is known.",
        _in(
            "faults/test_f28_probes",
            "probes_are_answered_while_the_model_server_hangs_and_every_place_is_taken",
            "probes_are_answered_while_the_look_at_the_model_server_hangs",
            "probes_ask_the_model_server_nothing_and_never_let_it_generate",
            "without_a_model_server_it_lives_and_is_not_ready",
            "one_model_server_of_two_is_enough",
        ),
        "How many milliseconds they take under load depends on the machine.",
    ),
    "F29": Fault(
        "New settings are taken while streams run; a bad file keeps the old ones and is counted.",
        _in(
            "faults/test_f29_reload",
            "new_settings_are_in_effect_in_every_worker",
            "a_running_stream_does_not_notice",
            "a_bad_file_keeps_the_old_settings_and_is_counted",
        ),
    ),
    "F30": Fault(
        "Numbers are summed over workers and outlive them; no text of a client makes a label.",
        (
            *_in("faults/test_f30_labels", "models_paths_users_and_errors_of_clients_make_no_labels"),
            *_in("process/test_summed_metrics", "numbers_are_summed_over_workers_and_outlive_them"),
            *_in(
                "observe/test_replicas",
                "the_numbers_of_a_replica_are_the_sums_over_workers",
                "however_many_come_and_go_the_labels_are_bounded",
                "the_bound_is_the_one_that_the_module_says",
            ),
            *_in("observe/test_models", "models_of_the_configuration_have_a_label_and_no_other_words_do"),
        ),
    ),
    "F31": Fault(
        "No key and no text of a conversation is in any log, whatever happens.",
        (
            *_in("faults/test_f31_f37_secrets", "no_secret_and_no_content_is_logged"),
            *_in(
                "security/test_canaries",
                "nothing_secret_is_in_any_output",
                "no_answer_holds_a_key_or_a_credential",
                "the_walk_went_everywhere",
                "every_error_was_raised_on_the_way",
            ),
            *_in(
                "observe/test_logs",
                "the_key_is_in_no_line_at_any_level",
                "the_text_of_an_exception_that_may_quote_content_is_withheld",
            ),
            *_in("faults/test_f29_reload", "a_key_is_taken_from_its_new_file_and_shown_nowhere"),
        ),
    ),
    "F32": Fault(
        "No field, header or target of a request chooses where it goes, and no redirect is followed.",
        (
            *_in(
                "faults/test_f32_where_it_goes",
                "nothing_in_a_request_chooses_where_it_goes",
                "no_redirect_of_a_model_server_is_followed",
            ),
            *_in(
                "security/test_where_it_goes",
                "no_header_chooses_where_a_request_goes",
                "no_field_chooses_where_a_request_goes",
                "nothing_that_a_request_points_at_is_fetched",
            ),
        ),
        "Attempts are not counted: such a field means nothing here, and is none.",
    ),
    "F33": Fault(
        "Only the methods and paths of a list are answered; no other reaches a model server.",
        (
            *_in(
                "edge/test_routes",
                "a_path_outside_the_allow_list_is_404_in_openais_shape_and_reaches_no_upstream",
                "a_wrong_method_is_405_with_allow",
            ),
            *_in(
                "process/test_metrics_listener",
                "it_answers_metrics_and_probes_and_nothing_else_and_the_main_port_no_metrics",
            ),
        ),
    ),
    "F34": Fault(
        "A replica's load is what runs there now, so that hot sessions do not pile up on one.",
        (
            *_in(
                "benchmarks/test_balance",
                "eight_hot_sessions_do_not_make_a_replica_busier_than_others",
                "the_published_figures_are_those_of_the_policies_as_they_are",
            ),
            *_in(
                "upstream/test_choice",
                "nobody_has_fewer_requests_for_its_weight_than_the_least_in_flight",
                "of_two_that_are_drawn_the_busiest_is_never_chosen",
            ),
        ),
    ),
    "F35": Fault(
        "Affinity ends at a bound: a request leaves a replica that has too much, and the session comes back.",
        (
            *_in(
                "upstream/test_choice",
                "nobody_above_the_bound_is_chosen",
                "nobody_above_the_bound_is_chosen_for_having_run_the_turn_before",
                "a_request_leaves_a_replica_that_has_too_much_and_comes_back",
            ),
            *_in("benchmarks/test_balance", "prefix_finds_twice_as_much_in_the_cache"),
        ),
    ),
    "F36": Fault(
        "The process tells how late its loop runs, so that a step that holds up everybody is seen.",
        (
            *_in("faults/test_f36_loop_lag", "a_serving_process_tells_how_late_its_loop_runs"),
            *_in("observe/test_metrics", "a_loop_that_was_held_up_is_seen_as_late"),
            *_in("benchmarks/test_load", "a_lag_run_has_a_row_alone_and_one_beside_large_requests"),
        ),
        "The lag under load depends on the machine: `make bench` measures it.",
    ),
    "F37": Fault(
        "A replica gets its own key from the configuration, and no credential or other header of a client.",
        (
            *_in("faults/test_f31_f37_secrets", "no_header_of_a_client_reaches_the_upstream"),
            *_in("upstream/test_pool", "each_replica_gets_its_own_key_and_profile"),
            *_in("upstream/test_client", "the_headers_are_the_proxys_own"),
        ),
    ),
    "F38": Fault(
        "One id, the client's own if it is plain, names a request in the answer, the log and the model server's log.",
        (
            *_in(
                "edge/test_request_id",
                "a_plain_id_is_kept_on_every_side",
                "any_other_id_is_replaced_on_every_side",
                "errors_carry_the_id_too",
            ),
            *_in("upstream/test_client", "a_valid_trace_context_is_passed_on"),
        ),
    ),
    "F39": Fault(
        "Odd or malicious JSON is translated or a 400 in OpenAI's shape, and never a 500.",
        (
            *_in(
                "edge/test_bad_input",
                "a_bad_body_is_400_in_openais_shape_and_goes_nowhere",
                "odd_json_is_either_translated_or_refused_and_never_a_500",
                "broken_chunks_are_a_400_and_the_end_of_the_connection",
            ),
            *_in(
                "edge/test_bad_http",
                "bytes_that_are_not_http_get_a_400_in_openais_shape_and_the_connection_ends",
            ),
            *_in("translate/test_request_rules", "any_json_gives_a_request_or_an_invalid_request"),
        ),
    ),
    "F40": Fault(
        "Everything is installed from locks with hashes, few packages serve, importing talks to nobody, and there is a"
        " bill of materials.",
        (
            *_in(
                "faults/test_f40_supply_chain",
                "every_locked_package_has_one_version_and_hashes",
                "every_locked_package_of_npm_has_a_hash",
                "few_packages_run_in_the_process_that_serves",
                "importing_reaches_nobody",
            ),
            *_in("test_packaging", "the_wheel_holds_the_package_its_licence_and_nothing_else"),
            *_in("deploy/test_image", "the_bill_of_materials_lists_what_is_locked"),
        ),
    ),
}


def as_markdown() -> str:
    """Return the faults as a table: number, claim, the files that hold its tests, and what is not tested."""
    lines = ["| Fault | What the proxy does | Seen in |", "|---|---|---|"]
    for number, fault in FAULTS.items():
        paths = dict.fromkeys(test.partition("::")[0] for test in fault.tests)
        seen = ", ".join(f"[{Path(path).stem}]({path})" for path in paths)
        lines.append(f"| {number} | {fault.claim}{f' Not tested: {fault.untested}' * bool(fault.untested)} | {seen} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
