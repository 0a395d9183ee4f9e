#!/usr/bin/env python3
"""A test program that is ended early leaves nothing: no process, no mount, no folder."""
import os
import pathlib
import signal
import subprocess
import sys
import unittest

import harness


def folder_of(test):
    """Where this test program works: its janitor has been told."""
    for name in os.listdir("/proc"):
        try:
            words = pathlib.Path(f"/proc/{name}/cmdline").read_text(encoding="utf-8").split("\0")
        except OSError:
            continue
        if "--janitor" in words and str(test) in words:
            return words[words.index("--janitor") + 1]
    return None


class EndedEarly(unittest.TestCase):
    def test_nothing_is_left(self):
        program = pathlib.Path(__file__).with_name("crash_test.py")
        for number in (signal.SIGKILL, signal.SIGTERM):
            test = subprocess.Popen([sys.executable, program, "Crash.test_kill_the_server"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            folder, _ = harness.wait_until(lambda: folder_of(test.pid), 60, "a test that runs")
            harness.wait_until(lambda: len(harness.mounts_below(folder)) == 2, 60, "two mounts")
            test.send_signal(number)
            test.wait(20)
            harness.wait_until(lambda: not os.path.exists(folder) and
                               not harness.mounts_below(folder) and
                               not harness.processes_of(folder), 30, f"nothing is left in {folder}")


if __name__ == "__main__":
    harness.main()
