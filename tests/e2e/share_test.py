#!/usr/bin/env python3
"""Two processes, each on a mount of its own, at one file or directory: nothing stale, all there."""
import fcntl
import mmap
import os
import struct
import time

import harness

SECONDS = 10 if harness.LONG else 2
fork = harness.fork


def both(work, *arguments):
    harness.together(work, *arguments, seconds=SECONDS + 90)


class Share(harness.Case):
    def setUp(self):
        super().setUp()
        self.server, self.a, self.b = self.world.served_pair()
        self.sides = (self.a.path, self.b.path)

    def test_ping_pong_through_two_files(self):
        for held in (True, False):
            for name in ("pa", "pb"):
                (self.a / name).write_bytes(struct.pack("q", 0))
            rounds, stopped = fork.RawValue("q", 0), fork.RawValue("b", 0)

            def play(side, keep=held, count=rounds, stop=stopped):
                mine, theirs = (("pa", "pb"), ("pb", "pa"))[side]
                folder = self.sides[side]
                fds = {name: os.open(folder / name, os.O_RDWR) for name in (mine, theirs)}

                def read(name):
                    fd = fds[name] if keep else os.open(folder / name, os.O_RDONLY)
                    value = struct.unpack("q", os.pread(fd, 8, 0))[0]
                    if not keep:
                        os.close(fd)
                    return value

                end = time.monotonic() + SECONDS
                value = 0
                while side == 0 and time.monotonic() < end:
                    value += 1
                    os.pwrite(fds[mine], struct.pack("q", value), 0)
                    sent = time.monotonic()
                    while read(theirs) < value:
                        assert time.monotonic() - sent < 12, "never saw the answer"
                    count.value = value
                stop.value |= side == 0
                while side == 1 and not stop.value:
                    if (seen := read(theirs)) > value:
                        value = seen
                        os.pwrite(fds[mine], struct.pack("q", value), 0)

            both(play)
            self.assertGreater(rounds.value, 20)

    def test_nothing_is_stale_after_a_call_returned(self):
        """One process, told by its own order what must be seen: acts through A, looks through B."""
        a, b = self.sides
        (a / "f").write_bytes(struct.pack("q", -1) + bytes(4088))
        ours, theirs = os.open(a / "f", os.O_RDWR), os.open(b / "f", os.O_RDWR)
        mapped = mmap.mmap(theirs, 4096, prot=mmap.PROT_READ)
        sized = os.open(a / "size", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.mkdir(a / "d")
        end = time.monotonic() + SECONDS
        i = 0
        while time.monotonic() < end:
            i += 1
            value = struct.pack("q", i)
            os.pwrite(ours, value, 0)
            self.assertEqual(os.pread(theirs, 8, 0), value, "read of a held descriptor")
            os.pwrite(ours, value, 8)
            self.assertEqual(mapped[8:16], value, "read of a mapping")
            (a / "whole").write_bytes(bytes([i % 256]) * (1 + i * 37 % 9000))
            self.assertEqual((b / "whole").read_bytes(), bytes([i % 256]) * (1 + i * 37 % 9000))
            os.write(sized, b"x")
            self.assertEqual(os.stat(b / "size").st_size, i, "size after an append")
            os.chmod(a / "f", 0o600 + i % 64)
            self.assertEqual(os.stat(b / "f").st_mode & 0o777, 0o600 + i % 64)
            self.assertFalse(os.path.exists(b / f"d/n{i}"))
            os.close(os.open(a / f"d/n{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            self.assertTrue(os.path.exists(b / f"d/n{i}"), "created")
            self.assertEqual(len(os.listdir(b / "d")), (i + 1) // 2 + (i + 1) % 2, "listing")
            if i % 2 == 0:
                os.unlink(a / f"d/n{i}")
                self.assertFalse(os.path.exists(b / f"d/n{i}"), "unlinked")
            (a / "new").write_bytes(value)
            os.rename(a / "new", a / "renamed")
            self.assertEqual((b / "renamed").read_bytes(), value, "rename over")
        self.assertGreater(i, 10)

    def test_no_append_is_lost(self):
        (self.a / "log").touch()
        written = fork.RawArray("q", 2)

        def append(side):
            fd = os.open(self.sides[side] / "log", os.O_WRONLY | os.O_APPEND)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                os.write(fd, b"%c%062d\n" % (b"AB"[side], written[side]))
                written[side] += 1

        both(append)
        next_of = [0, 0]
        for line in (self.a / "log").read_bytes().splitlines():
            side = b"AB".index(line[0])
            self.assertEqual(int(line[1:]), next_of[side])
            next_of[side] += 1
        self.assertEqual(next_of, list(written))

    def test_one_winner_for_each_name(self):
        tried = 300
        winners = [fork.RawArray("b", tried), fork.RawArray("b", tried)]

        def race(side):
            for i in range(tried):
                try:
                    os.close(os.open(self.sides[side] / f"x{i}",
                                     os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                    winners[side][i] = 1
                except FileExistsError:
                    pass

        both(race)
        self.assertEqual([x + y for x, y in zip(*winners)], [1] * tried)

    def test_no_update_under_a_file_lock_is_lost(self):
        for lock in (fcntl.lockf, fcntl.flock):
            (self.a / "counter").write_bytes(struct.pack("q", 0))
            done = fork.RawArray("q", 2)

            def count(side, take=lock, made=done):
                fd = os.open(self.sides[side] / "counter", os.O_RDWR)
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    take(fd, fcntl.LOCK_EX)
                    value = struct.unpack("q", os.pread(fd, 8, 0))[0]
                    os.pwrite(fd, struct.pack("q", value + 1), 0)
                    take(fd, fcntl.LOCK_UN)
                    made[side] += 1

            both(count)
            self.assertEqual(struct.unpack("q", (self.b / "counter").read_bytes())[0], sum(done))
            self.assertGreater(min(done), 0, "both got their turn")

    def test_two_create_and_remove_in_one_directory(self):
        os.mkdir(self.a / "d")
        made = fork.RawArray("q", 2)

        def create(side):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                name = self.sides[side] / "d" / f"{'AB'[side]}{made[side]:06d}"
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made[side] += 1

        both(create)
        wanted = {f"{'AB'[side]}{i:06d}" for side in (0, 1) for i in range(made[side])}
        for path in self.sides:
            listed = os.listdir(path / "d")
            self.assertEqual(len(listed), len(wanted))
            self.assertEqual(set(listed), wanted)

        def remove(side):
            for i in range(made[side]):
                os.unlink(self.sides[side] / "d" / f"{'AB'[side]}{i:06d}")

        both(remove)
        self.assertEqual(os.listdir(self.b / "d"), [])

    def test_a_reader_never_sees_less_than_a_returned_write(self):
        size = 1 << 20
        (self.a / "f").write_bytes(bytes(size))
        version = fork.RawValue("q", 0)

        def work(side):
            fd = os.open(self.sides[side] / "f", os.O_RDWR if side == 0 else os.O_RDONLY)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                if side == 0:
                    value = version.value + 1
                    os.pwrite(fd, struct.pack("q", value).ljust(4096, b"\0") * (size // 4096), 0)
                    version.value = value
                else:
                    before = version.value
                    data = os.pread(fd, size, 0)
                    seen = {struct.unpack_from("q", data, at)[0] for at in range(0, size, 4096)}
                    assert min(seen) >= before, f"saw {min(seen)} after {before} was written"

        both(work)
        self.assertGreater(version.value, 3)

    def test_blocks_written_side_by_side_all_survive(self):
        blocks = 512
        for stride in (1, 2):
            (self.a / "f").write_bytes(bytes(blocks * 4096))
            last = fork.RawArray("q", blocks)

            def write(side, step=stride, versions=last):
                fd = os.open(self.sides[side] / "f", os.O_RDWR)
                mine = [2 * k + side if step == 2 else k + side * blocks // 2
                        for k in range(blocks // 2)]
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    for block in mine:
                        versions[block] += 1
                        os.pwrite(fd, struct.pack("qq", block, versions[block]) * 256, block * 4096)
                os.fsync(fd)

            both(write)
            for path in self.sides:
                data = (path / "f").read_bytes()
                for block in range(blocks):
                    wanted = bytes(4096)
                    if last[block]:
                        wanted = struct.pack("qq", block, last[block]) * 256
                    self.assertEqual(data[block * 4096:(block + 1) * 4096], wanted, (stride, block))


if __name__ == "__main__":
    harness.main()
