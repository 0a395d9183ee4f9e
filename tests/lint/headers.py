#!/usr/bin/env python3
"""Compiles every header alone, so that none leans on what others include before it.

    headers.py COMPILER FLAG...     run from the root of the tree; exits 1 if one does not compile
"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys


def compile_alone(command, header):
    run = subprocess.run([*command, "-fsyntax-only", "-x", "c++", "-"],
                         input=f'#include "{header}"\n', capture_output=True, text=True,
                         check=False)
    return header, run.returncode, run.stderr


def main():
    headers = sorted(path for folder in ("src", "sim", "tests")
                     for path in pathlib.Path(folder).rglob("*.h"))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for header, code, message in pool.map(lambda h: compile_alone(sys.argv[1:], h),
                                              headers):
            if code != 0:
                failed += 1
                print(f"{header} does not compile alone:\n{message}")
    print(f"{len(headers)} headers, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
