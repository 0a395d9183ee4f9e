#!/usr/bin/env python3
"""Mounts and servers that die, stop or come back: what was fsynced is there, the others go on."""
import io
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tarfile
import time

import harness

UNTAR_SOURCE = pathlib.Path("/usr/include")
LEASE = 2.0  # seconds
# What the others may wait: until the lease has run out at the lock server (which allows for clocks
# of different speed), plus the replay, plus how busy this machine is.
PATIENCE = LEASE + 6
fork = multiprocessing.get_context("fork")


class Load:
    """A process that works on a mount, and keeps count outside of what is tested."""

    def __init__(self, folder):
        self.folder = folder
        self.done = fork.RawValue("q", 0)
        self.longest = fork.RawValue("d", 0)
        self.error = fork.RawValue("i", 0)
        self.process = fork.Process(target=self.work, daemon=True)
        self.process.start()

    def work(self):
        try:
            os.makedirs(self.folder, exist_ok=True)
            self.prepare()
            while True:
                start = time.monotonic()
                self.step(self.done.value)
                self.done.value += 1
                self.longest.value = max(self.longest.value, time.monotonic() - start)
        except OSError as error:
            self.error.value = error.errno

    def prepare(self):
        pass

    def step(self, i):
        """Does number `i`, durably when it returns."""
        raise NotImplementedError

    def check(self, folder):
        """Everything whose fsync returned is there, seen from `folder`. Returns how much it is."""
        raise NotImplementedError

    def stop(self):
        self.process.kill()
        self.process.join(20)


def write_synced(path, content, flags=os.O_CREAT | os.O_EXCL):
    fd = os.open(path, flags | os.O_WRONLY, 0o644)
    os.write(fd, content)
    os.fsync(fd)
    os.close(fd)


class FsyncLoad(Load):
    """Creates files and fsyncs each."""

    def __init__(self, folder, size=4096):
        self.size = size
        super().__init__(folder)

    @staticmethod
    def content(i, size):
        return (b"%08d" % i) * (size // 8)

    def step(self, i):
        write_synced(self.folder / f"f{i:06d}", self.content(i, self.size))

    def check(self, folder):
        for i in range(self.done.value):
            data = (folder / f"f{i:06d}").read_bytes()
            assert data == self.content(i, self.size), f"f{i:06d}: {len(data)} bytes, or wrong ones"
        return self.done.value


class ReplaceLoad(Load):
    """Replaces one file as editors do: new content aside, fsync, rename over it, fsync the folder;
    and each time writes into one that stays."""

    @staticmethod
    def content(i):
        return b"%08d" % i * (1 + i * 997 % 12000)

    def prepare(self):
        self.whole = os.open(self.folder, os.O_RDONLY)
        self.stays = os.open(self.folder / "stays", os.O_CREAT | os.O_RDWR, 0o644)

    def step(self, i):
        new = self.folder / "file.new"
        write_synced(new, self.content(i), os.O_CREAT | os.O_TRUNC)
        os.rename(new, self.folder / "file")
        os.fsync(self.whole)
        os.pwrite(self.stays, b"%08d" % i, 8 * i)
        os.fsync(self.stays)

    def check(self, folder):
        done = self.done.value
        if done == 0:
            return 0
        data = (folder / "file").read_bytes()
        i = int(data[:8])
        assert done - 1 <= i <= done, f"the file is number {i}, {done} were durable"
        assert data == self.content(i), f"number {i} has {len(data)} bytes, or wrong ones"
        stays = (folder / "stays").read_bytes()
        for k in range(done):
            assert stays[8 * k:8 * k + 8] == b"%08d" % k, f"record {k} of {done} is missing"
        assert stays[8 * done:] in (b"", b"%08d" % done), "more than was ever written"
        return done


class AppendLoad(Load):
    """Appends records of different length to one log, and syncs each."""

    @staticmethod
    def record(i):
        return b"%08d" % i + bytes([i % 256]) * (i * 641 % 9000)

    def prepare(self):
        self.file = os.open(self.folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def step(self, i):
        os.write(self.file, self.record(i))
        os.fdatasync(self.file)

    def check(self, folder):
        if self.done.value == 0:
            return 0
        data = (folder / "log").read_bytes()
        wanted = b"".join(self.record(i) for i in range(self.done.value + 1))
        durable = len(wanted) - len(self.record(self.done.value))
        assert len(data) >= durable, f"{len(data)} of {durable} bytes"
        assert wanted.startswith(data), "bytes that nobody wrote there"
        return self.done.value


def read_all(folder):
    """Reads every byte of a tree; the number of files."""
    def fail(error):
        raise error

    files = 0
    for path, _, names in os.walk(folder, onerror=fail):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                file.read()
            files += 1
    return files


class Crash(harness.Case):
    seconds = 3600 if harness.LONG else 240

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
        for name in os.listdir(mount.path):
            if (mount / name).is_dir():
                (mount / name / "after").write_text("alive")
                (mount / name / "after").unlink()
        (mount / "after").write_text("alive")
        os.rename(mount / "after", mount / "after2")
        took = time.monotonic() - start
        print(f"{what}: the other mount waited {took:.2f} s")
        self.assertLess(took, PATIENCE)

    def loads(self, mount, name):
        return [FsyncLoad(mount / f"{name}-files"), ReplaceLoad(mount / f"{name}-replace"),
                AppendLoad(mount / f"{name}-append")]

    def let_work(self, *loads, steps=30):
        self.eventually(lambda: min(load.done.value for load in loads) >= steps, 60, "all work")

    def check_all(self, loads, mount):
        """What the loads have made durable is there on `mount`."""
        kept = [load.check(mount / load.folder.name) for load in loads]
        print(f"{kept} durable steps are there")

    def go_on_alone(self, what):
        """After the death of mount a: b goes on in time, and the log of a is replayed."""
        self.go_on(self.b, what)
        self.a.detach()

        def recovered():
            status = self.server.status()["server"]
            self.assertEqual(status["replay_errors"], 0)
            return (status["expired"], status["recovered"]) == (1, 1)
        self.eventually(recovered, PATIENCE, "the log of the dead mount is replayed")

    def rounds(self, one_round, served=True):
        """one_round(chance) a few times, or many with PLUMERIA_LONG, each with a seed and a new
        store."""
        seeds = [random.randrange(10**6) for _ in range(50 if harness.LONG else 3)]
        if "PLUMERIA_SEED" in os.environ:
            seeds = [int(os.environ["PLUMERIA_SEED"])]
        for number, seed in enumerate(seeds):
            print(f"round {number}, PLUMERIA_SEED={seed}", flush=True)
            if served:
                self.pair()
            one_round(random.Random(seed))
            self.world.end_round()

    def make_archive(self):
        """A tar of some thousand files, enough for seconds: what is older than a second is durable
        when a mount dies in the middle, what is younger is not. (Its path, {name: bytes})"""
        members = {}
        archive = self.world.folder / "tree.tar"
        with tarfile.open(archive, "w") as out:
            for path in sorted(UNTAR_SOURCE.rglob("*")):
                if path.is_file() and not path.is_symlink() and len(members) < 6000:
                    name = f"tree/{path.relative_to(UNTAR_SOURCE)}"
                    members[name] = path.read_bytes()
                    info = tarfile.TarInfo(name)
                    info.size = len(members[name])
                    out.addfile(info, io.BytesIO(members[name]))
        return archive, members

    def kill_in_untar(self, mount, archive, members, chance):
        """Kills a mount somewhere in the middle of an untar, with a load beside it (the result)."""
        untar = subprocess.Popen(["tar", "xvf", archive, "-C", mount.path],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        load = FsyncLoad(mount / "beside")
        last = chance.randrange(len(members) // 20, len(members) * 19 // 20)
        start = time.monotonic()
        for _ in range(last):
            untar.stdout.readline()
        time.sleep(chance.random() * 0.01)
        mount.kill()
        load.stop()
        print(f"killed after {last} of {len(members)} files in {time.monotonic() - start:.1f} s")
        mount.detach()
        untar.stdout.close()
        self.assertNotEqual(untar.wait(20), 0, "tar was done already")
        return load

    def check_untarred(self, mount, members):
        """Each file that is there has bytes of its own. How many they are."""
        there = 0
        for path, _, names in os.walk(mount / "tree"):
            for name in names:
                file = os.path.join(path, name)
                with open(file, "rb") as opened:
                    wanted = members[os.path.relpath(file, mount.path)]
                    self.assertTrue(wanted.startswith(opened.read()), file)
                there += 1
        print(f"{there} files are there, each with bytes of its own")
        return there

    def test_kill_a_mount_in_the_middle_of_an_untar(self):
        archive, members = self.make_archive()
        kept = []

        def one_round(chance):
            (self.b / "of-b").write_text("b")
            load = self.kill_in_untar(self.a, archive, members, chance)
            self.go_on_alone("an untar")
            kept.append(self.check_untarred(self.b, members))
            self.check_all([load], self.b)
            self.assertEqual((self.b / "of-b").read_text(), "b")
            self.finish(self.b)

        self.rounds(one_round)
        self.assertGreater(max(kept), 0, "nothing was ever durable: killed too early")

    def test_kill_the_embedded_mount_in_the_middle_of_an_untar(self):
        archive, members = self.make_archive()
        kept = []

        def one_round(chance):
            store = self.world.mkfs()
            mount = self.world.mount(store, "m")
            load = self.kill_in_untar(mount, archive, members, chance)
            start = time.monotonic()
            mount = self.world.mount(store, "m")
            print(f"usable again after {time.monotonic() - start:.2f} s")
            kept.append(self.check_untarred(mount, members))
            self.check_all([load], mount)
            mount.umount()
            self.world.fsck(store)

        self.rounds(one_round, served=False)
        self.assertGreater(max(kept), 0, "nothing was ever durable: killed too early")

    def test_kill_a_mount_under_fsyncs(self):
        def one_round(chance):
            ours, others = self.loads(self.a, "a"), self.loads(self.b, "b")
            self.let_work(*ours, *others, steps=chance.randrange(1, 100))
            time.sleep(chance.random() * 0.05)
            self.a.kill()
            self.go_on_alone("loads on both")
            for load in ours:
                load.stop()
            self.loads_go_on(*others)
            self.check_all(ours, self.b)
            self.check_all(others, self.b)
            a = self.world.mount(self.server, "a2")
            self.check_all(ours, a)
            self.check_all(others, a)
            self.finish(self.b, a)

        self.rounds(one_round)

    def test_kill_the_embedded_mount(self):
        def one_round(chance):
            store = self.world.mkfs()
            for life in range(3):
                mount = self.world.mount(store, "m")
                loads = self.loads(mount, f"life{life}")
                self.let_work(*loads, steps=chance.randrange(1, 150))
                time.sleep(chance.random() * 0.05)
                mount.kill()
                for load in loads:
                    load.stop()
                mount.detach()
                start = time.monotonic()
                mount = self.world.mount(store, "m")
                print(f"usable again after {time.monotonic() - start:.2f} s")
                self.check_all(loads, mount)
                read_all(mount.path)
                mount.umount()
                self.world.fsck(store)

        self.rounds(one_round, served=False)

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
        print(f"longest pause {max(load.longest.value for load in loads):.2f} s")

    def nothing_lost(self, *mounts):
        for mount in mounts:
            status = mount.status()["mount"]
            self.assertEqual((status["rejoins"], status["files"]["lost"]), (0, 0))

    def test_kill_the_server(self):
        def one_round(chance):
            loads = self.loads(self.a, "a") + self.loads(self.b, "b")
            for _ in range(3):
                self.let_work(*loads, steps=min(l.done.value for l in loads) +
                              chance.randrange(1, 50))
                dirty = os.urandom(chance.randrange(1, 200_000))
                (self.a / "dirty").write_bytes(dirty)
                time.sleep(chance.random() * 0.05)
                self.server.kill()
                self.restart_server(chance.choice((0, 0, LEASE * 1.5)))
                self.assertFalse(self.server.status()["server"]["was_clean"])
                self.assertEqual((self.b / "dirty").read_bytes(), dirty)  # not fsynced, not lost
            self.loads_go_on(*loads)
            self.check_all(loads[:3], self.b)
            self.check_all(loads[3:], self.a)
            self.nothing_lost(self.a, self.b)
            self.assertEqual(self.server.status()["server"]["expired"], 0)
            self.finish(self.a, self.b)

        self.rounds(one_round)

    def test_kill_the_server_and_a_mount_together(self):
        def one_round(chance):
            ours, others = self.loads(self.a, "a"), self.loads(self.b, "b")
            self.let_work(*ours, *others, steps=chance.randrange(1, 60))
            dirty = os.urandom(chance.randrange(1, 200_000))
            (self.b / "dirty").write_bytes(dirty)
            victims = [self.a, self.server]
            chance.shuffle(victims)
            for victim in victims:
                victim.signal(signal.SIGKILL)
            for victim in victims:
                victim.kill()
            self.restart_server()
            # The dead one's lease may have been live: the new server gives it a whole one.
            self.go_on_alone("server and mount")
            for load in ours:
                load.stop()
            self.loads_go_on(*others)
            self.check_all(ours, self.b)
            self.check_all(others, self.b)
            self.assertEqual((self.b / "dirty").read_bytes(), dirty)
            self.nothing_lost(self.b)
            a = self.world.mount(self.server, "a")
            self.check_all(ours + others, a)
            self.finish(a, self.b)

        self.rounds(one_round)

    def test_kill_everything_together(self):
        def one_round(chance):
            loads = self.loads(self.a, "a") + self.loads(self.b, "b")
            self.let_work(*loads, steps=chance.randrange(1, 60))
            victims = [self.a, self.b, self.server]
            chance.shuffle(victims)
            for victim in victims:
                victim.signal(signal.SIGKILL)
            for victim in victims:
                victim.kill()
            for load in loads:
                load.stop()
            self.a.detach()
            self.b.detach()
            self.restart_server()
            start = time.monotonic()
            a = self.world.mount(self.server, "a")
            self.go_on(a, "all killed")
            b = self.world.mount(self.server, "b")
            print(f"usable again after {time.monotonic() - start:.2f} s")
            self.check_all(loads, a)
            self.check_all(loads, b)
            self.finish(a, b)

        self.rounds(one_round)

    def test_stop_the_server_for_longer_than_a_lease(self):
        self.pair()
        loads = [FsyncLoad(self.a / "la"), FsyncLoad(self.b / "lb")]
        self.eventually(lambda: min(l.done.value for l in loads) > 50, 60, "both write")
        (self.a / "dirty").write_text("not fsynced, and not lost")
        self.server.stop()
        self.restart_server(pause=2 * LEASE)
        self.assertTrue(self.server.status()["server"]["was_clean"])
        self.loads_go_on(*loads)
        loads[0].check(self.b / "la")
        loads[1].check(self.a / "lb")
        self.nothing_lost(self.a, self.b)
        self.assertEqual(self.server.status()["server"]["expired"], 0)
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
        loads[0].check(self.b / "la")
        loads[1].check(self.a / "lb")
        self.nothing_lost(self.a, self.b)
        self.assertEqual(self.server.status()["server"]["expired"], 0)
        self.assertEqual((self.b / "dirty").read_text(), "not fsynced, and not lost")
        self.finish(self.a, self.b)

    def test_a_mount_frozen_past_its_lease_writes_nothing_afterwards(self):
        tried = []

        def one_round(chance):
            (self.a / "f").write_bytes(b"o" * 200_000)
            write_synced(self.a / "clean", b"clean")
            fd = os.open(self.a / "f", os.O_RDWR)
            os.fsync(fd)
            loads = self.loads(self.a, "a") + [FsyncLoad(self.a / f"large{i}", 1_000_000)
                                               for i in range(3)]
            self.let_work(*loads, steps=chance.randrange(1, 20))
            time.sleep(chance.random() * 0.05)
            os.pwrite(fd, b"d" * 100_000, 0)  # dirty in the memory of a
            self.a.signal(signal.SIGSTOP)
            start = time.monotonic()
            seen = (self.b / "f").read_bytes()
            took = time.monotonic() - start
            print(f"frozen mount: the other waited {took:.2f} s")
            self.assertLess(took, PATIENCE)
            self.assertIn(seen, (b"o" * 200_000, b"d" * 100_000 + b"o" * 100_000))
            self.check_all(loads, self.b)
            (self.b / "f").write_bytes(b"n" * 200_000)
            for load in loads:
                load.process.kill()  # The call in which it is may still be made, under a new lease.

            self.a.signal(signal.SIGCONT)
            self.eventually(lambda: self.a.status()["mount"]["rejoins"] >= 1, 30, "a joins again")
            for load in loads:
                load.stop()
            late = self.server.status()["store"]["late_changes"]
            tried.append(sum(l["tried"] for l in late))
            print(f"after the thaw: {tried[-1]} changes tried, "
                  f"{sum(l['refused'] for l in late)} refused")
            self.assertEqual(tried[-1], sum(l["refused"] for l in late))
            self.assertIn("refused", harness.run(harness.PLUMERIA, "status",
                                                 self.server.address).stdout if late else "refused")
            # What was dirty is lost, and it is said; the rest goes on.
            with self.assertRaises(OSError):
                os.fsync(fd)
            os.close(fd)
            self.assertIn("lost", self.a.messages())
            for mount in (self.b, self.a):
                self.assertEqual((mount / "f").read_bytes(), b"n" * 200_000)
                self.check_all(loads, mount)
            self.assertEqual((self.a / "clean").read_text(), "clean")
            (self.a / "again").write_text("works")
            self.assertEqual((self.b / "again").read_text(), "works")
            self.finish(self.a, self.b)

        self.rounds(one_round)
        self.assertGreater(sum(tried), 0, "no mount had anything to refuse")


if __name__ == "__main__":
    harness.main()
