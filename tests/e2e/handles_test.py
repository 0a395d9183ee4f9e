#!/usr/bin/env python3
"""File handles (name_to_handle_at(2)), as NFS servers keep them: what they name is found on every
mount, under whatever name it has by then, also after the mount was made anew."""
import ctypes
import errno
import os

import harness

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
MAX_HANDLE_SZ = 128
libc = ctypes.CDLL(None, use_errno=True)


class FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int),
                ("handle", ctypes.c_char * MAX_HANDLE_SZ)]


def handle_of(path):
    handle = FileHandle(bytes=MAX_HANDLE_SZ)
    mount_id = ctypes.c_int()
    if libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle),
                              ctypes.byref(mount_id), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def open_handle(mount, handle, flags=os.O_RDONLY):
    at = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = libc.open_by_handle_at(at, ctypes.byref(handle), flags)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return fd
    finally:
        os.close(at)


def forget_names():
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")


def content_of(mount, handle):
    fd = open_handle(mount, handle)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


class Handles(harness.SharedCase):
    def test_a_handle_is_good_on_each_mount(self):
        (self.a / "f").write_bytes(b"content")
        handle = handle_of(self.a / "f")
        for mount in self.mounts:
            self.assertEqual(content_of(mount, handle), b"content")
        os.mkdir(self.b / "d")
        os.rename(self.b / "f", self.b / "d" / "g")
        forget_names()
        for mount in self.mounts:
            self.assertEqual(content_of(mount, handle), b"content")
        os.unlink(self.a / "d" / "g")
        forget_names()
        for mount in self.mounts:
            with self.assertRaises(OSError) as caught:
                content_of(mount, handle)
            self.assertEqual(caught.exception.errno, errno.ESTALE)

    def test_directories_have_their_parents(self):
        os.makedirs(self.a / "x" / "y" / "z")
        (self.a / "x" / "y" / "z" / "f").write_bytes(b"1")
        handle = handle_of(self.a / "x" / "y" / "z")
        forget_names()
        for mount in self.mounts:
            fd = open_handle(mount, handle, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self.assertEqual(os.listdir(fd), ["f"])
                self.assertTrue(os.readlink(f"/proc/self/fd/{fd}").endswith("/x/y/z"))
            finally:
                os.close(fd)

    def test_a_number_used_again_is_another_file(self):
        handles = []
        for i in range(300):
            (self.a / "f").write_bytes(b"%d" % i)
            handles.append(handle_of(self.a / "f"))
            os.unlink(self.a / "f")
        forget_names()
        for handle in handles:
            for mount in self.mounts:
                with self.assertRaises(OSError) as caught:
                    content_of(mount, handle)
                self.assertEqual(caught.exception.errno, errno.ESTALE)


class Remount(harness.Case):
    def test_a_handle_outlives_its_mount(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "d").mkdir()
        (mount / "d" / "f").write_bytes(b"content")
        handle = handle_of(mount / "d" / "f")
        mount.umount()
        mount = self.world.mount(store, "m")
        self.assertEqual(content_of(mount, handle), b"content")
        mount.umount()


if __name__ == "__main__":
    harness.main()
