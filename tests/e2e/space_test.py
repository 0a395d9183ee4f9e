#!/usr/bin/env python3
"""Space of files: fallocate(2), holes and where they are, on two mounts and across them."""
import ctypes
import errno
import mmap
import os
import random

import harness
from harness import nobody

KEEP, PUNCH, COLLAPSE, ZERO = 1, 2, 8, 16
KIB, MIB = 1 << 10, 1 << 20
PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def content_of(path):
    with open(path, "rb") as file:
        return file.read()


class Space(harness.SharedCase):
    def fails(self, number, call, *arguments):
        with self.assertRaises(OSError) as caught:
            call(*arguments)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def test_each_kind_on_files_of_each_size(self):
        """Against a plain bytearray, seen through the other mount after each step."""
        chance = random.Random(5)
        for size in (0, 10, 3000, PAGE, 40 * KIB, 64 * KIB, 200 * KIB, 3 * MIB):
            name = f"f{size}"
            model = bytearray(chance.randbytes(size))
            (self.a / name).write_bytes(model)
            fds = [self.open(side / name) for side in self.sides]
            for step in range(40):
                fd = fds[step % 2]
                offset = chance.choice([0, 1, 100, PAGE, 5000, 50_000, size // 2, size])
                length = chance.choice([1, 100, PAGE, 2 * PAGE, 30_000, 100_000])
                mode = chance.choice([0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP])
                if chance.random() < 0.3:
                    data = chance.randbytes(chance.choice([1, 700, 9000]))
                    os.pwrite(fd, data, offset)
                    model.extend(bytes(max(0, offset + len(data) - len(model))))
                    model[offset:offset + len(data)] = data
                fallocate(fd, mode, offset, length)
                if mode & KEEP == 0:
                    model.extend(bytes(max(0, offset + length - len(model))))
                if mode & (PUNCH | ZERO):
                    end = min(len(model), offset + length)
                    if offset < end:
                        model[offset:end] = bytes(end - offset)
                other = self.sides[1 - step % 2] / name
                self.assertEqual(os.stat(other).st_size, len(model))
                self.assertEqual(content_of(other), model, f"{name} step {step}")
            os.fsync(fds[0])

    def test_what_it_refuses(self):
        fd = self.open(self.a / "f", os.O_CREAT | os.O_RDWR)
        self.fails(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE, 0, PAGE)
        self.fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
        self.fails(errno.EFBIG, fallocate, fd, 0, (1 << 63) - 2 * PAGE, PAGE)
        self.fails(errno.ENOSPC, fallocate, fd, 0, 0, 1 << 43)
        self.assertEqual(os.fstat(fd).st_size, 0)
        self.fails(errno.EBADF, fallocate, self.open(self.b / "f", os.O_RDONLY), 0, 0, 1)

    def test_holes_are_found(self):
        fd = self.open(self.a / "f", os.O_CREAT | os.O_RDWR)
        other = self.open(self.b / "f", os.O_RDONLY)
        self.fails(errno.ENXIO, os.lseek, fd, 0, os.SEEK_DATA)
        os.ftruncate(fd, 10 * MIB)
        self.assertEqual(os.lseek(other, 5, os.SEEK_HOLE), 5)
        self.fails(errno.ENXIO, os.lseek, other, 5, os.SEEK_DATA)
        os.pwrite(fd, b"x" * MIB, 4 * MIB)
        for one in (fd, other):
            self.assertEqual(os.lseek(one, 0, os.SEEK_DATA), 4 * MIB)
            self.assertEqual(os.lseek(one, 4 * MIB + 7, os.SEEK_DATA), 4 * MIB + 7)
            self.assertEqual(os.lseek(one, 4 * MIB, os.SEEK_HOLE), 5 * MIB)
            self.fails(errno.ENXIO, os.lseek, one, 5 * MIB, os.SEEK_DATA)
            self.assertEqual(os.lseek(one, 5 * MIB, os.SEEK_HOLE), 5 * MIB)
            self.fails(errno.ENXIO, os.lseek, one, 10 * MIB, os.SEEK_HOLE)
        fallocate(fd, PUNCH | KEEP, 4 * MIB + 100, 512 * KIB)
        for one in (other, fd):
            self.assertEqual(os.lseek(one, 4 * MIB, os.SEEK_HOLE), 4 * MIB + PAGE)
            self.assertEqual(os.lseek(one, 4 * MIB + PAGE, os.SEEK_DATA), 4 * MIB + 512 * KIB)
        small = self.open(self.a / "small", os.O_CREAT | os.O_RDWR)
        os.pwrite(small, b"1", 0)
        os.pwrite(small, b"2", 40_000)
        same = self.open(self.b / "small", os.O_RDONLY)
        for one in (same, small):
            self.assertEqual(os.lseek(one, 0, os.SEEK_HOLE), PAGE)
            self.assertEqual(os.lseek(one, PAGE, os.SEEK_DATA), 40_000 // PAGE * PAGE)
            self.assertEqual(os.lseek(one, 40_000, os.SEEK_HOLE), 40_001)
        fallocate(small, PUNCH | KEEP, 0, 2 * PAGE)
        self.assertEqual(os.lseek(same, 0, os.SEEK_DATA), 40_000 // PAGE * PAGE)

    def test_blocks_count_what_is_there(self):
        (self.a / "empty").touch()
        self.assertEqual(os.stat(self.b / "empty").st_blocks, 0)
        for size in (10, 3000, 5000, 40 * KIB, 200 * KIB, 3 * MIB):
            (self.a / "f").write_bytes(b"x" * size)
            blocks = -(-size // PAGE) * PAGE // 512
            for side in self.sides:
                self.assertEqual(os.stat(side / "f").st_blocks, blocks, size)
            os.unlink(self.b / "f")
        fd = self.open(self.a / "f", os.O_CREAT | os.O_RDWR)
        os.ftruncate(fd, 1 << 40)
        self.assertEqual(os.stat(self.b / "f").st_blocks, 0)
        os.pwrite(fd, b"x" * MIB, 1 << 39)
        self.assertEqual(os.stat(self.b / "f").st_blocks, MIB // 512)
        fallocate(fd, PUNCH | KEEP, 1 << 39, MIB // 2)
        self.assertEqual(os.stat(self.b / "f").st_blocks, MIB // 2 // 512)
        fallocate(fd, 0, 0, 2 * MIB)
        self.assertEqual(os.stat(self.b / "f").st_blocks, (2 * MIB + MIB // 2) // 512)
        os.ftruncate(fd, MIB)
        self.assertEqual(os.stat(self.b / "f").st_blocks, MIB // 512)
        os.ftruncate(fd, 0)
        self.assertEqual(os.stat(self.b / "f").st_blocks, 0)

    def test_mapped_bytes_in_a_hole_are_gone(self):
        (self.a / "f").write_bytes(b"x" * 3 * PAGE)
        fd = self.open(self.a / "f")
        with mmap.mmap(fd, 3 * PAGE) as mapping:
            mapping[PAGE:PAGE + 5] = b"dirty"
            fallocate(fd, PUNCH | KEEP, PAGE, PAGE)
            self.assertEqual(mapping[PAGE:PAGE + 5], bytes(5))
            self.assertEqual(content_of(self.b / "f")[PAGE:2 * PAGE], bytes(PAGE))
            fallocate(self.open(self.b / "f"), ZERO, 0, PAGE)
            self.assertEqual(mapping[:PAGE], bytes(PAGE))
            self.assertEqual(mapping[2 * PAGE], ord("x"))

    def test_set_ids_go_when_somebody_without_rights_changes_the_space(self):
        for folder in (self.world.folder, self.world.folder.parent):
            os.chmod(folder, 0o711)
        (self.a / "f").write_bytes(b"x" * 2 * PAGE)
        for mode in (0, PUNCH | KEEP, ZERO | KEEP):
            os.chmod(self.a / "f", 0o6777)
            with nobody():
                fallocate(self.open(self.b / "f"), mode, 0, PAGE)
            self.assertEqual(os.stat(self.a / "f").st_mode & 0o7777, 0o777)

    def test_copies_between_files(self):
        data = random.Random(1).randbytes(300_000)
        (self.a / "from").write_bytes(data)
        source, to = self.open(self.b / "from"), self.open(self.b / "to", os.O_CREAT | os.O_RDWR)
        self.assertEqual(os.copy_file_range(source, to, 250_000, 10_000, 500), 250_000)
        self.assertEqual(content_of(self.a / "to"), bytes(500) + data[10_000:260_000])

    def test_direct_and_synchronous_writes(self):
        fd = self.open(self.a / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT | os.O_SYNC)
        with mmap.mmap(-1, 4 * PAGE) as buffer:
            for i in range(20):
                buffer[:] = bytes([i + 1]) * 4 * PAGE
                self.assertEqual(os.pwritev(fd, [buffer], i * PAGE), 4 * PAGE)
                self.assertEqual(content_of(self.b / "f")[i * PAGE:], buffer[:])


if __name__ == "__main__":
    harness.main()
