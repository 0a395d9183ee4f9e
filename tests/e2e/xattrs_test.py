#!/usr/bin/env python3
"""Extended attributes and POSIX access control lists, set on one mount and seen on the other."""
import errno
import os
import stat
import struct

import harness
from harness import NOBODY, nobody

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# Tags of acl(5), in the kernel's numbers.
OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


def acl(*entries):
    """Entries are (tag, permissions) or (tag, permissions, id)."""
    packed = [struct.pack("<HHI", tag, permissions, *(number or [0xffffffff]))
              for tag, permissions, *number in entries]
    return struct.pack("<I", 2) + b"".join(packed)


def entries_of(value):
    return [tuple(entry) for entry in struct.iter_unpack("<HHI", value[4:])]


def make(path, content=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    os.write(fd, content)
    os.close(fd)
    os.chmod(path, mode)


class Xattrs(harness.SharedCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for folder in (cls.world.folder, cls.world.folder.parent):
            os.chmod(folder, 0o711)  # Others may come in.

    def fails(self, number, call, *arguments, **options):
        with self.assertRaises(OSError) as caught:
            call(*arguments, **options)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def test_what_one_mount_sets_the_other_sees(self):
        make(self.a / "f", b"content")
        os.mkdir(self.a / "d")
        os.symlink("f", self.a / "l")
        for name in ("f", "d"):
            self.fails(errno.ENODATA, os.getxattr, self.b / name, "user.x")
            for i in range(20):
                value = bytes([i]) * (i * 9)
                os.setxattr(self.a / name, "user.x", value)
                self.assertEqual(os.getxattr(self.b / name, "user.x"), value)
            os.setxattr(self.b / name, "trusted.y", b"")
            os.setxattr(self.b / name, "security.z", b"\0\xff")
            self.assertEqual(sorted(os.listxattr(self.a / name)),
                             ["security.z", "trusted.y", "user.x"])
            self.assertEqual(os.getxattr(self.a / name, "security.z"), b"\0\xff")
            os.removexattr(self.a / name, "user.x")
            self.fails(errno.ENODATA, os.getxattr, self.b / name, "user.x")
            self.fails(errno.ENODATA, os.removexattr, self.b / name, "user.x")
        os.setxattr(self.a / "l", "trusted.of_the_link", b"1", follow_symlinks=False)
        self.assertEqual(os.listxattr(self.b / "l", follow_symlinks=False), ["trusted.of_the_link"])
        self.assertEqual((self.b / "f").read_bytes(), b"content")

    def test_flags_names_and_limits(self):
        make(self.a / "f")
        self.fails(errno.ENODATA, os.setxattr, self.a / "f", "user.x", b"", os.XATTR_REPLACE)
        os.setxattr(self.a / "f", "user.x", b"1", os.XATTR_CREATE)
        self.fails(errno.EEXIST, os.setxattr, self.b / "f", "user.x", b"", os.XATTR_CREATE)
        os.setxattr(self.b / "f", "user.x", b"2", os.XATTR_REPLACE)
        self.assertEqual(os.getxattr(self.a / "f", "user.x"), b"2")
        self.fails(errno.EOPNOTSUPP, os.setxattr, self.a / "f", "system.foo", b"")
        self.fails(errno.EOPNOTSUPP, os.setxattr, self.a / "f", "nospace", b"")
        longest = "user." + "n" * 250
        os.setxattr(self.a / "f", longest, b"v")
        self.assertEqual(os.getxattr(self.b / "f", longest), b"v")
        self.fails(errno.ENOSPC, os.setxattr, self.a / "f", "user.big", b"v" * 5000)
        self.fails(errno.ENOSPC, os.setxattr, self.a / "f", "user.big", b"v" * 65536)
        os.setxattr(self.a / "f", "user.big", b"v" * 3500)
        self.assertEqual(os.getxattr(self.b / "f", "user.big"), b"v" * 3500)
        with nobody():
            self.assertEqual(sorted(os.listxattr(self.b / "f")),
                             sorted(["user.big", "user.x", longest]))
            self.fails(errno.EACCES, os.setxattr, self.b / "f", "user.x", b"")

    def test_they_change_ctime_alone_and_go_with_the_file(self):
        make(self.a / "f", b"1")
        before = os.stat(self.b / "f")
        os.setxattr(self.a / "f", "user.x", b"1")
        after = os.stat(self.b / "f")
        self.assertGreater(after.st_ctime_ns, before.st_ctime_ns)
        self.assertEqual(after.st_mtime_ns, before.st_mtime_ns)
        os.rename(self.b / "f", self.b / "g")
        os.link(self.a / "g", self.a / "h")
        self.assertEqual(os.getxattr(self.b / "h", "user.x"), b"1")
        for i in range(200):  # Their blocks are given back.
            make(self.a / "t", b"")
            os.setxattr(self.b / "t", "user.x", bytes(2000))
            os.unlink(self.a / "t")
        make(self.b / "t")
        self.assertEqual(os.listxattr(self.a / "t"), [])

    def test_an_access_list_and_the_mode_say_the_same(self):
        make(self.a / "f", b"secret", 0o640)
        self.fails(errno.ENODATA, os.getxattr, self.b / "f", ACCESS)
        value = acl((OWNER, 6), (USER, 7, NOBODY), (OWNING_GROUP, 4), (MASK, 5), (OTHER, 0))
        os.setxattr(self.a / "f", ACCESS, value)
        self.assertEqual(os.getxattr(self.b / "f", ACCESS), value)
        self.assertEqual(stat.S_IMODE(os.stat(self.b / "f").st_mode), 0o650)
        os.chmod(self.b / "f", 0o620)
        self.assertEqual(entries_of(os.getxattr(self.a / "f", ACCESS)),
                         entries_of(acl((OWNER, 6), (USER, 7, NOBODY), (OWNING_GROUP, 4),
                                        (MASK, 2), (OTHER, 0))))
        # What permission bits can say is no list.
        os.setxattr(self.a / "f", ACCESS, acl((OWNER, 7), (OWNING_GROUP, 5), (OTHER, 1)))
        self.assertEqual(stat.S_IMODE(os.stat(self.b / "f").st_mode), 0o751)
        self.fails(errno.ENODATA, os.getxattr, self.b / "f", ACCESS)
        out_of_order = acl((OTHER, 1), (OWNING_GROUP, 5), (OWNER, 7))
        self.fails(errno.EINVAL, os.setxattr, self.a / "f", ACCESS, out_of_order)
        self.fails(errno.EACCES, os.setxattr, self.a / "f", DEFAULT,
                   acl((OWNER, 7), (OWNING_GROUP, 5), (OTHER, 1)))

    def test_the_kernel_of_each_mount_checks_by_the_list_of_now(self):
        make(self.a / "f", b"secret", 0o600)
        granted = acl((OWNER, 6), (USER, 4, NOBODY), (OWNING_GROUP, 0), (MASK, 4), (OTHER, 0))
        refused = acl((OWNER, 6), (USER, 0, NOBODY), (OWNING_GROUP, 0), (MASK, 4), (OTHER, 4))
        for _ in range(20):
            os.setxattr(self.a / "f", ACCESS, granted)
            with nobody():
                self.assertEqual((self.b / "f").read_bytes(), b"secret")
            os.setxattr(self.a / "f", ACCESS, refused)
            with nobody():
                self.fails(errno.EACCES, (self.b / "f").read_bytes)
            os.chmod(self.a / "f", 0o614)
            with nobody():
                self.fails(errno.EACCES, (self.b / "f").read_bytes)
            os.removexattr(self.a / "f", ACCESS)
            with nobody():
                self.assertEqual((self.b / "f").read_bytes(), b"secret")
            os.chmod(self.a / "f", 0o600)

    def test_new_files_inherit_the_default_list(self):
        os.mkdir(self.a / "d")
        value = acl((OWNER, 7), (USER, 7, NOBODY), (OWNING_GROUP, 5), (MASK, 7), (OTHER, 0))
        os.setxattr(self.a / "d", DEFAULT, value)
        umask = os.umask(0o077)  # It has no part in it.
        try:
            os.close(os.open(self.b / "d" / "f", os.O_CREAT | os.O_WRONLY, 0o664))
            os.mkdir(self.b / "d" / "sub", 0o750)
            os.mknod(self.b / "d" / "pipe", 0o666 | stat.S_IFIFO)
            os.symlink("f", self.b / "d" / "link")
            os.mkdir(self.b / "plain", 0o777)
        finally:
            os.umask(umask)
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "d" / "f").st_mode), 0o660)
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "d" / "pipe").st_mode), 0o660)
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "plain").st_mode), 0o700)
        self.assertEqual(entries_of(os.getxattr(self.a / "d" / "f", ACCESS)),
                         entries_of(acl((OWNER, 6), (USER, 7, NOBODY), (OWNING_GROUP, 5),
                                        (MASK, 6), (OTHER, 0))))
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "d" / "sub").st_mode), 0o750)
        self.assertEqual(os.getxattr(self.a / "d" / "sub", DEFAULT), value)
        with nobody():
            os.close(os.open(self.a / "d" / "f", os.O_RDWR))
        os.setxattr(self.b / "d", DEFAULT, acl((OWNER, 7), (OWNING_GROUP, 0), (OTHER, 0)))
        make(self.a / "d" / "g", mode=0o600)
        self.assertEqual(os.listxattr(self.b / "d" / "g"), [])
        os.removexattr(self.a / "d", DEFAULT)
        self.assertEqual(os.listxattr(self.b / "d"), [])

    def test_a_list_that_is_too_long_to_be_inherited_twice(self):
        os.mkdir(self.a / "d")
        named = [(USER, 7, 10_000 + i) for i in range(300)]
        os.setxattr(self.a / "d", DEFAULT,
                    acl((OWNER, 7), *named, (OWNING_GROUP, 5), (MASK, 7), (OTHER, 0)))
        make(self.b / "d" / "f")
        self.assertEqual(len(entries_of(os.getxattr(self.a / "d" / "f", ACCESS))), 304)
        self.fails(errno.ENOSPC, os.mkdir, self.b / "d" / "sub")
        self.assertEqual(os.listdir(self.a / "d"), ["f"])

    def test_set_ids_and_capabilities_go_when_others_write(self):
        make(self.a / "f", b"1", 0o777)
        capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
        os.setxattr(self.a / "f", "security.capability", capability)
        os.chmod(self.a / "f", 0o6777)
        with nobody():
            with open(self.b / "f", "r+b") as file:
                file.write(b"2")
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "f").st_mode), 0o777)
        self.assertEqual(os.listxattr(self.a / "f"), [])
        os.setxattr(self.a / "f", "security.capability", capability)
        os.chown(self.b / "f", NOBODY, NOBODY)
        self.assertEqual(os.listxattr(self.a / "f"), [])


if __name__ == "__main__":
    harness.main()
