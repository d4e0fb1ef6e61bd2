"""Where a trial ran, and what of that is no longer so."""

from __future__ import annotations

from embsearch.track.environment import changes, cpu, environment, machine_changes

MACHINE = {
    "host": "a",
    "cpu": "Xeon (family 6)",
    "device": "cpu, AVX512",
    "threads": 1,
    "precision": "fp32",
}


def test_nothing_has_changed_since_just_now():
    assert changes(environment(), environment()) == []
    assert environment()["cpu"] == cpu() != ""


def test_every_package_that_changed_is_named_with_both_versions():
    then = environment()
    then["packages"] |= {"torch": "2.8.0", "apex": "0.1"}
    then |= {"python": "3.10.1", "git_commit": "0123456789abcdef"}
    now = environment() | {"git_commit": "fedcba9876543210"}
    assert changes(then, now) == [
        f"python 3.10.1 -> {now['python']}",
        f"torch 2.8.0 -> {now['packages']['torch']}",
        "apex 0.1 -> not installed",
        "embsearch's commit 0123456789 -> fedcba9876",
    ]


def test_what_an_older_record_does_not_hold_has_not_changed():
    assert changes({}, environment()) == []
    assert machine_changes({}, MACHINE) == []


def test_another_host_with_the_same_machine_is_no_change():
    assert machine_changes(MACHINE, MACHINE | {"host": "b"}) == []
    assert machine_changes(MACHINE, MACHINE | {"threads": 4, "precision": "bf16"}) == [
        "threads 1 -> 4",
        "precision fp32 -> bf16",
    ]
