#!/usr/bin/env python3
"""Has SPIN search a model of the protocol (docs/protocol.md, "The model"), and find its faults.

    check.py MODEL [--only NAME] [--trail]     MODEL: locks, lease, view

Each model is searched wholly, without and with a fault planted in it: without one nothing may be
found, with one something must be. Prints for each search what it found, how many states there
are, and the memory and processor time that it took. PLUMERIA_LONG=1: with wider bounds as well.
--trail shows the steps that lead to what was found. Exits 1 if a search did not end as it should.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile

MEMORY_MB = 1900


@dataclasses.dataclass
class Search:
    name: str                 # of the fault, if there is one
    defines: str              # for the model
    found: str = ""           # what SPIN must find: a regular expression; empty: nothing
    progress: bool = False    # under weak fairness, instead of safety
    long: bool = False        # only with PLUMERIA_LONG
    optimize: str = ""        # of the compiler, where its default does not pay


def faults(base, table, optimize=""):
    return [Search(name, f"{base} -DFAULT_{name.upper()}", found, "FAIR" in base, False, optimize)
            for name, found in table]


CONFLICT, STALE, STUCK = "held", "fresh", "acceptance cycle|invalid end state"
MODELS = {
    "locks": [
        Search("2 clerks, 3 and 2 operations", "-DOPS=3 -DOPS_OF_OTHERS=2"),
        Search("3 clerks, 1 operation each", "-DCLERKS=3 -DOPS=1"),
        Search("2 clerks, 1 operation each, fair", "-DFAIR -DOPS=1", progress=True),
        Search("2 clerks, 2 operations each, patient", "-DPATIENT -DOPS=2"),
        Search("2 clerks, 3 operations each", "-DOPS=3", long=True, optimize="-O2"),
        Search("3 clerks, 2 operations each", "-DCLERKS=3 -DOPS=2", long=True),
        *faults("-DOPS=2", [
            ("no_sequence_numbers", CONFLICT),
            ("in_transition_ignored", CONFLICT),
            ("release_of_any_number", CONFLICT),
            ("grant_of_any_number", CONFLICT),
            ("release_before_flush", CONFLICT),
            ("cache_kept", STALE),
        ]),
        *faults("-DFAIR -DOPS=1", [
            ("request_not_repeated", STUCK),
            ("revoke_not_repeated", STUCK),
        ]),
        *faults("-DPATIENT -DOPS=2", [
            ("upgrade_in_place", f"{CONFLICT}|{STUCK}"),
            ("unknown_number_not_answered", STUCK),
        ]),
    ],
    "lease": [
        Search("2 clerks, 2 changes each, 3 ticks", "-DMODS=2 -DTERM=3"),
        Search("2 clerks, 1 change each, clocks at will", "-DMODS=1 -DCLOCKS_AT_WILL"),
        Search("2 clerks, 1 change each, fair", "-DMODS=1 -DFAIR", progress=True),
        *faults("-DMODS=1", [
            ("renewal_counted_from_reply", "holds"),
            ("renewal_answered_after_expiry", "holds"),
            ("ended_before_it_ran_out", "holds"),
            ("time_not_looked_at", "holds"),
            ("no_fence", "holder|disk"),
            ("fence_does_not_wait", "holder|disk"),
            ("replay_before_fence", "acknowledged"),
            ("grant_before_replay", "acknowledged"),
            ("release_before_flush", "holder|acknowledged"),
        ]),
        *faults("-DMODS=2", [
            ("replay_without_versions", "acknowledged"),
        ]),
        *faults("-DMODS=1 -DFAIR", [
            ("no_revoke_deadline", STUCK),
            ("locks_stay_frozen", STUCK),
        ]),
    ],
    "view": [
        Search("2 clerks, 2 servers, 2 epochs, 1 crash", ""),
        Search("2 clerks, 2 servers, 3 epochs, 1 crash", "-DEPOCHS=3 -DVIEW_TERM=1", long=True),
        *faults("-DCRASHES_MAX=0", [
            ("old_view_accepted", "holds|changed"),
            ("server_without_lease", "holds"),
        ], "-O1"),
        *faults("-DCRASHES_MAX=0 -DVIEW_TERM=1", [
            ("grants_during_rebuild", "holds|holder"),
            ("leases_not_waited_for", "holds"),
            ("expired_counts_as_known", "changed"),
        ]),
        *faults("-DVIEW_TERM=1", [
            ("view_written_blindly", "holds|holder"),
        ]),
        Search("gainer_does_not_wait", "-DCRASHES_MAX=0 -DFAULT_GAINER_DOES_NOT_WAIT", "holds",
               long=True),
    ],
}


def run(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def cpu_seconds():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def number(pattern, text):
    found = re.search(pattern, text)
    return float(found.group(1)) if found else 0.0


def search(model, one, folder, trail):
    """Returns (what was found, or None if the search is not whole; figures)."""
    source = f"{model}.pml"
    shutil.copy(pathlib.Path(__file__).with_name(source), folder)
    spin = ["spin", *one.defines.split()]
    made = run([*spin, "-a", source], folder)
    # What is found soon is not worth optimizing for.
    optimize = one.optimize or ("-O0" if one.found else "-O1")
    kind = ["-DNFAIR=5", "-DCOLLAPSE"] if one.progress else ["-DSAFETY", "-DNOCLAIM", "-DNOREDUCE"]
    built = run(["gcc", "-w", optimize, f"-DMEMLIM={MEMORY_MB}", *kind, "-o", "pan",
                 "pan.c"], folder)
    if made.returncode or built.returncode:
        return None, made.stdout + made.stderr + built.stderr
    out = run(["./pan", "-n", "-m2000000", *(["-a", "-f"] if one.progress else [])], folder).stdout
    figures = (number(r"([\d.e+]+) states, stored", out), number(r"([\d.e+]+) transitions", out),
               number(r"([\d.e+]+)\s+total actual memory", out))
    errors = re.search(r"errors: (\d+)", out)
    if not errors or ("Search not completed" in out and errors.group(1) == "0") \
            or "max search depth too small" in out or "Reached" in out:
        return None, out
    found = re.search(r"^pan:\d+: (.*?)(?: \(at depth|$)", out, re.M)
    if trail and found:
        print(run([*spin, "-t", "-p", "-g", source], folder).stdout)
    return found.group(1) if found else "", figures


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--trail", action="store_true")
    arguments = parser.parse_args()
    failed = 0
    print(f"{arguments.model + '.pml':44}{'states':>12}{'transitions':>13}{'MB':>6}{'CPU s':>7}",
          " found")
    for one in MODELS[arguments.model]:
        if one.long and not os.environ.get("PLUMERIA_LONG") and not arguments.only:
            continue
        if arguments.only not in one.name:
            continue
        began = cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            found, figures = search(arguments.model, one, folder, arguments.trail)
        took = cpu_seconds() - began
        if found is None:
            print(f"{one.name}: no search\n{figures}")
            failed += 1
            continue
        right = bool(re.search(one.found, found)) if one.found else not found
        failed += not right
        print(f"{one.name:44}{figures[0]:12,.0f}{figures[1]:13,.0f}{figures[2]:6.0f}{took:7.1f}  "
              f"{found or 'nothing'}{'' if right else '  <- WRONG'}", flush=True)
    print(f"{failed} searches ended wrongly" if failed else "every search ended as it should",
          f"({cpu_seconds():.0f} CPU s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
