#!/usr/bin/env python3
"""Snapshots: what they show, how they are made while everybody works, what is left of a crash."""
import errno
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import time

import harness
from harness import PLUMERIA, run

KIB, MIB = 1 << 10, 1 << 20
PAUSE_MAX = 200  # ms
fork = multiprocessing.get_context("fork")
# Once the file $CRASH_AT is there the process dies at the change of a file that it tells.
CRASH_AT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int changes;

static void change(void) {
  FILE* told = fopen(getenv("CRASH_AT"), "r");
  int when = 0;
  if (told == NULL) return;
  if (fscanf(told, "%d", &when) != 1) when = 0;
  fclose(told);
  if (atomic_fetch_add(&changes, 1) + 1 == when) kill(getpid(), SIGKILL);
}

#define CHANGE(type, name, parameters, ...)                        \
  type name parameters {                                           \
    static type (*real) parameters;                                \
    if (real == NULL) real = dlsym(RTLD_NEXT, #name);              \
    change();                                                      \
    return real(__VA_ARGS__);                                      \
  }
CHANGE(ssize_t, pwrite, (int fd, const void* data, size_t n, off_t at), fd, data, n, at)
CHANGE(ssize_t, pwrite64, (int fd, const void* data, size_t n, off64_t at), fd, data, n, at)
CHANGE(int, fdatasync, (int fd), fd)
CHANGE(int, fsync, (int fd), fd)
CHANGE(int, syncfs, (int fd), fd)
CHANGE(int, rename, (const char* from, const char* to), from, to)
CHANGE(int, mkdir, (const char* path, mode_t mode), path, mode)
CHANGE(int, rmdir, (const char* path), path)
CHANGE(int, unlink, (const char* path), path)
CHANGE(int, unlinkat, (int fd, const char* path, int flags), fd, path, flags)
CHANGE(int, ftruncate, (int fd, off_t size), fd, size)
CHANGE(int, fallocate, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
"""


def snapshot(command, *arguments, **options):
    return run(PLUMERIA, "snapshot", command, *arguments, **options)


def create(target, name):
    """Returns how long changes paused, in milliseconds."""
    return json.loads(snapshot("create", target, name, "--json").stdout)["paused_ms"]


def names(target):
    return [one["name"] for one in json.loads(snapshot("list", target, "--json").stdout)]


def kept(target, name):
    """Bytes that a snapshot keeps."""
    return {one["name"]: one["kept"] for one in
            json.loads(snapshot("list", target, "--json").stdout)}[name]


def describe(folder):
    """Everything that a tree shows."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        status = path.lstat()
        what = [oct(status.st_mode), status.st_uid, status.st_nlink, status.st_mtime_ns]
        if path.is_symlink():
            what.append(os.readlink(path))
        elif path.is_file():
            what += [status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        found[str(path.relative_to(folder))] = what
    return found


def space_of(folder):
    """Bytes of disk space. What is being removed does not count."""
    return int(run("du", "-s", "--block-size=1", folder, check=False).stdout.split()[0])


def fsync_all(folder):
    """sync(2) does not reach the daemon."""
    for path in [folder, *pathlib.Path(folder).rglob("*")]:
        if path.is_symlink():
            continue
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def make_tree(folder, chance):
    (folder / "d").mkdir()
    for i in range(40):
        (folder / "d" / f"small{i}").write_bytes(chance.randbytes(chance.randrange(3000)))
    (folder / "middle").write_bytes(chance.randbytes(40 * KIB))
    (folder / "large").write_bytes(chance.randbytes(5 * MIB))
    (folder / "also large").write_bytes(chance.randbytes(3 * MIB))
    (folder / "link").symlink_to("large")
    os.link(folder / "middle", folder / "d" / "other name")


def change_everything(folder, chance):
    for i in range(0, 40, 2):
        (folder / "d" / f"small{i}").unlink()
    for i in range(1, 40, 2):
        (folder / "d" / f"small{i}").write_bytes(chance.randbytes(100))
    os.truncate(folder / "middle", 5000)
    with open(folder / "large", "r+b") as file:
        for _ in range(30):
            file.seek(chance.randrange(5 * MIB))
            file.write(chance.randbytes(chance.randrange(20000)))
    (folder / "also large").unlink()
    (folder / "link").unlink()
    os.rename(folder / "d", folder / "e")
    (folder / "new").write_bytes(chance.randbytes(2 * MIB))
    fsync_all(folder)


class Snapshots(harness.Case):
    def fails(self, code, text, *command):
        done = snapshot(*command, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(text, done.stderr)

    def look(self, target, name):
        """What a snapshot shows, through a mount of its own."""
        mount = self.world.mount(target, f"of-{name}", "-o", f"snapshot={name}")
        try:
            return describe(mount.path)
        finally:
            mount.umount()

    def test_one_machine(self):
        chance = random.Random(1)
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        make_tree(mount.path, chance)
        before = describe(mount.path)
        self.assertLess(create(mount.path, "monday"), PAUSE_MAX)
        self.assertEqual((store / "store").read_text().splitlines()[1], "format 2")
        change_everything(mount.path, chance)
        tuesday = describe(mount.path)
        create(store, "tuesday")  # The store names the same.
        shutil.rmtree(mount / "e")
        self.assertEqual(names(mount.path), ["monday", "tuesday"])
        self.assertEqual(self.look(mount.path, "monday"), before)
        self.assertEqual(self.look(store, "tuesday"), tuesday)

        # A single file is brought back, beside the store in use.
        folder = self.world.folder / "past"
        folder.mkdir()
        snapshot("mount", mount.path, "monday", folder, "--log", self.world.folder / "past.log")
        shutil.copy(folder / "also large", mount / "back")
        self.assertEqual((mount / "back").read_bytes(), (folder / "also large").read_bytes())
        for change in (lambda: (folder / "large").write_bytes(b"x"), (folder / "large").unlink,
                       (folder / "x").mkdir):
            with self.assertRaises(OSError) as caught:
                change()
            self.assertEqual(caught.exception.errno, errno.EROFS)
        self.fails(2, "is a snapshot itself", "create", folder, "x")
        self.assertIn("snapshot monday of", self.world.status(folder)["what"])
        run(PLUMERIA, "umount", folder)

        # They are there for the next mount, and without one.
        mount.umount()
        self.assertEqual(names(store), ["monday", "tuesday"])
        self.assertEqual(self.look(store, "monday"), before)
        mount = self.world.mount(store, "m")
        self.assertEqual(self.look(mount.path, "tuesday"), tuesday)
        snapshot("delete", store, "monday")
        self.assertEqual(self.look(mount.path, "tuesday"), tuesday)
        snapshot("delete", mount.path, "tuesday")
        self.assertEqual(names(mount.path), [])
        self.assertEqual(os.listdir(store / "snapshots"), ["list"])
        self.assertEqual((store / "store").read_text().splitlines()[1], "format 1")
        mount.umount()
        self.world.fsck(store)

    def test_what_it_refuses(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        create(mount.path, "one")
        self.fails(1, "exists already", "create", mount.path, "one")
        self.fails(2, "snapshot name", "create", mount.path, "../one")
        self.fails(1, "snapshot two", "delete", mount.path, "two")
        (mount / "d").mkdir()
        self.fails(2, "is a part of what is mounted", "list", mount / "d")
        done = run(PLUMERIA, "mount", store, self.world.folder / "m", "-o", "snapshot=two",
                   check=False)
        self.assertNotEqual(done.returncode, 0)
        past = self.world.folder / "past"
        past.mkdir()
        done = run(PLUMERIA, "snapshot", "mount", store, "two", past, "--log",
                   self.world.folder / "past.log", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("snapshot two", done.stderr)

    def test_a_snapshot_that_is_mounted_can_be_deleted(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "f").write_bytes(bytes(MIB))
        create(mount.path, "one")
        past = self.world.mount(store, "past", "-o", "snapshot=one")
        os.listdir(past.path)
        snapshot("delete", mount.path, "one")
        with self.assertRaises(OSError):
            (past / "f").read_bytes()
        past.umount()

    def test_without_a_mount(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        make_tree(mount.path, random.Random(3))
        fsync_all(mount.path)
        before = describe(mount.path)
        mount.kill()  # So it has to be recovered first.
        mount.detach()
        create(store, "one")
        self.assertEqual(names(store), ["one"])
        self.assertEqual(self.look(store, "one"), before)
        snapshot("delete", store, "one")
        self.world.fsck(store)

    def test_deletion_frees_the_space(self):
        chance = random.Random(4)
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "f").write_bytes(chance.randbytes(32 * MIB))
        (mount / "g").write_bytes(chance.randbytes(16 * MIB))
        fsync_all(mount.path)
        empty = space_of(store)
        create(mount.path, "one")
        self.assertLess(space_of(store) - empty, MIB)
        with open(mount / "f", "r+b") as file:
            file.write(chance.randbytes(32 * MIB))
            os.fsync(file.fileno())
        (mount / "g").unlink()
        self.eventually(lambda: kept(mount.path, "one") > 47 * MIB, 20, "both are kept")
        create(mount.path, "two")
        with open(mount / "f", "r+b") as file:
            file.write(chance.randbytes(32 * MIB))
            os.fsync(file.fileno())
        # The one in the middle goes: what only it needs is free.
        create(mount.path, "three")
        snapshot("delete", mount.path, "two")
        self.assertLess(space_of(store) - empty, 52 * MIB)
        snapshot("delete", mount.path, "one")
        snapshot("delete", mount.path, "three")
        self.assertLess(space_of(store) - empty, MIB)

    def test_a_full_disk(self):
        """Writing over what a snapshot needs is refused before it is lost; deleting works; the
        space comes back with the snapshot."""
        chance = random.Random(5)
        disk = self.world.folder / "disk"
        disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=200m", "none", disk)
        self.world.cleanups.append(lambda: run("umount", "-l", disk, check=False))
        run(PLUMERIA, "mkfs", disk / "store", "--log-size", "8M")
        mount = self.world.mount(disk / "store", "m")
        for i in range(500):
            (mount / f"small{i}").write_bytes(bytes(100))
        fd = os.open(mount / "large", os.O_CREAT | os.O_RDWR)
        for i in range(100):
            os.write(fd, chance.randbytes(MIB))
        os.fsync(fd)
        create(mount.path, "one")
        with self.assertRaises(OSError) as caught:
            for i in range(100):
                os.pwrite(fd, chance.randbytes(MIB), i * MIB)
                os.fsync(fd)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        for i in range(500):
            (mount / f"small{i}").unlink()
        fsync_all(mount.path)
        self.assertLess(os.statvfs(mount.path).f_bavail * 4096, 2 * MIB)
        snapshot("delete", mount.path, "one")
        self.assertGreater(os.statvfs(mount.path).f_bavail * 4096, 50 * MIB)
        os.pwrite(fd, bytes(MIB), 0)
        os.fsync(fd)
        os.close(fd)
        mount.umount()
        self.world.fsck(disk / "store")

    def test_the_barrier_stops_all_mounts(self):
        """Two processes make files by turns, each on a mount of its own: a snapshot never has a
        file without the one that was made before it, nor one without its content."""
        server, a, b = self.world.served_pair()
        turn = fork.RawValue("i", 0)

        def work(side, folder):
            while True:
                while turn.value % 2 != side:
                    time.sleep(0)
                (folder / f"f{turn.value}").write_bytes(b"x" * 100)
                turn.value += 1

        workers = [fork.Process(target=work, args=(i, m.path), daemon=True)
                   for i, m in enumerate((a, b))]
        for worker in workers:
            worker.start()
        seen = []
        pauses = []
        for i, target in enumerate((a.path, b.path, server.address, server.store)):
            time.sleep(0.3)
            low = turn.value
            pauses.append(create(target, f"s{i}"))
            seen.append((low, turn.value))
        for worker in workers:
            worker.kill()
            worker.join(20)
        print(f"pauses: {[round(p) for p in pauses]} ms")
        for pause in pauses:
            self.assertLess(pause, PAUSE_MAX)
        self.assertEqual(names(server.address), ["s0", "s1", "s2", "s3"])
        for i, (low, high) in enumerate(seen):
            past = self.world.mount(a.path if i % 2 else server.address, f"past{i}", "-o",
                                    f"snapshot=s{i}")
            numbers = sorted(int(name[1:]) for name in os.listdir(past.path))
            self.assertEqual(numbers, list(range(len(numbers))))
            self.assertGreaterEqual(len(numbers), low)
            self.assertLessEqual(len(numbers), high + 1)
            for number in numbers[:-1]:
                self.assertEqual((past / f"f{number}").read_bytes(), b"x" * 100)
            past.umount()
            snapshot("delete", b.path if i % 2 else server.address, f"s{i}")
        a.umount()
        b.umount()
        server.stop()
        self.world.fsck(server.store)

    def test_the_pause_with_a_full_dirty_cache(self):
        """Somebody writes as fast as he can, so that the cache is always full of dirty data."""
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        longest = fork.RawValue("d", 0)

        def work():
            data = bytes(MIB)
            number = 0
            while True:
                number += 1
                with open(mount / f"f{number % 4}", "wb") as file:
                    for _ in range(64):
                        begun = time.monotonic()
                        file.write(data)
                        longest.value = max(longest.value, time.monotonic() - begun)

        worker = fork.Process(target=work, daemon=True)
        worker.start()
        pauses = []
        for i in range(5):
            time.sleep(1)
            pauses.append(create(mount.path, f"s{i}"))
            snapshot("delete", mount.path, f"s{i}")
        worker.kill()
        worker.join(20)
        print(f"pauses with a full dirty cache: {[round(p) for p in pauses]} ms, "
              f"longest write {longest.value * 1000:.0f} ms")
        self.assertLess(sorted(pauses)[2], PAUSE_MAX)

    def mount_to_crash(self, store):
        """A mount that dies at a change of a file of which `crash_at` tells the number."""
        source, library = self.world.folder / "crash.c", self.world.folder / "crash.so"
        if not library.exists():
            source.write_text(CRASH_AT)
            run("cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl")
        os.environ["LD_PRELOAD"] = str(library)
        os.environ["CRASH_AT"] = str(self.world.folder / "crash_at")
        try:
            return self.world.mount(store, "m")
        finally:
            del os.environ["LD_PRELOAD"], os.environ["CRASH_AT"]

    def killed_at(self, when, mount, *command):
        """Runs a command during which the daemon dies at its change number `when` of a file.
        False: it did not come to that."""
        told = self.world.folder / "crash_at"
        told.write_text(str(when))
        done = snapshot(*command, check=False)
        told.unlink()
        if done.returncode == 0 and mount.alive():
            return False
        mount.wait()
        mount.detach()
        return True

    def crash_everywhere(self, store, mount, command, prepare):
        """Kills the daemon at every change of a file within the command. `prepare` makes what it
        needs, and returns what the tree is then and what the snapshot shows. Returns the last
        daemon."""
        when = 0
        killed = True
        while killed:
            when += 1
            now, shown = prepare(mount)
            killed = self.killed_at(when, mount, command, mount.path, "one")
            if killed:
                mount = self.mount_to_crash(store)
            self.assertEqual(describe(mount.path), now)
            there = names(mount.path)
            if not killed:
                self.assertEqual(there, ["one"] if command == "create" else [])
            if there:
                self.assertEqual(self.look(mount.path, "one"), shown)
                snapshot("delete", mount.path, "one")
            left = [path for path in (store / "snapshots").glob("*") if path.is_dir()]
            self.assertEqual(left, [])
            mount.umount()
            self.world.fsck(store)
            mount = self.mount_to_crash(store)
        print(f"{command}: {when - 1} steps")
        self.assertGreater(when, 3)
        return mount

    def test_a_crash_at_every_step(self):
        """Of creation and of deletion: the snapshot is whole or not there, the store is sound."""
        self.world.watch(600)
        chance = random.Random(6)
        store = self.world.mkfs("store", "--log-size", "1M")
        mount = self.mount_to_crash(store)
        make_tree(mount.path, chance)

        def to_create(mount):
            fsync_all(mount.path)
            tree = describe(mount.path)
            return tree, tree

        def to_delete(mount):
            shown = describe(mount.path)
            create(mount.path, "one")
            (mount / "large").write_bytes(chance.randbytes(5 * MIB))
            (mount / "link").unlink()
            (mount / "link").symlink_to("d")
            fsync_all(mount.path)
            return describe(mount.path), shown

        mount = self.crash_everywhere(store, mount, "create", to_create)
        mount = self.crash_everywhere(store, mount, "delete", to_delete)
        mount.umount()


if __name__ == "__main__":
    harness.main()
