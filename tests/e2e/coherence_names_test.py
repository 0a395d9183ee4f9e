#!/usr/bin/env python3
"""Names and attributes on two mounts: one acts and returns, only then the other looks. What it
sees is what is, whatever it had seen before."""
import ctypes
import errno
import os
import socket
import stat
import time

import harness
from harness import NOBODY, nobody

ROUNDS = 60 if harness.LONG else 12
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old, new, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def bind(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def as_nobody(function, *arguments):
    """The errno of a call that somebody without rights makes, 0 if it succeeds."""
    try:
        with nobody():
            function(*arguments)
        return 0
    except OSError as error:
        return error.errno


def open_and_close(path, flags):
    os.close(os.open(path, flags))


def replace_again_and_again(path, seconds):
    """By rename(2), each time with a higher number in it. How often."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(str(number) * 10)
        os.rename(f"{path}.new", path)
    return number


def use_again_and_again(path, flags, seconds):
    """The file is always there, whole, and never an older one than before. How often."""
    end, times, seen = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        times += 1
        fd = os.open(path, flags)
        content = os.read(fd, 200).decode()
        assert content == content[:len(content) // 10] * 10, content
        number = int(content[:len(content) // 10])
        assert number >= seen, f"{number} after {seen}"
        seen = number
        os.fstat(fd)
        os.close(fd)
        assert os.stat(path).st_size >= 10
    return times


def make_and_remove_again_and_again(path, seconds, uid):
    """open(2) with O_CREAT finds the file or makes it, whoever else does the same. How often, and
    how often it was not allowed to."""
    os.chdir(path.parent)  # What is above it need not let him pass.
    path = path.name
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    end, times, refused = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        times += 1
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except PermissionError:
            refused += 1
        else:
            assert os.fstat(fd).st_uid == uid, "opened a file of somebody else"
            os.write(fd, b"x")
            os.close(fd)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    return times, refused


class Names(harness.SharedCase):
    def both_ways(self, rounds=ROUNDS):
        """(acting side, looking side), in turn."""
        for i in range(rounds):
            yield i, *((self.a, self.b), (self.b, self.a))[i % 2]

    def gone(self, path):
        self.assertErrno(errno.ENOENT, os.lstat, path)
        self.assertErrno(errno.ENOENT, open_and_close, path, os.O_RDONLY)
        self.assertNotIn(path.name, os.listdir(path.parent))

    def agree(self, name):
        """All sides tell the same about a name; returns it."""
        told = []
        for side in self.sides:
            s = os.lstat(side / name)
            told.append((s.st_ino, oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_size,
                         s.st_mtime_ns, s.st_ctime_ns, s.st_rdev))
        for one in told[1:]:
            self.assertEqual(one, told[0], name)
        return s

    def test_every_kind_of_name_appears_and_goes(self):
        kinds = {
            "file": (lambda p: os.close(os.open(p, os.O_CREAT | os.O_EXCL)), os.unlink),
            "directory": (os.mkdir, os.rmdir),
            "symlink": (lambda p: os.symlink("nowhere", p), os.unlink),
            "link": (lambda p: os.link(p.parent / "there", p), os.unlink),
            "fifo": (os.mkfifo, os.unlink),
            "device": (lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 3)), os.unlink),
            "socket": (bind, os.unlink),
            "renamed": (lambda p: os.rename(p.parent / "file", p),
                        lambda p: os.rename(p, p.parent / "file")),
        }
        (self.a / "there").touch()
        for i, one, other in self.both_ways():
            (one / "file").touch()
            for kind, (make, remove) in kinds.items():
                if kind == "file":
                    continue
                name = f"{kind}{i % 3}"
                self.gone(other / name)
                make(one / name)
                self.assertIn(name, os.listdir(other))
                self.agree(name)
                self.assertErrno(errno.EEXIST, os.mkdir, other / name)
                remove(one / name)
                self.gone(other / name)
            os.unlink(other / "file")
            self.gone(one / "file")

    def test_every_call_on_a_name_that_went(self):
        """The other knew it, and had it open."""
        calls = [
            os.stat, os.lstat, os.unlink, os.readlink, os.listdir, os.rmdir,
            lambda p: open_and_close(p, os.O_RDWR), lambda p: open_and_close(p, os.O_TRUNC),
            lambda p: os.chmod(p, 0o600), lambda p: os.chown(p, 1, 1), os.utime,
            lambda p: os.truncate(p, 0), lambda p: os.rename(p, p.parent / "there"),
            lambda p: os.link(p, p.parent / "another"), lambda p: os.access(p, os.R_OK) or 1 / 0,
            lambda p: renameat2(p, p.parent / "there", EXCHANGE),
        ]
        (self.a / "there").touch()
        for i, one, other in self.both_ways(4):
            for call in calls:
                (one / "f").write_text("x")
                held = os.open(other / "f", os.O_RDWR)
                os.stat(other / "f")
                if i % 4 < 2:
                    os.unlink(one / "f")
                else:
                    os.rename(one / "f", one / f"elsewhere{i}")
                with self.assertRaises((FileNotFoundError, ZeroDivisionError)):
                    call(other / "f")
                os.fchmod(held, 0o640)
                os.ftruncate(held, 5)
                self.assertEqual(os.fstat(held).st_size, 5)
                if i % 4 >= 2:
                    self.assertEqual(os.stat(one / f"elsewhere{i}").st_size, 5)
                    os.unlink(other / f"elsewhere{i}")
                else:
                    self.assertEqual(os.fstat(held).st_nlink, 0)
                os.close(held)

    def test_every_call_into_a_directory_that_went(self):
        calls = [
            lambda d: os.mkdir(d / "n"), lambda d: os.symlink("x", d / "n"),
            lambda d: os.mkfifo(d / "n"), lambda d: open_and_close(d / "n", os.O_CREAT),
            lambda d: os.link(d.parent / "there", d / "n"), os.listdir, os.rmdir, os.stat,
            lambda d: os.rename(d.parent / "there", d / "n"), lambda d: os.stat(d / "n"),
            lambda d: os.rename(d, d.parent / "n"),
        ]
        (self.a / "there").touch()
        for i, one, other in self.both_ways(4):
            for call in calls:
                os.mkdir(one / "d")
                self.assertFalse((other / "d/n").exists())
                if i % 4 < 2:
                    os.rmdir(one / "d")
                else:
                    os.rename(one / "d", one / "moved")
                self.assertErrno(errno.ENOENT, call, other / "d")
                if i % 4 >= 2:
                    self.assertEqual(os.listdir(other / "moved"), [])
                    os.rmdir(other / "moved")
        self.assertEqual(self.agree("there").st_nlink, 1)

    def test_open_or_create(self):
        for i, one, other in self.both_ways():
            self.gone(other / "f")
            (one / "f").write_text(f"of the first {i}")
            self.assertErrno(errno.EEXIST, open_and_close, other / "f", os.O_CREAT | os.O_EXCL)
            fd = os.open(other / "f", os.O_CREAT | os.O_RDWR)
            self.assertEqual(os.read(fd, 100), f"of the first {i}".encode())
            os.unlink(one / "f")
            again = os.open(other / "f", os.O_CREAT | os.O_RDWR)
            self.assertEqual(os.read(again, 100), b"")
            self.assertNotEqual(os.fstat(fd).st_ino, os.fstat(again).st_ino)
            self.assertEqual(os.fstat(fd).st_nlink, 0)
            self.assertEqual(os.stat(one / "f").st_ino, os.fstat(again).st_ino)
            os.close(fd)
            os.close(again)
            os.unlink(other / "f")

    def test_a_name_that_changes_its_kind(self):
        for _, one, other in self.both_ways():
            (one / "n").write_text("a file")
            self.assertEqual((other / "n").read_text(), "a file")
            os.unlink(one / "n")
            os.mkdir(one / "n")
            self.assertEqual(os.listdir(other / "n"), [])
            self.assertErrno(errno.EISDIR, os.unlink, other / "n")
            (one / "n/inside").touch()
            self.assertEqual(os.listdir(other / "n"), ["inside"])
            os.unlink(other / "n/inside")
            os.rmdir(one / "n")
            os.symlink("target", one / "n")
            self.assertEqual(os.readlink(other / "n"), "target")
            (one / "target").write_text("1")
            self.assertEqual((other / "n").read_text(), "1")
            os.unlink(one / "n")
            os.symlink("longer/target", one / "n")
            self.assertEqual(os.readlink(other / "n"), "longer/target")
            self.assertErrno(errno.ENOENT, os.stat, other / "n")
            os.unlink(other / "n")
            self.gone(one / "n")

    def test_rename_over_a_file_that_the_other_has_open(self):
        for i, one, other in self.both_ways():
            (one / "old").write_text(f"old {i}")
            held = os.open(other / "old", os.O_RDWR)
            (one / "new").write_text(f"new {i}")
            inode = os.stat(other / "new").st_ino
            os.rename(one / "new", one / "old")
            self.assertEqual((other / "old").read_text(), f"new {i}")
            self.assertEqual(self.agree("old").st_ino, inode)
            self.gone(other / "new")
            self.assertEqual(os.fstat(held).st_nlink, 0)
            self.assertEqual(os.pread(held, 100, 0), f"old {i}".encode())
            os.pwrite(held, b"still", 0)
            self.assertEqual(os.pread(held, 5, 0), b"still")
            os.close(held)

    def test_a_directory_is_renamed_below_the_other(self):
        hands = self.hands()
        os.makedirs(self.a / "x/sub")
        (self.a / "x/sub/f").write_text("0")
        os.mkdir(self.a / "elsewhere")
        hands.do(os.chdir, self.b / "x/sub")
        held = hands.do(os.open, "f", os.O_RDWR)
        folder = hands.do(os.open, ".", os.O_RDONLY)
        inode = os.stat(self.a / "x/sub/f").st_ino
        names = ["x", "y", "elsewhere/z", "x"]
        for i in range(3 * ROUNDS):
            old, new = names[i % 3], names[i % 3 + 1]
            os.rename(self.a / old, self.a / new)
            hands.do(os.pwrite, held, b"%03d" % i, 0)
            self.assertEqual((self.a / new / "sub/f").read_bytes(), b"%03d" % i)
            self.gone(self.b / old)
            self.assertErrno(errno.ENOENT, os.stat, self.b / old / "sub/f")
            self.assertEqual(os.stat(self.b / new / "sub/f").st_ino, inode)
            self.assertEqual(hands.do(os.listdir, "."), ["f"])
            self.assertEqual(hands.do(os.listdir, folder), ["f"])
            hands.do(os.mkdir, "made")
            self.assertEqual(sorted(os.listdir(self.a / new / "sub")), ["f", "made"])
            os.rmdir(self.a / new / "sub/made")
            self.assertErrno(errno.ENOENT, hands.do, os.stat, "made")
            self.assertEqual(hands.do(os.stat, "..").st_ino, os.stat(self.a / new).st_ino)
            self.assertEqual(hands.do(os.stat, "../..").st_ino,
                             os.stat((self.a / new).parent).st_ino)
            self.assertEqual(hands.do(os.getcwd), str(self.b / new / "sub"))

    def test_a_directory_in_use_is_removed(self):
        for i, one, other in self.both_ways(2):
            os.mkdir(one / "d", 0o751)
            hands = self.hands()
            hands.do(os.chdir, one / "d")
            held = os.open(one / "d", os.O_RDONLY)
            before = os.fstat(held)
            os.rmdir((one if i % 2 else other) / "d")
            for _ in range(7):  # until what nobody uses would have been reclaimed
                for status in (os.fstat(held), hands.do(os.stat, ".")):
                    self.assertEqual((status.st_ino, status.st_mode, status.st_uid),
                                     (before.st_ino, before.st_mode, before.st_uid))
                    self.assertEqual(status.st_nlink, 0)
                self.assertEqual(os.listdir(held), [])
                self.assertEqual(hands.do(os.listdir, "."), [])
                self.assertErrno(errno.ENOENT, hands.do, os.stat, "f")
                self.assertErrno(errno.ENOENT, hands.do, os.mkdir, "f")
                self.assertErrno(errno.ENOENT, hands.do, os.open, "f", os.O_CREAT | os.O_RDWR)
                time.sleep(1)
            os.close(held)

    def test_a_directory_is_as_empty_as_the_other_left_it(self):
        for i, one, other in self.both_ways():
            os.mkdir(one / "d")
            self.assertEqual(os.listdir(other / "d"), [])
            (other / f"d/f{i}").touch()
            self.assertErrno(errno.ENOTEMPTY, os.rmdir, one / "d")
            os.mkdir(one / "e")
            self.assertErrno(errno.ENOTEMPTY, os.rename, one / "e", one / "d")
            os.unlink(other / f"d/f{i}")
            os.rename(one / "e", one / "d")
            self.gone(other / "e")
            os.rmdir(other / "d")
            self.assertErrno(errno.ENOENT, open_and_close, one / "d/f", os.O_CREAT | os.O_WRONLY)

    def test_link_counts_and_the_content_of_all_names(self):
        (self.a / "f").write_text("0")
        held = self.open(self.b / "f")
        os.mkdir(self.a / "d")
        for i, one, other in self.both_ways():
            self.assertEqual(os.fstat(held).st_nlink, 1)
            os.link(one / "f", one / "d/second")
            self.assertEqual(os.fstat(held).st_nlink, 2)
            self.assertEqual(os.stat(other / "f").st_nlink, 2)
            (other / "d/second").write_text(f"through the second {i}")
            self.assertEqual((one / "f").read_text(), f"through the second {i}")
            self.assertEqual(self.agree("f").st_ino, self.agree("d/second").st_ino)
            os.link(other / "d/second", other / "third")
            os.unlink(one / "f")
            self.assertEqual(os.fstat(held).st_nlink, 2)
            os.rename(one / "third", one / "d/second")  # Two names of one file: nothing happens.
            self.assertEqual(os.stat(other / "third").st_nlink, 2)
            os.rename(other / "third", other / "f")
            os.unlink(one / "d/second")
            self.gone(other / "d/second")

    def test_attributes_follow_by_name_and_by_descriptor(self):
        (self.a / "f").write_text("x")
        os.mkdir(self.a / "d")
        held = {name: self.open(self.b / name, os.O_RDONLY) for name in ("f", "d")}
        for i, one, other in self.both_ways():
            for name, fd in held.items():
                before = os.stat(other / name)
                os.chmod(one / name, 0o700 + i % 64)
                self.assertEqual(stat.S_IMODE(os.stat(other / name).st_mode), 0o700 + i % 64)
                self.assertEqual(stat.S_IMODE(os.fstat(fd).st_mode), 0o700 + i % 64)
                os.chown(one / name, 1000 + i, 2000 + i)
                for seen in (os.stat(other / name), os.fstat(fd)):
                    self.assertEqual((seen.st_uid, seen.st_gid), (1000 + i, 2000 + i))
                self.assertGreater(seen.st_ctime_ns, before.st_ctime_ns)
                times = (10**9 * i + 123456789, 10**9 * (i + 50) + 987654321)
                os.utime(one / name, ns=times)
                for seen in (os.stat(other / name), os.fstat(fd)):
                    self.assertEqual((seen.st_atime_ns, seen.st_mtime_ns), times)
                self.agree(name)

    def test_permissions_are_those_of_now(self):
        os.mkdir(self.a / "d")
        (self.a / "d/f").write_text("x")
        for path in (self.a, self.a / "d", self.mounts[0].path):
            os.chmod(path, 0o755)
        os.chmod(self.world.folder, 0o755)
        os.chmod(self.world.folder.parent, 0o755)
        for _, one, other in self.both_ways():
            os.chmod(one / "d/f", 0o600)
            self.assertEqual(as_nobody(open_and_close, other / "d/f", os.O_RDONLY), errno.EACCES)
            os.chmod(one / "d/f", 0o604)
            self.assertEqual(as_nobody(open_and_close, other / "d/f", os.O_RDONLY), 0)
            self.assertEqual(as_nobody(open_and_close, other / "d/f", os.O_RDWR), errno.EACCES)
            os.chown(one / "d/f", NOBODY, 0)
            self.assertEqual(as_nobody(open_and_close, other / "d/f", os.O_RDWR), 0)
            os.chmod(one / "d", 0o700)
            self.assertEqual(as_nobody(os.stat, other / "d/f"), errno.EACCES)
            os.chmod(one / "d", 0o755)
            self.assertEqual(as_nobody(os.stat, other / "d/f"), 0)
            self.assertEqual(as_nobody(os.unlink, other / "d/f"), errno.EACCES)
            os.chmod(one / "d", 0o757)
            self.assertEqual(as_nobody(os.link, other / "d/f", other / "d/g"), 0)
            os.unlink(one / "d/g")
            os.chown(one / "d/f", 0, 0)
            os.chmod(one / "d", 0o755)

    def test_set_user_id_goes_when_the_other_writes(self):
        for i, one, other in self.both_ways():
            (one / f"f{i}").touch()
            os.chown(one / f"f{i}", 1000, 1000)
            for change in ("write", "truncate"):
                os.chmod(one / f"f{i}", 0o6777)
                self.assertEqual(os.stat(other / f"f{i}").st_mode & 0o7777, 0o6777)
                fd = os.open(other / f"f{i}", os.O_RDWR)
                with nobody():
                    if change == "write":
                        os.pwrite(fd, b"x", 0)
                    else:
                        os.ftruncate(fd, 0)
                os.close(fd)
                self.assertEqual(os.stat(one / f"f{i}").st_mode & 0o6000, 0, change)

    def test_the_times_of_a_directory_are_those_of_its_last_change(self):
        os.mkdir(self.a / "d")
        changes = [
            lambda d: (d / "f").touch(), lambda d: os.link(d / "f", d / "l"),
            lambda d: os.rename(d / "l", d / "m"), lambda d: os.mkdir(d / "s"),
            lambda d: os.symlink("x", d / "y"), lambda d: os.unlink(d / "f"),
            lambda d: os.rmdir(d / "s"), lambda d: os.unlink(d / "m"), lambda d: os.unlink(d / "y"),
        ]
        for _, one, other in self.both_ways():
            for number, change in enumerate(changes):
                before = self.agree("d")
                time.sleep(0.004)  # what a local file system distinguishes
                change(one / "d")
                after = os.stat(other / "d")
                self.assertGreater(after.st_mtime_ns, before.st_mtime_ns, number)
                self.assertGreaterEqual(after.st_ctime_ns, after.st_mtime_ns, number)
                self.agree("d")

    def test_listings_through_held_descriptors(self):
        os.mkdir(self.a / "d")
        held = [self.open(side / "d", os.O_RDONLY | os.O_DIRECTORY) for side in self.sides]
        names = set()
        for i in range(3 * ROUNDS):
            one = self.sides[i % 2] / "d"
            if i % 5 == 4:
                os.unlink(one / names.pop())
            elif i % 5 == 3:
                name = names.pop()
                os.rename(one / name, one / f"renamed{i}")
                names.add(f"renamed{i}")
            else:
                (one / f"n{i}").touch()
                names.add(f"n{i}")
            for fd, side in zip(held, self.sides):
                self.assertEqual(sorted(os.listdir(fd)), sorted(names), i)
                self.assertEqual(sorted(os.listdir(side / "d")), sorted(names), i)
                with os.scandir(side / "d") as entries:
                    self.assertTrue(all(e.stat().st_ino == e.inode() for e in entries))

    def test_a_listing_in_the_middle_of_changes(self):
        """What is there all the time is listed exactly once, and nothing twice."""
        count = 3000
        os.mkdir(self.a / "d")
        for i in range(count):
            os.close(os.open(self.a / f"d/stays-{i:05d}-{'x' * 40}", os.O_CREAT | os.O_WRONLY))
        stays = set(os.listdir(self.a / "d"))
        for i in range(count // 3):
            os.close(os.open(self.a / f"d/goes-{i:05d}", os.O_CREAT | os.O_WRONLY))
        for warm in (False, True):  # The second time the kernel of b has a listing.
            one, other = (self.a, self.b) if not warm else (self.b, self.a)
            if warm:
                os.listdir(other / "d")
            seen = []
            with os.scandir(other / "d") as entries:
                for number, entry in enumerate(entries):
                    seen.append(entry.name)
                    if number % 20 == 0 and number < count:
                        i = number // 20 + (count // 6 if warm else 0)
                        os.unlink(one / f"d/goes-{i:05d}")
                        (one / f"d/comes-{int(warm)}-{i:05d}").touch()
            self.assertEqual(len(seen), len(set(seen)), "a name twice")
            self.assertEqual(stays - set(seen), set(), "missing")
            self.assertEqual(set(os.listdir(one / "d")), set(os.listdir(other / "d")))

    def test_attributes_that_came_with_a_listing(self):
        os.mkdir(self.a / "d")
        for i in range(20):
            (self.a / f"d/f{i}").touch()
        for i, one, other in self.both_ways():
            with os.scandir(other / "d") as entries:
                listed = list(entries)
            for entry in listed:
                entry.stat()  # The kernel has them all.
            with open(one / f"d/f{i % 20}", "ab") as file:
                file.write(b"x" * (i + 1))
            os.chmod(one / f"d/f{(i + 1) % 20}", 0o600 + i % 64)
            for k in (i % 20, (i + 1) % 20):
                self.agree(f"d/f{k}")
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(other / "d")}
            self.assertEqual(sizes, {e.name: e.stat().st_size for e in os.scandir(one / "d")})
            self.assertEqual(sum(sizes.values()), (i + 1) * (i + 2) // 2)

    def test_what_happens_later_has_the_later_time(self):
        """As make trusts: whoever made a file after another, on whichever mount."""
        before = 0
        for i in range(8 * ROUNDS):
            side = self.sides[i % 2]
            name = f"f{i % 7}"
            if i % 3 == 0:
                (side / name).write_bytes(b"x")
            elif i % 3 == 1:
                os.utime(side / name) if (side / name).exists() else (side / name).touch()
            else:
                os.mkdir(side / f"d{i}")
                name = f"d{i}"
            now = os.stat(self.sides[i // 2 % 2] / name).st_mtime_ns
            self.assertGreaterEqual(now, before, f"{i}: {before - now} ns too early")
            before = now

    def test_many_files(self):
        count = 150
        for folder, one, other in (("d0", self.a, self.b), ("d1", self.b, self.a)):
            os.mkdir(one / folder)
            self.assertEqual(os.listdir(other / folder), [])
            for i in range(count):
                (one / folder / f"f{i}").write_text(str(i))
            self.assertEqual(len(os.listdir(other / folder)), count)
            for i in range(count):
                self.assertEqual((other / folder / f"f{i}").read_text(), str(i))
            for i in range(0, count, 2):
                os.unlink(one / folder / f"f{i}")
            for i in range(count):
                self.assertEqual((other / folder / f"f{i}").exists(), i % 2 == 1)
            for i in range(1, count, 2):
                os.rename(other / folder / f"f{i}", other / folder / f"f{i - 1}")
            for i in range(count):
                self.assertEqual((one / folder / f"f{i}").exists(), i % 2 == 0)
                if i % 2 == 0:
                    self.assertEqual((one / folder / f"f{i}").read_text(), str(i + 1))

    def test_rename_ping_pong(self):
        os.mkdir(self.a / "x")
        os.mkdir(self.a / "y")
        (self.a / "x/f").touch()
        inode = os.stat(self.b / "x/f").st_ino
        places = ["x/f", "x/g", "y/f", "x/f"]
        for i in range(3 * ROUNDS):
            one, other = self.sides[i % 2], self.sides[(i + 1) % 2]
            old, new = places[i % 3], places[i % 3 + 1]
            os.rename(one / old, one / new)
            self.gone(other / old)
            self.assertEqual(os.stat(other / new).st_ino, inode)
            self.assertErrno(errno.ENOENT, os.rename, other / old, other / "z")

    def make_and_remove(self, uids):
        os.chmod(self.a, 0o777)
        seconds = 10 if harness.LONG else 2
        workers = [harness.Hands() for _ in uids]
        try:
            for i, (worker, uid) in enumerate(zip(workers, uids)):
                side = (self.a, self.b)[i % 2]
                worker.begin(make_and_remove_again_and_again, side / "f", seconds, uid)
            results = [worker.result() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        for times, _ in results:
            self.assertGreater(times, 10)
        return sum(refused for _, refused in results)

    def test_who_creates_while_others_do_and_remove_always_gets_a_file(self):
        self.assertEqual(self.make_and_remove([1000, 1000, 1000]), 0)

    def test_who_loses_the_race_to_create_has_no_right_to_a_private_file(self):
        self.make_and_remove([1000, 1001])

    def test_a_file_that_is_replaced_all_the_time_is_always_there(self):
        (self.b / "f").write_text("0" * 10)
        seconds = 10 if harness.LONG else 3
        replacer = harness.Hands()
        users = [harness.Hands() for _ in range(4)]
        try:
            replacer.begin(replace_again_and_again, self.b / "f", seconds + 0.5)
            for i, user in enumerate(users):
                side = self.b if i == 3 else self.a
                user.begin(use_again_and_again, side / "f", (os.O_RDONLY, os.O_RDWR)[i % 2],
                           seconds)
            times = [user.result() for user in users]
            print(f"used {times} times, replaced {replacer.result()} times")
        finally:
            for hands in (replacer, *users):
                hands.kill()

    def test_rename_without_replacing_and_exchange(self):
        for i, one, other in self.both_ways():
            (one / "f").write_text("f")
            self.gone(other / "g")
            (one / "g").write_text("g")
            with self.assertRaises(OSError) as caught:
                renameat2(other / "f", other / "g", NOREPLACE)
            self.assertEqual(caught.exception.errno, errno.EEXIST)
            os.mkdir(one / "d")
            self.assertEqual((other / "g").read_text(), "g")
            renameat2(one / "g", one / "f", EXCHANGE)
            self.assertEqual(((other / "f").read_text(), (other / "g").read_text()), ("g", "f"))
            renameat2(other / "d", other / "g", EXCHANGE)
            self.assertTrue((one / "g").is_dir())
            self.assertEqual((one / "d").read_text(), "f")
            os.unlink(one / "d")
            os.unlink(one / "f")
            renameat2(other / "g", other / f"f{i}", NOREPLACE)
            os.rmdir(one / f"f{i}")


if __name__ == "__main__":
    harness.main()
