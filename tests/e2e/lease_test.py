#!/usr/bin/env python3
"""A mount that is frozen past its lease, with everything dirty that can be: none of it ever lands,
what is lost is said, the rest goes on. A server that stays away for longer than a lease: the mounts
wait, and nothing is lost."""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import signal
import time

import harness

LEASE = 1.5  # seconds
# What others may wait: the lease, as the lock server counts it, the replay, and a busy machine.
PATIENCE = LEASE + 6
PAGE = 4096
MAPPED = 16 * PAGE
ROUNDS = 6 if harness.LONG else 2
mappings = {}  # in each process its own


def open_and_map(path):
    fd = os.open(path, os.O_RDWR)
    mappings[fd] = mmap.mmap(fd, 0)
    return fd


def poke(fd, start, data):
    mappings[fd][start:start + len(data)] = data


def peek(fd):
    return mappings[fd][:]


def synchronize(fd):
    mappings[fd].flush()


def sync_all(fd):
    """What the kernel has of the whole mount (syncfs)."""
    ctypes.CDLL(None).syncfs(fd)


def unmap_and_close(fd):
    mappings.pop(fd).close()
    os.close(fd)


def write_synced(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fsync_again(fd):
    """Of a file that was closed when it lost something the next fsync says so, once."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        os.fsync(fd)


def tree(root):
    """{name: (kind, links, content)}"""
    seen = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            seen[os.path.relpath(os.path.join(folder, name), root)] = "folder"
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                seen[os.path.relpath(path, root)] = os.stat(path).st_nlink, file.read()
    return seen


class Dirty:
    """Everything that one mount can have and the store has not: data, mapped pages, names, locks,
    files without names."""
    MAPPINGS = ("msync", "unmap", "write", "sync", "stays", "alone")

    def __init__(self, test, mount):
        self.test, self.mount = test, mount
        for name in ("data", "appended", "unlinked", "fcntl", "flock", "clean", "renamed"):
            write_synced(mount / name, b"old " * 5000)
        for name in self.MAPPINGS:
            write_synced(mount / f"mapped-{name}", b"o" * MAPPED)
        os.mkdir(mount / "folder")
        write_synced(mount / "folder/durable", b"durable")
        self.hands = {name: test.hands() for name in
                      ("main", "fcntl", "flock", *self.MAPPINGS)}
        main = self.hands["main"]
        self.fd = {name: main.do(os.open, mount / name, os.O_RDWR) for name in
                   ("data", "unlinked", "clean")}
        self.fd["appended"] = main.do(os.open, mount / "appended", os.O_WRONLY | os.O_APPEND)
        self.fd["folder"] = main.do(os.open, mount / "folder", os.O_RDONLY)
        for name in self.MAPPINGS:
            self.fd[name] = self.hands[name].do(open_and_map, mount / f"mapped-{name}")
            self.hands[name].do(peek, self.fd[name])
        for name in ("fcntl", "flock"):
            self.fd[name] = self.hands[name].do(os.open, mount / name, os.O_RDWR)
            self.hands[name].do(getattr(fcntl, {"fcntl": "lockf"}.get(name, name)), self.fd[name],
                                fcntl.LOCK_EX)
        os.unlink(mount / "unlinked")
        whole = os.open(mount.path, os.O_RDONLY)
        os.fsync(whole)
        os.close(whole)
        self.soil()

    def soil(self):
        """Makes everything dirty, quickly: what is older than a second may be durable."""
        main = self.hands["main"]
        main.do(os.pwrite, self.fd["unlinked"], b"dirty", 0)
        for name in self.MAPPINGS:
            for page in (0, 3, 15):
                self.hands[name].do(poke, self.fd[name], page * PAGE + 7, b"dirty")
        main.do(os.write, self.fd["appended"], b"dirty" * 1000)
        main.do(os.pwrite, self.fd["data"], b"dirty" * 20_000, 1000)
        main.do(os.mkdir, self.mount / "folder/made")
        main.do(os.rename, self.mount / "renamed", self.mount / "folder/moved")
        (self.mount / "folder/new").write_bytes(b"dirty")

    def mapped(self):
        content = bytearray(b"o" * MAPPED)
        for page in (0, 3, 15):
            content[page * PAGE + 7:page * PAGE + 12] = b"dirty"
        return bytes(content)

    def check_all_kept(self, other):
        """Nothing was lost: seen from another mount, from this one, through what it has open."""
        main = self.hands["main"]
        data = bytearray(b"old " * 5000).ljust(101_000)
        data[1000:101_000] = b"dirty" * 20_000
        for mount in (other, self.mount):
            self.test.assertEqual((mount / "data").read_bytes(), data)
            self.test.assertEqual((mount / "appended").read_bytes(),
                                  b"old " * 5000 + b"dirty" * 1000)
            self.test.assertEqual(sorted(os.listdir(mount / "folder")),
                                  ["durable", "made", "moved", "new"])
            self.test.assertEqual((mount / "folder/new").read_bytes(), b"dirty")
            self.test.assertEqual((mount / "folder/moved").read_bytes(), b"old " * 5000)
            self.test.assertFalse((mount / "renamed").exists())
            for name in self.MAPPINGS:
                self.test.assertEqual((mount / f"mapped-{name}").read_bytes(), self.mapped())
        self.test.assertEqual(main.do(os.pread, self.fd["unlinked"], 9, 0), b"dirtyld o")
        for name in ("fcntl", "flock"):
            with open(other / name, "r+b") as file:
                take = fcntl.lockf if name == "fcntl" else fcntl.flock
                with self.test.assertRaises(BlockingIOError):
                    take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.hands[name].do(take, self.fd[name], fcntl.LOCK_UN)
                take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in ("data", "appended", "unlinked"):
            main.do(os.fsync, self.fd[name])
        for name in self.MAPPINGS:
            self.hands[name].do(synchronize, self.fd[name])


class Lease(harness.Case):
    seconds = 150

    def pair(self):
        self.server, self.a, self.b = self.world.served_pair(lease=LEASE)

    def hands(self):
        hands = harness.Hands()
        self.addCleanup(hands.kill)
        return hands

    def finish(self, *mounts):
        for mount in mounts or (self.a, self.b):
            mount.umount()
        self.server.stop()
        self.world.fsck(self.server.store)

    def late_changes(self):
        """The changes that were tried after a lease was over; each was refused."""
        late = self.server.status()["store"]["late_changes"]
        self.assertEqual([one["tried"] for one in late], [one["refused"] for one in late])
        return sum(one["tried"] for one in late)

    def other_goes_on(self, dirty):
        """b takes everything over and changes it. Returns what all must see from now on."""
        began = time.monotonic()
        waiters = {}
        for name in ("fcntl", "flock"):
            waiters[name] = self.hands()
            fd = waiters[name].do(os.open, self.b / name, os.O_RDWR)
            waiters[name].begin(fcntl.lockf if name == "fcntl" else fcntl.flock, fd, fcntl.LOCK_EX)
        for name in ("data", "appended", *(f"mapped-{n}" for n in dirty.MAPPINGS if n != "alone")):
            (self.b / name).read_bytes()
            with open(self.b / name, "r+b") as file:
                file.write(b"of b" * 10)
        print(f"the other waited {time.monotonic() - began:.2f} s")
        self.assertLess(time.monotonic() - began, PATIENCE)
        for name, waiter in waiters.items():
            waiter.result(5)
            (self.b / name).write_bytes(b"locked by b")
            waiter.kill()
        for name in ("folder/made", "folder/new", "folder/of b"):
            if not os.path.isdir(self.b / name):
                (self.b / name).write_bytes(b"of b")
        if (self.b / "renamed").exists():
            os.rename(self.b / "renamed", self.b / "renamed by b")
        os.truncate(self.b / "mapped-stays", 2 * PAGE)
        os.truncate(self.b / "mapped-stays", MAPPED)
        truth = tree(self.b.path)
        for name, value in truth.items():  # The kernel of a never sent what its mappings have.
            if name.startswith("mapped-"):
                self.assertNotIn(b"dirty", value[1], name)
        self.assertEqual(truth["clean"], (1, b"old " * 5000))
        return truth

    def test_nothing_of_a_lost_lease_lands(self):
        for number in range(ROUNDS):
            seed = int(os.environ.get("PLUMERIA_SEED", random.randrange(10**6)))
            print(f"round {number}, PLUMERIA_SEED={seed}", flush=True)
            self.one_freeze(random.Random(seed))
            self.world.end_round()

    def one_freeze(self, chance):
        self.pair()
        dirty = Dirty(self, self.a)
        # Also frozen: an fsync in the middle of its writes, and calls that came too late.
        busy, late = self.hands(), self.hands()
        fd = busy.do(os.open, self.a / "busy", os.O_CREAT | os.O_RDWR)
        for _ in range(8):
            busy.do(os.write, fd, b"b" * (1 << 20))
        busy.begin(os.fsync, fd)
        time.sleep(chance.random() * 0.01)
        self.a.signal(signal.SIGSTOP)
        late.begin(os.mkdir, self.a / "called while frozen")
        truth = self.other_goes_on(dirty)
        busy_seen = truth.pop("busy", None)

        self.a.signal(signal.SIGCONT)
        # At once, before or while a learns of it: everything that could bring old pages forth.
        attempts = {"msync": (synchronize, dirty.fd["msync"]),
                    "unmap": (unmap_and_close, dirty.fd["unmap"]),
                    "write": (os.pwrite, dirty.fd["write"], b"late", 8 * PAGE),
                    "sync": (sync_all, dirty.fd["sync"]),
                    "main": (os.pwrite, dirty.fd["data"], b"late", 50_000)}
        for name, attempt in attempts.items():
            dirty.hands[name].begin(*attempt)
        self.eventually(lambda: self.a.status()["mount"]["rejoins"] >= 1, 30, "a joins again")
        failed = {}
        for name in [*attempts]:
            try:
                dirty.hands[name].result()
            except OSError as error:
                failed[name] = error.errno
            except harness.Hung as hung:
                raise harness.Hung(f"{name}: {hung}") from hung
        print(f"failed: { {name: errno.errorcode[code] for name, code in failed.items()} }")
        for name in ("msync", "write", "main"):
            self.assertEqual(failed.get(name), errno.EIO, f"{name} did not say what was lost")
        try:
            late.result()
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
        self.is_lost(dirty)

        # Whatever the kernel or the mount still had would come now.
        dirty.hands["sync"].do(sync_all, dirty.fd["sync"])
        for name in ("sync", "stays", "alone"):
            dirty.hands[name].begin(synchronize, dirty.fd[name])
            with self.assertRaises(OSError, msg=f"msync of {name}"):
                dirty.hands[name].result()
        time.sleep(1.5)
        self.same_for_all(truth, busy_seen)
        for name in ("sync", "alone", "msync", "write"):
            dirty.hands[name].do(unmap_and_close, dirty.fd[name])
        dirty.hands["stays"].kill()
        for name, one in dirty.hands.items():
            if name != "main":
                one.kill()
        for name in ("data", "appended", "unlinked"):
            self.try_to(os.close, dirty.fd[name], by=dirty.hands["main"])
        self.try_to(os.close, fd, by=busy)
        self.same_for_all(truth, busy_seen)
        print(f"{self.late_changes()} late changes tried, all refused; a counts "
              f"{self.a.status()['mount']['refused_writes']}")
        self.eventually(lambda: self.a.status()["mount"]["files"]["lost"] == 0, 5,
                        "nothing is lost any more when all are closed")

        # Both are as good as new, for the files that were lost too.
        self.assertEqual(dirty.hands["main"].do(os.pread, dirty.fd["clean"], 4, 0), b"old ")
        for name in truth:
            if truth[name] != "folder":
                with open(self.a / name, "r+b") as file:
                    file.write(b"of a")
                    file.flush()
                    fsync_again(file.fileno())
                self.assertEqual((self.b / name).read_bytes()[:4], b"of a")
        again = open_and_map(self.a / "mapped-stays")
        poke(again, 2 * PAGE, b"new")
        self.assertEqual((self.b / "mapped-stays").read_bytes()[2 * PAGE:2 * PAGE + 5],
                         b"new\0\0")
        unmap_and_close(again)
        dirty.hands["main"].kill()
        busy.kill()
        late.kill()
        self.finish()

    def try_to(self, function, *arguments, by):
        """close(2) may tell that something was lost."""
        try:
            by.do(function, *arguments)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)

    def is_lost(self, dirty):
        """It is said, for each file that lost something, through what was open then."""
        main = dirty.hands["main"]
        for name in ("data", "appended"):
            for call in ((os.fsync,), (os.fstat,)):
                with self.assertRaises(OSError, msg=f"{call} of {name}") as caught:
                    main.do(*call, dirty.fd[name])
                self.assertEqual(caught.exception.errno, errno.EIO)
        with self.assertRaises(OSError, msg="a file without names that was reclaimed") as caught:
            main.do(os.pread, dirty.fd["unlinked"], 5, 0)
        self.assertIn(caught.exception.errno, (errno.EIO, errno.ESTALE))
        for name in ("fcntl", "flock"):
            with self.assertRaises(OSError, msg=f"{name}: its lock is another's") as caught:
                dirty.hands[name].do(os.pread, dirty.fd[name], 5, 0)
            self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertEqual(main.do(os.pread, dirty.fd["clean"], 4, 0), b"old ")
        self.assertIn("lost", self.a.messages())

    def same_for_all(self, truth, busy_seen):
        """What b left is what is there: on b, and on a where nothing open was lost."""
        for mount in (self.b, self.a):
            for name, value in truth.items():
                if value == "folder":
                    self.assertTrue((mount / name).is_dir(), name)
                    continue
                try:
                    seen = (os.stat(mount / name).st_nlink, (mount / name).read_bytes())
                except OSError as error:
                    self.assertEqual((mount, error.errno), (self.a, errno.EIO), name)
                    continue
                self.assertEqual(seen, value, f"{mount / name} is not what b left")
            names = set(tree(self.b.path)) - {"busy", "called while frozen"}
            self.assertEqual(names, set(truth) - {"called while frozen"})
        if busy_seen:
            self.assertEqual((self.b / "busy").stat().st_size, len(busy_seen[1]))

    def test_a_freeze_shorter_than_the_lease_loses_nothing(self):
        self.pair()
        dirty = Dirty(self, self.a)
        self.a.signal(signal.SIGSTOP)
        waiting = self.hands()
        waiting.begin(os.listdir, self.b / "folder")
        time.sleep(LEASE / 4)
        self.assertFalse(waiting.is_done())
        self.a.signal(signal.SIGCONT)
        self.assertIn("new", waiting.result(5))
        dirty.check_all_kept(self.b)
        self.assertEqual(self.a.status()["mount"]["rejoins"], 0)
        self.assertEqual(self.late_changes(), 0)
        self.hands_off(dirty)
        self.finish()

    def hands_off(self, dirty):
        for one in dirty.hands.values():
            one.kill()

    def test_clean_things_go_on_after_a_lost_lease(self):
        """What a had cached, open and mapped, but not changed, is current when it has joined."""
        self.pair()
        reader = self.hands()
        for name in ("mapped", "held", "gone", "renamed"):
            write_synced(self.a / name, name.encode() * 1000)
        os.makedirs(self.a / "folder/below")
        whole = os.open(self.a.path, os.O_RDONLY)
        os.fsync(whole)
        os.close(whole)
        mapped = reader.do(open_and_map, self.a / "mapped")
        held = {name: reader.do(os.open, self.a / name, os.O_RDONLY)
                for name in ("held", "gone", "renamed")}
        reader.do(os.chdir, self.a / "folder/below")
        for warm in range(2):
            self.assertEqual(reader.do(peek, mapped), b"mapped" * 1000)
            tree(self.a.path)
            self.assertFalse((self.a / "absent").exists(), warm)
        self.a.signal(signal.SIGSTOP)
        (self.b / "mapped").write_bytes(b"MAPPED" * 1000)
        with open(self.b / "held", "r+b") as file:
            file.write(b"HELD")
        (self.b / "absent").write_text("there")
        os.unlink(self.b / "gone")
        os.rename(self.b / "renamed", self.b / "folder/renamed")
        os.chmod(self.b / "folder", 0o700)
        self.a.signal(signal.SIGCONT)
        self.eventually(lambda: self.a.status()["mount"]["rejoins"] >= 1, 30, "a joins again")
        self.assertEqual(reader.do(peek, mapped), b"MAPPED" * 1000)
        self.assertEqual(reader.do(os.pread, held["held"], 8, 0), b"HELDheld")
        self.assertEqual(reader.do(os.pread, held["renamed"], 7, 0), b"renamed")
        self.assertEqual((self.a / "absent").read_text(), "there")
        self.assertFalse((self.a / "gone").exists())
        self.assertEqual(os.stat(self.a / "folder").st_mode & 0o777, 0o700)
        reader.do(os.mkdir, "made")
        self.assertEqual(os.listdir(self.b / "folder/below"), ["made"])
        try:
            self.assertEqual(reader.do(os.pread, held["gone"], 4, 0), b"gone")
        except OSError as error:  # Nobody knew any more that it was open.
            self.assertIn(error.errno, (errno.ESTALE, errno.EIO))
        self.assertEqual(tree(self.a.path), tree(self.b.path))
        self.assertEqual(self.a.status()["mount"]["files"]["lost"], 0)
        reader.kill()
        self.finish()

    def test_mounts_freeze_in_turn(self):
        self.pair()
        for i in range(2 * ROUNDS):
            frozen, other = ((self.a, self.b), (self.b, self.a))[i % 2]
            with open(frozen / "f", "wb", buffering=0) as file:
                file.write(b"durable %d" % i)
                fsync_again(file.fileno())
            (frozen / "f").write_bytes(b"dirty %d" % i)
            (frozen / f"dirty{i}").write_bytes(b"dirty")
            frozen.signal(signal.SIGSTOP)
            began = time.monotonic()
            self.assertIn((other / "f").read_bytes(), (b"durable %d" % i, b"dirty %d" % i, b""))
            self.assertLess(time.monotonic() - began, PATIENCE)
            (other / "f").write_bytes(b"after %d" % i)
            seen = sorted(os.listdir(other.path))
            frozen.signal(signal.SIGCONT)
            self.eventually(lambda m=frozen, n=i // 2 + 1: m.status()["mount"]["rejoins"] >= n, 30,
                            "it joins again")
            self.assertEqual((frozen / "f").read_bytes(), b"after %d" % i)
            for mount in (self.a, self.b):
                self.assertEqual(sorted(os.listdir(mount.path)), seen)
        self.late_changes()
        self.finish()

    def test_a_server_away_for_longer_than_a_lease(self):
        """Frozen, stopped, or killed and started again."""
        for way in ("frozen", "stopped", "killed"):
            self.pair()
            dirty = Dirty(self, self.a)
            if way == "frozen":
                self.server.signal(signal.SIGSTOP)
            elif way == "killed":
                self.server.kill()
            else:
                self.server.stop()
            waiting, writing = self.hands(), self.hands()
            waiting.begin(os.listdir, self.b / "folder")
            fd = writing.do(os.open, self.a / "data", os.O_RDWR) if way == "frozen" else None
            if fd is not None:
                writing.begin(os.fsync, fd)
            time.sleep(2.5 * LEASE)
            self.assertFalse(waiting.is_done(), f"{way}: who could tell?")
            if fd is not None:
                self.assertFalse(writing.is_done(), "an fsync into nowhere")
            if way == "frozen":
                self.server.signal(signal.SIGCONT)
            else:
                self.server = self.world.serve(self.server.store, lease=LEASE,
                                               port=self.server.port)
            self.assertIn("new", waiting.result(PATIENCE + 10))
            if fd is not None:
                writing.result()
            dirty.check_all_kept(self.b)
            for mount in (self.a, self.b):
                status = mount.status()["mount"]
                self.assertEqual((status["rejoins"], status["files"]["lost"]), (0, 0), way)
            self.assertEqual(self.server.status()["server"]["expired"], 0)
            self.assertEqual(self.late_changes(), 0)
            self.hands_off(dirty)
            waiting.kill()
            writing.kill()
            self.finish()
            self.world.end_round()


if __name__ == "__main__":
    harness.main()
