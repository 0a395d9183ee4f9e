#!/usr/bin/env python3
"""Proves that the simulator catches planted faults: runs some seeds with each fault.

    planted_faults.py PLUMERIA_SIM [FAULT...]

PLUMERIA_SIM is built with -DPLUMERIA_PLANTED_FAULTS=ON. For each fault: which runs it is to be seen
in, how many seeds of them are run, and how many must find it. A seed that finds it counts only if
the same run without the fault is right. Exit code 1 if a fault is found by too few.
"""
import subprocess
import sys

# fault: (what is run, seeds, how many must find it at least)
PLANTED = {
    "no_fence": (["--workload", "files", "--fault", "pause"], 12, 3),
    "release_before_flush": (["--workload", "files", "--fault", "crash"], 8, 3),
    "trim_before_flush": (["--workload", "names", "--fault", "power"], 12, 3),
    "replay_without_version_check": (["--workload", "names", "--fault", "crash"], 8, 3),
    "delta_without_image": (["--workload", "names", "--fault", "power", "--trim-above", "2"],
                            8, 3),
    "gainer_grants_early": (["--workload", "files", "--fault", "restart"], 8, 3),
    "in_transition_ignored": (["--workload", "files", "--fault", "none"], 5, 3),
    "kernel_invalidation_left_out": (["--workload", "files", "--fault", "none"], 5, 3),
    "stale_end_ignored": (["--workload", "files", "--fault", "none"], 5, 3),
    "renewal_counted_from_reply": (["--workload", "files", "--fault", "held_answer"], 12, 3),
}
PATIENCE = 120  # seconds for one seed


def fails(program, seed, arguments):
    command = [program, "--quiet", "--seed", str(seed), *arguments]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def found_often_enough(program, fault):
    arguments, seeds, needed = PLANTED[fault]
    found = [seed for seed in range(1, seeds + 1)
             if fails(program, seed, [*arguments, "--plant", fault])]
    wrong = [seed for seed in found[:needed] if fails(program, seed, arguments)]
    print(f"{fault}: found by {len(found)} of {seeds} seeds {found} of {' '.join(arguments)}")
    if wrong:
        print(f"{fault}: but the seeds {wrong} fail without it too")
    return len(found) >= needed and not wrong


def main():
    program, faults = sys.argv[1], sys.argv[2:] or sorted(PLANTED)
    results = [found_often_enough(program, fault) for fault in faults]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
