#!/usr/bin/env python3
"""plumeria-fsx (random calls on one file, compared with a model) on an embedded mount, on a served
one, and on two mounts of one store that take turns.

Environment, besides that of tests/e2e/harness.py: PLUMERIA_FSX (the program), PLUMERIA_SEED.
"""
import os
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # pylint: disable=wrong-import-position

FSX = os.environ.get("PLUMERIA_FSX", str(harness.TREE / "build/release/tests/fsx/plumeria-fsx"))
SECONDS = 300 if harness.LONG else 8


class Fsx(harness.Case):
    seconds = SECONDS + 120

    def exercise(self, *mounts):
        seed = os.environ.get("PLUMERIA_SEED", str(random.randrange(10**9)))
        try:
            done = subprocess.run(
                [FSX, *(mount / "file" for mount in mounts), "--seed", seed, "--seconds",
                 str(SECONDS)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS + 60,
                check=False)
        finally:
            print(f"PLUMERIA_SEED={seed}", flush=True)
        print(done.stdout, flush=True)
        self.assertEqual(done.returncode, 0, "exit code of plumeria-fsx")
        for mount in mounts:
            self.assertEqual(mount.status()["mount"]["files"]["lost"], 0)
            mount.umount()

    def test_embedded_mount(self):
        store = self.world.mkfs()
        self.exercise(self.world.mount(store, "m"))
        self.world.fsck(store)

    def test_served_mount(self):
        server = self.world.serve(self.world.mkfs())
        self.exercise(self.world.mount(server, "a"))
        server.stop()
        self.world.fsck(server.store)

    def test_two_mounts_that_take_turns(self):
        server, a, b = self.world.served_pair()
        self.exercise(a, b)
        server.stop()
        self.world.fsck(server.store)


if __name__ == "__main__":
    harness.main()
