#!/usr/bin/env python3
"""Mounts and servers that die, stop or come back: what was fsynced is there, the others go on."""
import multiprocessing
import os
import signal
import subprocess
import time

import harness
from tools_test import SOURCE_TREE

LEASE = 2.0  # seconds
# What the others may wait: until the lease has run out at the lock server (which allows for clocks
# of different speed), plus the replay, plus how busy this machine is.
PATIENCE = LEASE + 6
fork = multiprocessing.get_context("fork")


class FsyncLoad:
    """A process that creates files and fsyncs each, and keeps count outside of what is tested."""

    def __init__(self, folder, size=4096):
        self.folder, self.size = folder, size
        self.done = fork.RawValue("q", 0)
        self.longest = fork.RawValue("d", 0)
        self.error = fork.RawValue("i", 0)
        self.process = fork.Process(target=self.work, daemon=True)
        self.process.start()

    @staticmethod
    def content(i, size):
        return (b"%08d" % i) * (size // 8)

    def work(self):
        try:
            os.makedirs(self.folder, exist_ok=True)
            while True:
                start = time.monotonic()
                i = self.done.value
                fd = os.open(self.folder / f"f{i:06d}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
                os.write(fd, self.content(i, self.size))
                os.fsync(fd)
                os.close(fd)
                self.done.value = i + 1
                self.longest.value = max(self.longest.value, time.monotonic() - start)
        except OSError as error:
            self.error.value = error.errno

    def stop(self):
        self.process.kill()
        self.process.join(20)

    def check(self, folder):
        """Every file whose fsync returned is whole."""
        for i in range(self.done.value):
            data = (folder / f"f{i:06d}").read_bytes()
            assert data == self.content(i, self.size), f"f{i:06d}: {len(data)} bytes, or wrong ones"
        return self.done.value


def read_all(folder):
    """Reads every byte of a tree; the number of files."""
    files = 0
    for path, _, names in os.walk(folder, onerror=lambda error: (_ for _ in ()).throw(error)):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                file.read()
            files += 1
    return files


class Crash(harness.Case):
    seconds = 180

    def pair(self):
        self.server, self.a, self.b = self.world.served_pair(lease=LEASE)

    def finish(self, *mounts):
        """All ends well, and the store is whole."""
        for mount in mounts:
            mount.umount()
        self.server.stop()
        print(self.world.fsck(self.server.store).stdout.strip().splitlines()[-1])

    def go_on(self, mount, what):
        """The survivor can work with everything of the dead one, in time."""
        start = time.monotonic()
        os.listdir(mount.path)
        (mount / "after").write_text("alive")
        os.rename(mount / "after", mount / "after2")
        took = time.monotonic() - start
        print(f"{what}: the other mount waited {took:.2f} s")
        self.assertLess(took, PATIENCE)

    def test_kill_a_mount_in_an_untar(self):
        self.pair()
        archive = self.world.folder / "tree.tar"
        harness.run("tar", "cf", archive, "-C", SOURCE_TREE.parent, SOURCE_TREE.name)
        (self.b / "of-b").write_text("b")
        untar = subprocess.Popen(["tar", "xf", archive, "-C", self.a.path],
                                 stderr=subprocess.DEVNULL)
        self.eventually(lambda: (self.a / SOURCE_TREE.name / "base").exists(), 20, "tar has begun")
        time.sleep(0.3)
        self.a.kill()
        self.go_on(self.b, "untar")
        untar.wait(20)
        self.a.detach()
        print(f"{read_all(self.b.path)} files of the untar are there")
        status = self.server.status()["server"]
        self.assertEqual(status["expired"], 1)
        self.assertEqual(status["recovered"], 1)
        self.assertEqual((self.b / "of-b").read_text(), "b")
        self.finish(self.b)

    def test_kill_a_mount_under_fsyncs(self):
        self.pair()
        load, other = FsyncLoad(self.a / "la"), FsyncLoad(self.b / "lb")
        self.eventually(lambda: load.done.value > 100 and other.done.value > 100, 60, "both write")
        self.a.kill()
        self.go_on(self.b, "fsync load")
        load.stop()
        before = other.done.value
        self.eventually(lambda: other.done.value > before + 20, PATIENCE, "the other load goes on")
        other.stop()
        self.assertEqual(other.error.value, 0)
        self.a.detach()
        print(f"{load.check(self.b / 'la')} fsynced files of the dead mount are there")
        other.check(self.b / "lb")
        a = self.world.mount(self.server, "a2")
        load.check(a / "la")
        self.finish(self.b, a)

    def test_kill_the_embedded_mount(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        load = FsyncLoad(mount / "l")
        self.eventually(lambda: load.done.value > 200, 60, "the load writes")
        mount.kill()
        load.stop()
        mount.detach()
        start = time.monotonic()
        mount = self.world.mount(store, "m2")
        print(f"usable again after {time.monotonic() - start:.2f} s")
        print(f"{load.check(mount / 'l')} fsynced files are there")
        read_all(mount.path)
        mount.umount()
        self.world.fsck(store)

    def restart_server(self, pause=0.0):
        time.sleep(pause)
        self.server = self.world.serve(self.server.store, lease=LEASE, port=self.server.port)

    def loads_go_on(self, *loads):
        before = [load.done.value for load in loads]
        for load, done in zip(loads, before):
            self.eventually(lambda l=load, d=done: l.done.value > d + 20, 30, "the load goes on")
        for load in loads:
            load.stop()
            self.assertEqual(load.error.value, 0)
            print(f"longest pause {load.longest.value:.2f} s")

    def nothing_lost(self, loads):
        for load, path in loads:
            load.check(path)
        for mount in (self.a, self.b):
            status = mount.status()["mount"]
            self.assertEqual((status["rejoins"], status["files"]["lost"]), (0, 0))
        self.assertEqual(self.server.status()["server"]["expired"], 0)

    def test_kill_the_server(self):
        self.pair()
        (self.a / "dirty").write_text("not fsynced, and not lost")
        loads = [FsyncLoad(self.a / "la"), FsyncLoad(self.b / "lb")]
        self.eventually(lambda: min(l.done.value for l in loads) > 50, 60, "both write")
        self.server.kill()
        self.restart_server()
        self.assertFalse(self.server.status()["server"]["was_clean"])
        self.loads_go_on(*loads)
        self.nothing_lost([(loads[0], self.b / "la"), (loads[1], self.a / "lb")])
        self.assertEqual((self.b / "dirty").read_text(), "not fsynced, and not lost")
        self.finish(self.a, self.b)

    def test_stop_the_server_for_longer_than_a_lease(self):
        self.pair()
        loads = [FsyncLoad(self.a / "la"), FsyncLoad(self.b / "lb")]
        self.eventually(lambda: min(l.done.value for l in loads) > 50, 60, "both write")
        (self.a / "dirty").write_text("not fsynced, and not lost")
        self.server.stop()
        self.restart_server(pause=2 * LEASE)
        self.assertTrue(self.server.status()["server"]["was_clean"])
        self.loads_go_on(*loads)
        self.nothing_lost([(loads[0], self.b / "la"), (loads[1], self.a / "lb")])
        self.assertEqual((self.b / "dirty").read_text(), "not fsynced, and not lost")
        self.finish(self.a, self.b)

    def test_freeze_the_server_for_longer_than_a_lease(self):
        self.pair()
        loads = [FsyncLoad(self.a / "la"), FsyncLoad(self.b / "lb")]
        self.eventually(lambda: min(l.done.value for l in loads) > 50, 60, "both write")
        (self.a / "dirty").write_text("not fsynced, and not lost")
        self.server.signal(signal.SIGSTOP)
        time.sleep(3 * LEASE)
        self.server.signal(signal.SIGCONT)
        self.loads_go_on(*loads)
        self.nothing_lost([(loads[0], self.b / "la"), (loads[1], self.a / "lb")])
        self.assertEqual((self.b / "dirty").read_text(), "not fsynced, and not lost")
        self.finish(self.a, self.b)

    def test_a_mount_frozen_past_its_lease_writes_nothing_afterwards(self):
        self.pair()
        (self.a / "f").write_bytes(b"o" * 200_000)
        (self.a / "clean").write_text("clean")
        fd = os.open(self.a / "f", os.O_RDWR)
        os.fsync(fd)
        clean = os.open(self.a / "clean", os.O_RDONLY)
        os.fsync(clean)
        os.close(clean)
        os.pwrite(fd, b"d" * 100_000, 0)  # dirty in the memory of a
        load = FsyncLoad(self.a / "la")
        self.eventually(lambda: load.done.value > 50, 60, "the load writes")
        self.a.signal(signal.SIGSTOP)
        frozen_at = load.done.value
        start = time.monotonic()
        seen = (self.b / "f").read_bytes()
        print(f"frozen mount: the other waited {time.monotonic() - start:.2f} s")
        self.assertLess(time.monotonic() - start, PATIENCE)
        self.assertIn(seen, (b"o" * 200_000, b"d" * 100_000 + b"o" * 100_000))
        with open(self.b / "f", "r+b") as ours:
            ours.write(b"n" * 200_000)
            os.fsync(ours.fileno())
        load.check(self.b / "la")
        self.a.signal(signal.SIGCONT)
        self.eventually(lambda: self.a.status()["mount"]["rejoins"] >= 1, 30, "a joins again")
        time.sleep(1)
        load.stop()
        refused = self.server.status()["store"]["refused"]
        print(f"after the thaw: {sum(r['changes'] for r in refused)} changes tried, all refused; "
              f"{load.done.value - frozen_at} fsyncs since")
        self.assertEqual((self.b / "f").read_bytes(), b"n" * 200_000)
        # What was dirty is lost, and it is said; the rest goes on.
        with self.assertRaises(OSError):
            os.fsync(fd)
        os.close(fd)
        self.assertIn("lost", self.a.messages())
        self.assertEqual((self.a / "clean").read_text(), "clean")
        self.assertEqual((self.a / "f").read_bytes(), b"n" * 200_000)
        (self.a / "again").write_text("works")
        self.assertEqual((self.b / "again").read_text(), "works")
        self.finish(self.a, self.b)


if __name__ == "__main__":
    harness.main()
