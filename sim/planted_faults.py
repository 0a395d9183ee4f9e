#!/usr/bin/env python3
"""Proves that the simulator catches planted faults: runs seeds with each fault until one fails.

    planted_faults.py PLUMERIA_SIM [FAULT...]

PLUMERIA_SIM is built with -DPLUMERIA_PLANTED_FAULTS=ON. For each fault: the workloads and troubles
that bring it out, and how many seeds it may take at most. A seed counts only if the same run
without the fault is right. Exit code 1 if any fault is not caught.
"""
import subprocess
import sys

# fault: (workload, trouble, more arguments, seeds at most)
PLANTED = {
    "no_fence": [("files", "pause", [], 60), ("files", "partition", [], 60)],
    "release_before_flush": [("files", "crash", [], 30)],
    "trim_before_flush": [("names", "power", ["--embedded"], 400)],
    "replay_without_version_check": [("names", "crash", [], 30)],
    "delta_without_image": [("names", "power", ["--embedded"], 200)],
    "gainer_grants_early": [("files", "all", [], 100), ("files", "restart", [], 100)],
    "in_transition_ignored": [("files", "none", [], 30)],
    "kernel_invalidation_left_out": [("files", "none", [], 30)],
    "stale_end_ignored": [("files", "none", [], 30)],
    "renewal_counted_from_reply": [("files", "partition", [], 100)],
}


def fails(program, seed, workload, trouble, more, plant):
    command = [program, "--seed", str(seed), "--workload", workload, "--fault", trouble, *more]
    if plant:
        command += ["--plant", plant]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def caught(program, fault):
    for workload, trouble, more, seeds in PLANTED[fault]:
        for seed in range(1, seeds + 1):
            if not fails(program, seed, workload, trouble, more, fault):
                continue
            if fails(program, seed, workload, trouble, more, None):
                print(f"{fault}: seed {seed} of {workload} under {trouble} is wrong without it too")
                continue
            print(f"{fault}: caught by seed {seed} of {workload} under {trouble}")
            return True
    print(f"{fault}: NOT caught")
    return False


def main():
    program, faults = sys.argv[1], sys.argv[2:] or sorted(PLANTED)
    results = [caught(program, fault) for fault in faults]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
