#!/usr/bin/env python3
"""Many entries in one directory, and many files that come and go: what each costs, and that neither
the store nor the daemon grows.

With PLUMERIA_LONG=1 ten million entries and a million files, else some ten thousand;
PLUMERIA_ENTRIES and PLUMERIA_FILES say other numbers.
"""
import os
import pathlib
import random
import subprocess
import time

import harness

FEW = 10_000 if harness.LONG else 2000
ENTRIES = int(os.environ.get("PLUMERIA_ENTRIES", 10_000_000 if harness.LONG else 20_000))
FILES = int(os.environ.get("PLUMERIA_FILES", 1_000_000 if harness.LONG else 30_000))
LOOKUPS = 5000
CACHE = 256  # MiB, the default
# MiB. Locks that are kept, and inodes that the kernel knows, take some 600 bytes a file in an
# embedded mount, which has the lock server in it.
MEMORY_MAX = CACHE + 50 + FILES * 700 // 1_000_000
# An operation in the large directory may cost so many times one in the small, which is in memory
# after some hundred; a scan would cost a thousand times.
WORSE_MAX = 50


def resident(process):
    """MiB."""
    text = pathlib.Path(f"/proc/{process.popen.pid}/status").read_text(encoding="utf-8")
    kibibytes, = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(kibibytes) >> 10


def spread(count, work):
    """work(i) for each i < count, by two processes; the seconds that it took."""
    start = time.monotonic()
    harness.together(lambda side: [work(i) for i in range(side, count, 2)], seconds=7200)
    return time.monotonic() - start


def used_by(store):
    """Bytes of the host's disk."""
    done = subprocess.run(["du", "-s", "--block-size=1", store], check=True, text=True,
                          stdout=subprocess.PIPE)
    return int(done.stdout.split()[0])


class Scale(harness.Case):
    seconds = 14400 if harness.LONG else 300

    def entries(self, store, folder, count):
        """Makes a directory of hard links to some files, and looks at it. {what: microseconds}"""
        mount = self.world.mount(store, "m")
        targets = [mount / f"target{i}" for i in range(100)]
        for target in targets:
            target.touch()
        whole = mount / folder
        whole.mkdir()
        costs = {}
        taken = spread(count, lambda i: os.link(targets[i % 100], whole / f"name-{i}"))
        costs["create"] = taken / count
        mount.umount()
        mount = self.world.mount(store, "m")  # with nothing in any cache
        whole = mount / folder
        start = time.monotonic()
        with os.scandir(whole) as listed:
            found = sum(1 for _ in listed)
        costs["list"] = (time.monotonic() - start) / count
        self.assertEqual(found, count)
        chance = random.Random(1)
        names = [whole / f"name-{chance.randrange(count)}" for _ in range(LOOKUPS)]
        mount.umount()
        mount = self.world.mount(store, "m")
        start = time.monotonic()
        for name in names:
            os.stat(name)
        costs["look up"] = (time.monotonic() - start) / LOOKUPS
        self.assertFalse((whole / "name-none").exists())
        start = time.monotonic()
        for name in set(names):
            os.unlink(name)
        costs["unlink"] = (time.monotonic() - start) / len(set(names))
        with os.scandir(whole) as listed:
            self.assertEqual(sum(1 for _ in listed), count - len(set(names)))
        print(f"{count} entries: " + ", ".join(f"{what} {cost * 1e6:.1f} us"
                                               for what, cost in costs.items()) +
              f"; {resident(mount)} MiB resident", flush=True)
        mount.umount()
        return costs

    def test_entries_of_one_directory(self):
        store = self.world.mkfs()
        few = self.entries(store, "few", FEW)
        many = self.entries(store, "many", ENTRIES)
        for what, cost in many.items():
            self.assertLess(cost, WORSE_MAX * few[what] + 20e-6, what)
        self.world.fsck(store)

    def test_files_that_come_and_go_leave_nothing(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        rounds = []
        for number in range(2):
            folders = [mount / f"round{number}-{i}" for i in range(100)]
            for folder in folders:
                folder.mkdir()
            made = spread(FILES, lambda i: os.mknod(folders[i % 100] / f"file-{i}"))
            memory = resident(mount)
            gone = spread(FILES, lambda i: os.unlink(folders[i % 100] / f"file-{i}"))
            for folder in folders:
                folder.rmdir()
            os.sync()
            whole = os.open(mount.path, os.O_RDONLY)
            os.fsync(whole)
            os.close(whole)
            status = os.statvfs(mount.path)
            rounds.append((used_by(store), status.f_ffree, status.f_bfree, resident(mount)))
            print(f"round {number}: {FILES} files made in {made:.1f} s, removed in {gone:.1f} s, "
                  f"{memory} MiB resident with them, {rounds[-1][3]} without; the store has "
                  f"{rounds[-1][0] >> 20} MiB", flush=True)
            self.assertLess(memory, MEMORY_MAX)
        # What the first round has taken, the second one takes again.
        self.assertLess(rounds[1][0], rounds[0][0] + (16 << 20) + rounds[0][0] // 10)
        self.assertLess(rounds[1][3], rounds[0][3] + 30)
        mount.umount()
        self.world.fsck(store)


if __name__ == "__main__":
    harness.main()
