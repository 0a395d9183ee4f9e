#!/usr/bin/env python3
"""The completion for bash knows every command and option of the program, and completes words.

    PLUMERIA=… completion_test.py
"""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
PLUMERIA = os.environ.get("PLUMERIA", str(TREE / "build/release/plumeria"))
# What readline would do, and print the candidates.
SCRIPT = """
compopt() { :; }
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_plumeria
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words, folder="/"):
    """The candidates for the last one of the words after `plumeria`."""
    done = subprocess.run(
        ["bash", "-u", "-c", SCRIPT, "bash", TREE / "share/plumeria.bash", "plumeria", *words],
        cwd=folder, check=True, capture_output=True, text=True, timeout=30)
    assert not done.stderr, done.stderr
    return sorted(done.stdout.split("\n")[:-1]) if done.stdout.strip() else []


def explained(*words):
    """Lines of the program's help that explain something."""
    done = subprocess.run([PLUMERIA, *words, "--help"], check=True, capture_output=True, text=True,
                          timeout=30)
    return re.findall(r"(?m)^  (\S.*)$", done.stdout.split("\n\n", 1)[1])


def commands():
    return [line.split()[0] for line in explained()
            if re.match(r"[a-z]+ {2,}[A-Z]", line)]


def options(*words):
    found = []
    for line in explained(*words):
        if line.startswith("-"):
            found += line.split()[0].split("=")[0].split(",")
    return sorted(found)


class Completion(unittest.TestCase):
    def test_every_command_is_known(self):
        self.assertIn("mount", commands())
        self.assertEqual(complete(""), sorted(commands() + options()))

    def test_every_option_is_known(self):
        self.assertIn("--cache-size", options("mount"))
        for command in commands():
            self.assertEqual(complete(command, "-"), options(command), command)
        for command in complete("snapshot", ""):
            self.assertEqual(complete("snapshot", command, "-"), options("snapshot", command),
                             command)

    def test_words(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("store", "other"):
                os.mkdir(f"{folder}/{name}")
            os.mkdir(f"{folder}/store/two words")
            pathlib.Path(folder, "state.log").touch()
            for words, expected in (
                    (("mk",), ["mkfs"]),
                    (("s",), ["serve", "snapshot", "status"]),
                    (("snapshot", ""), ["create", "delete", "list", "mount"]),
                    (("snapshot", "li"), ["list"]),
                    (("snapshot", "list", "st"), ["store"]),
                    (("lo",), ["lock", "locks", "logdump"]),
                    (("lock", "e"), ["exclusive"]),
                    (("lock", "shared", "st"), []),
                    (("lock", "shared", "n", "--", "plumeria-no-such"), []),
                    (("nothing",), []),
                    (("mount", "st"), ["store"]),
                    (("mount", "store/"), ["store/two words"]),
                    (("mount", "--ca"), ["--cache-size"]),
                    (("mount", "--log", "st"), ["state.log", "store"]),
                    (("mount", "--log", "=", "sta"), ["state.log"]),
                    (("mount", "--log", "="), ["other", "state.log", "store", "syslog"]),
                    (("mount", "-o", "nos"), ["nosuid"]),
                    (("mount", "-o", "ro,noe"), ["ro,noexec"]),
                    (("mount", "--nice", ""), []),
                    (("logdump", "--block", "in"), ["inode:"]),
                    (("serve", "--foreground", "st"), ["store"]),
                    (("version", ""), []),
                    (("umount", "/no"), [])):
                self.assertEqual(complete(*words, folder=folder), expected, words)


if __name__ == "__main__":
    unittest.main(verbosity=2)
