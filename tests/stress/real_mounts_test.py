#!/usr/bin/env python3
"""plumeria-coherence-stress over two real mounts of one served store: no stale byte, no stall,
nothing left asleep in the kernel, and the store is whole afterwards.

Environment, besides that of tests/e2e/harness.py: PLUMERIA_COHERENCE_STRESS (the program),
PLUMERIA_STRESS_SECONDS, PLUMERIA_SEED.
"""
import os
import pathlib
import random
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # pylint: disable=wrong-import-position

STRESS = os.environ.get("PLUMERIA_COHERENCE_STRESS", str(
    harness.TREE / "build/release/tests/stress/plumeria-coherence-stress"))
SECONDS = int(os.environ.get("PLUMERIA_STRESS_SECONDS", 30))


def asleep(session, daemons):
    """The threads that sleep in the kernel, of a session and of some processes."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                line = pathlib.Path(f"/proc/{pid}/task/{thread}/stat").read_text(encoding="utf-8")
                state, _, _, its_session = line.rpartition(")")[2].split()[:4]
                if state == "D" and (int(its_session) == session or int(pid) in daemons):
                    found.append(line[:60])
        except OSError:
            pass  # It has ended.
    return found


class RealMounts(harness.Case):
    seconds = SECONDS + 200

    def test_nothing_is_stale_and_nothing_stalls(self):
        server, a, b = self.world.served_pair()
        seed = int(os.environ.get("PLUMERIA_SEED", random.randrange(10**6)))
        print(f"PLUMERIA_SEED={seed}", flush=True)
        output = self.world.folder / "stress.log"
        with open(output, "wb") as log:
            stress = subprocess.Popen(
                [STRESS, a.path, b.path, "--seconds", str(SECONDS), "--seed", str(seed)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            code = stress.wait(SECONDS + 60)
        except subprocess.TimeoutExpired:
            code = "none: it did not end"
        finally:
            if stress.poll() is None or stress.returncode != 0:
                a.abort()
                b.abort()
            try:
                os.killpg(stress.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            stress.wait(20)
            print(output.read_text(errors="replace"), flush=True)
        self.assertEqual(code, 0, "exit code of the stress")
        daemons = {process.popen.pid for process in (server, a, b)}
        harness.wait_until(lambda: not asleep(stress.pid, daemons), 5,
                           f"nothing sleeps in the kernel: {asleep(stress.pid, daemons)}")
        for mount in (a, b):
            self.assertEqual(mount.status()["mount"]["rejoins"], 0)
            mount.umount()
        server.stop()
        print(self.world.fsck(server.store).stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    harness.main()
