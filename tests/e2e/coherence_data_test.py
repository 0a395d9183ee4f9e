#!/usr/bin/env python3
"""Bytes and sizes on two mounts: one acts and returns, only then the other looks. What it sees is
what is, through names, held descriptors and mappings, whatever its kernel had cached."""
import errno
import mmap
import os
import random
import signal
import time

import harness

ROUNDS = 60 if harness.LONG else 16
KIB, MIB = 1 << 10, 1 << 20
PAGE = 4096
# Around the borders of pages, of what lies in the inode, in small blocks, in a segment.
SIZES = [0, 1, 100, 3600, 3700, 4095, 4096, 4097, 8192, 12345, 64 * KIB - 1, 64 * KIB,
         64 * KIB + 1, 100_000, 300_000]
# Mappings by number, in the process that made them (Hands).
mappings = []


def map_shared(fd, length, flags=mmap.PROT_READ):
    mappings.append(mmap.mmap(fd, length, prot=flags))
    return len(mappings) - 1


def peek(number, start, length):
    return mappings[number][start:start + length]


def poke(number, start, data):
    mappings[number][start:start + len(data)] = data


def unmap(number):
    mappings[number].close()


def direct_read(path, length, start):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, length)
        return buffer[:os.preadv(fd, [buffer], start)]
    finally:
        os.close(fd)


def direct_write(path, data, start):
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, len(data))
        buffer[:] = data
        assert os.pwritev(fd, [buffer], start) == len(data)
    finally:
        os.close(fd)


def read_all(fd):
    size = os.lseek(fd, 0, os.SEEK_END)
    return b"".join(os.pread(fd, MIB, at) for at in range(0, size, MIB))


class Data(harness.SharedCase):
    def both_ways(self, rounds=ROUNDS):
        """(acting side, looking side), in turn."""
        for i in range(rounds):
            yield i, *((self.a, self.b), (self.b, self.a))[i % 2]

    def sees(self, path, fd, content, what=""):
        """A name and a held descriptor show this content, and this size in every way."""
        self.assertEqual(os.fstat(fd).st_size, len(content), what)
        self.assertEqual(os.stat(path).st_size, len(content), what)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_END), len(content), what)
        self.assertEqual(os.pread(fd, len(content) + 10, 0), content, what)
        self.assertEqual(path.read_bytes(), content, what)
        self.assertEqual(os.pread(fd, 10, len(content)), b"", what)

    def test_every_change_of_content_is_seen(self):
        seed = random.randrange(10**6)
        chance = random.Random(seed)
        held = []
        for number in range(4):
            (self.a / f"f{number}").touch()
            held.append([self.open(side / f"f{number}") for side in self.sides])
        contents = [bytearray() for _ in held]
        for i, *_ in self.both_ways(12 * ROUNDS):
            one, other = i % 2, (i + 1) % 2
            number = chance.randrange(len(held))
            name, content, fd = f"f{number}", contents[number], held[number][one]
            data = bytes([1 + i % 255]) * chance.choice(SIZES)
            start = chance.choice([0, len(content), chance.randrange(len(content) + 10_000)])
            kind = chance.choice(["write", "write", "truncate", "append", "replace", "by name"])
            if kind in ("write", "append") and data:
                if kind == "append":
                    start = len(content)
                    with open(self.sides[one] / name, "ab", buffering=0) as file:
                        file.write(data)
                else:
                    self.assertEqual(os.pwrite(fd, data, start), len(data))
                content.extend(bytes(max(0, start - len(content))))
                content[start:start + len(data)] = data
            elif kind == "replace":
                (self.sides[one] / name).write_bytes(data)
                content[:] = data
            else:
                size = chance.choice(SIZES)
                target = fd if kind == "truncate" else self.sides[one] / name
                os.truncate(target, size)
                content[:] = content[:size].ljust(size, b"\0")
            for side in (other, one):
                self.sees(self.sides[side] / name, held[number][side], bytes(content),
                          f"seed {seed}, step {i}: {kind}")

    def test_bytes_that_were_cut_off_never_come_back(self):
        for number, size in enumerate(SIZES[1:]):
            for cut in {0, 1, size // 2, size // 2 // PAGE * PAGE, size - 1}:
                for way in ("truncate", "write behind", "append"):
                    one, other = (self.a, self.b) if number % 2 else (self.b, self.a)
                    (one / "f").write_bytes(b"x" * size)
                    held = os.open(other / "f", os.O_RDWR)
                    self.assertEqual(os.pread(held, size, 0), b"x" * size)
                    os.truncate(one / "f", cut)
                    self.assertEqual(os.pread(held, size, cut), b"", "behind the end")
                    content = b"x" * cut
                    if way == "truncate":
                        os.truncate(one / "f", size)
                        content = content.ljust(size, b"\0")
                    elif way == "write behind":
                        with open(one / "f", "r+b", buffering=0) as file:
                            file.seek(size)
                            file.write(b"y")
                        content = content.ljust(size, b"\0") + b"y"
                    else:
                        with open(one / "f", "ab", buffering=0) as file:
                            file.write(b"z")
                        os.truncate(other / "f", size + 5)
                        content = (content + b"z").ljust(size + 5, b"\0")
                    self.sees(other / "f", held, content, (size, cut, way))
                    self.assertEqual((one / "f").read_bytes(), content, (size, cut, way))
                    os.close(held)

    def test_truncating_open_empties_the_file_for_all(self):
        for i, one, other in self.both_ways():
            content = bytes([i + 1]) * SIZES[1 + i % (len(SIZES) - 1)]
            (one / "f").write_bytes(content)
            held = os.open(other / "f", os.O_RDWR)
            self.sees(other / "f", held, content)
            fd = os.open(one / "f", os.O_RDWR | os.O_TRUNC)
            self.sees(other / "f", held, b"")
            os.pwrite(held, b"from the other", 7)
            self.sees(one / "f", fd, bytes(7) + b"from the other")
            os.close(fd)
            os.close(held)

    def test_appends_in_turn(self):
        (self.a / "f").touch()
        fds = [self.open(side / "f", os.O_RDWR | os.O_APPEND) for side in self.sides]
        content = b""
        for i in range(4 * ROUNDS):
            record = bytes([i % 256]) * (1 + i * 977 % 9000)
            if i % 7 == 6:  # Between appends the end comes nearer.
                content = content[:len(content) // 2]
                os.truncate(self.sides[(i + 1) % 2] / "f", len(content))
            self.assertEqual(os.write(fds[i % 2], record), len(record))
            content += record
            self.sees(self.sides[(i + 1) % 2] / "f", fds[(i + 1) % 2], content, i)

    def test_a_reader_at_the_end_goes_on(self):
        (self.a / "f").touch()
        writer = self.open(self.a / "f", os.O_WRONLY | os.O_APPEND)
        reader = self.open(self.b / "f", os.O_RDONLY)
        for i in range(8 * ROUNDS):
            self.assertEqual(os.read(reader, 100_000), b"")
            data = bytes([i % 256]) * (1 + i * 613 % 7000)
            os.write(writer, data)
            self.assertEqual(os.read(reader, 100_000), data, i)
        # The end comes nearer than where the reader is; then the file grows past it.
        end = os.lseek(reader, 0, os.SEEK_CUR)
        os.truncate(self.a / "f", end // 2)
        self.assertEqual(os.read(reader, 10), b"")
        os.write(writer, b"y" * end)
        self.assertEqual(os.read(reader, 2 * end), b"y" * (end // 2))

    def test_a_writer_behind_the_end_leaves_a_hole(self):
        for i, one, other in self.both_ways():
            size = SIZES[1 + i % (len(SIZES) - 1)]
            fd = os.open(one / "f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.write(fd, b"x" * size)
            os.truncate(other / "f", size // 3)
            os.write(fd, b"y")  # where the descriptor was
            content = (b"x" * (size // 3)).ljust(size, b"\0") + b"y"
            held = os.open(other / "f", os.O_RDONLY)
            self.sees(other / "f", held, content, size)
            os.close(held)
            os.close(fd)

    def test_a_file_without_names_lives_while_somebody_has_it_open(self):
        for i, one, other in self.both_ways():
            content = os.urandom(SIZES[1 + i % (len(SIZES) - 1)])
            (one / "f").write_bytes(content)
            held = [os.open(side / "f", os.O_RDWR) for side in self.sides]
            os.unlink(one / "f")
            self.assertErrno(errno.ENOENT, os.stat, other / "f")
            (one / "f").write_bytes(b"another one")
            for fd in held:
                self.assertEqual(os.fstat(fd).st_nlink, 0)
                self.assertEqual(read_all(fd), content)
            # It still is one file for both.
            os.pwrite(held[0], b"of a", 0)
            self.assertEqual(os.pread(held[1], 4, 0), b"of a")
            os.ftruncate(held[1], 100_000)
            self.assertEqual(os.fstat(held[0]).st_size, 100_000)
            os.pwrite(held[1], b"of b", 99_996)
            self.assertEqual(os.pread(held[0], 10, 99_996), b"of b")
            os.close(held[i % 2])
            self.assertEqual(os.pread(held[(i + 1) % 2], 4, 0), b"of a")
            self.assertEqual((other / "f").read_bytes(), b"another one")
            os.close(held[(i + 1) % 2])

    def test_a_mapping_shows_what_the_other_writes(self):
        hands = self.hands()
        size = 16 * PAGE
        for i, one, other in self.both_ways():
            (one / "f").write_bytes(bytes([i]) * size)
            fd = hands.do(os.open, other / "f", os.O_RDONLY if i % 4 < 2 else os.O_RDWR)
            number = hands.do(map_shared, fd, size)
            hands.do(os.close, fd)
            self.assertEqual(hands.do(peek, number, 0, size), bytes([i]) * size)
            content = bytearray(bytes([i]) * size)
            with open(one / "f", "r+b", buffering=0) as file:
                for start, length in ((0, 1), (PAGE - 3, 6), (5 * PAGE, PAGE),
                                      (7 * PAGE + 9, 20_000)):
                    data = os.urandom(length)
                    file.seek(start)
                    file.write(data)
                    content[start:start + length] = data
                    self.assertEqual(hands.do(peek, number, 0, size), content)
                # What was cut off is zero when it is mapped again.
                cut = (i * 3571) % size
                file.truncate(cut)
                file.truncate(size)
                content[cut:] = bytes(size - cut)
                self.assertEqual(hands.do(peek, number, 0, size), content, f"cut at {cut}")
            os.unlink(one / "f")
            self.assertEqual(hands.do(peek, number, 0, size), content)
            hands.do(unmap, number)

    def test_a_mapping_ends_where_the_other_cut_the_file(self):
        for size, cut in ((4 * PAGE, 2 * PAGE), (4 * PAGE, 0), (20 * PAGE, PAGE + 1)):
            (self.a / "f").write_bytes(b"x" * size)
            hands = self.hands()
            number = hands.do(map_shared, hands.do(os.open, self.b / "f", os.O_RDWR), size)
            self.assertEqual(hands.do(peek, number, 0, size), b"x" * size)
            os.truncate(self.a / "f", cut)
            end = (cut + PAGE - 1) // PAGE * PAGE
            self.assertEqual(hands.do(peek, number, 0, end), (b"x" * cut).ljust(end, b"\0"))
            hands.begin(peek, number, end, 1)
            hands.process.join(20)
            self.assertEqual(hands.process.exitcode, -signal.SIGBUS)

    def test_what_is_stored_into_a_mapping_is_read_by_the_other(self):
        hands = [self.hands(), self.hands()]
        size = 8 * PAGE
        (self.a / "f").write_bytes(bytes(size))
        fds = [self.open(side / "f") for side in self.sides]
        numbers = []
        for worker, side in zip(hands, self.sides):
            fd = worker.do(os.open, side / "f", os.O_RDWR)
            numbers.append(worker.do(map_shared, fd, size, mmap.PROT_READ | mmap.PROT_WRITE))
        content = bytearray(size)
        for i in range(8 * ROUNDS):
            one, other = i % 2, (i + 1) % 2
            start, data = i * 911 % (size - 64), b"%08d" % i * (1 + i % 8)
            if i % 5 == 4:  # A write of the other kind, into the same pages.
                os.pwrite(fds[one], data, start)
            else:
                hands[one].do(poke, numbers[one], start, data)
            content[start:start + len(data)] = data
            self.assertEqual(hands[other].do(peek, numbers[other], 0, size), content, i)
            self.assertEqual(os.pread(fds[other], size, 0), content, i)
            self.assertEqual((self.sides[other] / "f").read_bytes(), content, i)
            self.assertEqual(hands[one].do(peek, numbers[one], 0, size), content, i)

    def test_a_mapping_makes_no_file_longer_and_fills_no_hole_wrongly(self):
        hands = self.hands()
        for i, one, other in self.both_ways():
            size = 1 + i * 4999 % 30_000
            whole = (size + PAGE - 1) // PAGE * PAGE
            (one / "f").write_bytes(b"a" * whole)
            fd = hands.do(os.open, one / "f", os.O_RDWR)
            number = hands.do(map_shared, fd, whole, mmap.PROT_READ | mmap.PROT_WRITE)
            os.truncate(one / "f", size)
            hands.do(poke, number, 0, b"b" * whole)  # also behind the end
            self.assertEqual((other / "f").read_bytes(), b"b" * size)
            with open(other / "f", "ab", buffering=0) as file:
                file.write(b"c")
            os.truncate(other / "f", whole)
            wanted = (b"b" * size + b"c").ljust(whole, b"\0")[:max(whole, size)]
            self.assertEqual((one / "f").read_bytes(), wanted)
            self.assertEqual(hands.do(peek, number, 0, whole), wanted)
            hands.do(unmap, number)
            hands.do(os.close, fd)

    def test_large_sparse_files(self):
        starts = [0, 63 * KIB, MIB, 64 * MIB - 5, 1 << 30, (1 << 32) - 7, (1 << 40) + 12345]
        (self.a / "f").touch()
        fds = [self.open(side / "f") for side in self.sides]
        written = {}
        for i, start in enumerate([*starts, *reversed(starts)]):
            one, other = i % 2, (i + 1) % 2
            data = os.urandom(5000 + i)
            os.pwrite(fds[one], data, start)
            written[start] = data
            self.assertEqual(os.stat(self.sides[other] / "f").st_size, os.fstat(fds[one]).st_size)
            for at, wanted in written.items():
                self.assertEqual(os.pread(fds[other], len(wanted), at), wanted, at)
                self.assertIn(os.pread(fds[other], 1000, at + 100_000), (bytes(1000), b""), at)
        os.truncate(self.sides[0] / "f", starts[3])
        self.assertEqual(os.fstat(fds[1]).st_size, starts[3])
        os.truncate(self.sides[1] / "f", 1 << 33)
        self.assertEqual(os.pread(fds[0], 5000, 1 << 30), bytes(5000))

    def test_large_files_are_whole_and_read_ahead_does_not_hide_a_change(self):
        size = 24 * MIB
        for _, one, other in self.both_ways(2):
            content = bytearray(os.urandom(MIB) * (size // MIB))
            (one / "f").write_bytes(content)
            with open(other / "f", "rb", buffering=0) as reader, \
                    open(one / "f", "r+b", buffering=0) as writer:
                for at in range(0, size, 128 * KIB):
                    if at % (4 * MIB) == 2 * MIB:  # just ahead of the reader, and behind it
                        for start in (at, at + 64 * KIB + 17, at - MIB):
                            data = os.urandom(70_000)
                            writer.seek(start)
                            writer.write(data)
                            content[start:start + len(data)] = data
                    self.assertEqual(reader.read(128 * KIB), content[at:at + 128 * KIB], at)
            self.assertEqual((other / "f").read_bytes(), content)
            os.truncate(other / "f", 0)
            self.assertEqual((one / "f").read_bytes(), b"")

    def test_all_ways_to_read_and_write(self):
        for i, one, other in self.both_ways():
            content = os.urandom(128 * KIB)
            (one / "f").write_bytes(content)
            self.assertEqual((other / "f").read_bytes(), content)
            direct_write(one / "f", b"d" * 2 * PAGE, PAGE)
            content = content[:PAGE] + b"d" * 2 * PAGE + content[3 * PAGE:]
            self.assertEqual((other / "f").read_bytes(), content, "written with O_DIRECT")
            self.assertEqual((one / "f").read_bytes(), content, "the same")
            with open(other / "f", "r+b", buffering=0) as file:
                os.pwritev(file.fileno(), [b"v" * 10, b"w" * 20], 10)
            content = content[:10] + b"v" * 10 + b"w" * 20 + content[40:]
            self.assertEqual(direct_read(one / "f", len(content), 0), content, "read with O_DIRECT")
            with open(one / "f", "rb") as source, open(other / "copy", "wb") as target:
                self.assertEqual(os.copy_file_range(source.fileno(), target.fileno(), 50_000),
                                 50_000)
            self.assertEqual((one / "copy").read_bytes(), content[:50_000])
            with open(other / "copy", "r+b") as target, open(one / "f", "rb") as source:
                os.sendfile(target.fileno(), source.fileno(), 1000, 60_000)
            self.assertEqual((one / "copy").read_bytes(), content[1000:61_000])

    def test_programs_are_those_of_now(self):
        for i, one, other in self.both_ways():
            if i % 2:
                (one / "p.new").write_text(f"#!/bin/sh\necho {i}\n")
                os.chmod(one / "p.new", 0o755)
                os.rename(one / "p.new", one / "p")
            else:
                (one / "p").write_text(f"#!/bin/sh\necho {i}  # in place\n")
                os.chmod(one / "p", 0o755)
            self.assertEqual(harness.run(other / "p").stdout, f"{i}\n")
        for program, code in (("true", 0), ("false", 1), ("true", 0)):
            with open(f"/bin/{program}", "rb") as source:
                (self.a / "q.new").write_bytes(source.read())
            os.chmod(self.a / "q.new", 0o755)
            os.rename(self.a / "q.new", self.a / "q")
            self.assertEqual(harness.run(self.b / "q", check=False).returncode, code)

    def test_times_of_a_file_tell_of_every_write(self):
        (self.a / "f").touch()
        held = [self.open(side / "f") for side in self.sides]
        for i, one, other in self.both_ways(4 * ROUNDS):
            before = os.stat(other / "f")
            time.sleep(0.004)  # what a local file system distinguishes
            fd = held[i % 2]
            if i % 3 == 0:
                os.pwrite(fd, b"%08d" % i, i * 97 % 10_000)
            elif i % 3 == 1:
                os.ftruncate(fd, i * 97 % 10_000 + 1)
            else:
                os.pwrite(fd, b"same size", 0)
            after = os.stat(other / "f")
            self.assertGreater(after.st_mtime_ns, before.st_mtime_ns)
            self.assertGreater(after.st_ctime_ns, before.st_ctime_ns)
            mine = os.fstat(fd)
            self.assertEqual((mine.st_mtime_ns, mine.st_ctime_ns, mine.st_size),
                             (after.st_mtime_ns, after.st_ctime_ns, after.st_size))
            if i % 10 == 9:  # What is written back keeps its times.
                os.fsync(fd)
                again = os.stat(other / "f")
                self.assertEqual((again.st_mtime_ns, again.st_ctime_ns),
                                 (after.st_mtime_ns, after.st_ctime_ns))
                self.assertEqual(os.stat(one / "f").st_blocks, again.st_blocks)


class FreeSpace(harness.Case):
    def test_both_mounts_tell_the_same_free_space(self):
        disk = self.world.folder / "disk"
        disk.mkdir()
        harness.run("mount", "-t", "tmpfs", "-o", "size=400m", "none", disk)
        store = disk / "store"
        harness.run(harness.PLUMERIA, "mkfs", store, "--log-size", "4M")
        server = self.world.serve(store)
        a, b = self.world.mount(server, "a"), self.world.mount(server, "b")

        def free():
            told = [os.statvfs(mount.path) for mount in (a, b)]
            return {(s.f_blocks, s.f_bavail * s.f_frsize // MIB, s.f_files, s.f_ffree)
                    for s in told}

        def free_megabytes():
            self.eventually(lambda: len(free()) == 1, 5, f"they agree: {free()}")
            return next(iter(free()))[1]

        before = free_megabytes()
        (a / "f").write_bytes(os.urandom(64 * MIB))
        # Before anything is on the disk: what was acknowledged is no longer free.
        self.eventually(lambda: free_megabytes() <= before - 63, 3, "64 MiB less everywhere")
        with open(a / "f", "rb") as file:
            os.fsync(file.fileno())
        self.assertAlmostEqual(free_megabytes(), before - 64, delta=2)
        os.unlink(b / "f")
        self.eventually(lambda: free_megabytes() >= before - 2, 5, "all is free again")
        for mount in (a, b):
            mount.umount()
        server.stop()


if __name__ == "__main__":
    harness.main()
