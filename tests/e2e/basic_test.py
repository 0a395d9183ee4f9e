#!/usr/bin/env python3
"""Two mounts of one served store, and the embedded mount: what one does the other sees at once."""
import errno
import fcntl
import mmap
import os
import stat
import unittest

import harness


class TwoMounts(harness.Case):
    def setUp(self):
        super().setUp()
        self.server, self.a, self.b = self.world.served_pair()

    def test_a_file_and_its_bytes_are_seen_at_once(self):
        for i in range(50):
            (self.a / f"f{i}").write_bytes(b"x" * (i * 300))
            self.assertEqual((self.b / f"f{i}").read_bytes(), b"x" * (i * 300))
        self.assertEqual(sorted(os.listdir(self.b.path)), sorted(f"f{i}" for i in range(50)))

    def test_an_absent_name_appears_and_a_present_one_goes(self):
        for i in range(50):
            self.assertFalse((self.b / "name").exists())
            (self.a / "name").touch()
            self.assertTrue((self.b / "name").exists())
            (self.a / "name").unlink()

    def test_a_held_descriptor_reads_what_was_just_written(self):
        with open(self.a / "f", "w+b", buffering=0) as writer:
            writer.write(b"0" * 8192)
            with open(self.b / "f", "rb", buffering=0) as reader:
                for i in range(200):
                    os.pwrite(writer.fileno(), b"%07d" % i, 4093)
                    self.assertEqual(os.pread(reader.fileno(), 7, 4093), b"%07d" % i)

    def test_attributes_follow(self):
        (self.a / "f").write_bytes(b"12345")
        os.chmod(self.b / "f", 0o640)
        self.assertEqual(stat.S_IMODE(os.stat(self.a / "f").st_mode), 0o640)
        os.chown(self.a / "f", 12, 34)
        self.assertEqual((os.stat(self.b / "f").st_uid, os.stat(self.b / "f").st_gid), (12, 34))
        os.utime(self.b / "f", ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
        seen = os.stat(self.a / "f")
        self.assertEqual((seen.st_atime_ns, seen.st_mtime_ns),
                         (1_500_000_000_123_456_789, 1_400_000_000_987_654_321))

    def test_truncate_and_append(self):
        (self.a / "f").write_bytes(b"a" * 10000)
        os.truncate(self.b / "f", 5000)
        self.assertEqual(os.stat(self.a / "f").st_size, 5000)
        os.truncate(self.a / "f", 9000)
        self.assertEqual((self.b / "f").read_bytes(), b"a" * 5000 + b"\0" * 4000)
        ours = os.open(self.a / "f", os.O_WRONLY | os.O_APPEND)
        theirs = os.open(self.b / "f", os.O_WRONLY | os.O_APPEND)
        for i in range(100):
            os.write(ours, b"A%03d" % i)
            os.write(theirs, b"B%03d" % i)
        os.close(ours)
        os.close(theirs)
        wanted = b"".join(b"A%03dB%03d" % (i, i) for i in range(100))
        self.assertEqual((self.a / "f").read_bytes()[9000:], wanted)
        self.assertEqual((self.b / "f").read_bytes()[9000:], wanted)

    def test_a_write_beyond_what_the_host_can_hold_is_refused_at_once(self):
        with open(self.a / "sparse", "wb", buffering=0) as file:
            os.pwrite(file.fileno(), b"x", 1 << 40)
            with self.assertRaises(OSError) as caught:
                os.pwrite(file.fileno(), b"x", (1 << 63) - 2)
            self.assertEqual(caught.exception.errno, errno.EFBIG)
            os.fsync(file.fileno())
        self.assertEqual(os.stat(self.b / "sparse").st_size, (1 << 40) + 1)

    def test_directories_links_and_renames(self):
        os.mkdir(self.a / "d")
        (self.b / "d" / "x").write_text("x")
        os.rename(self.a / "d" / "x", self.a / "y")
        self.assertEqual(os.listdir(self.b / "d"), [])
        os.link(self.b / "y", self.b / "d" / "z")
        self.assertEqual(os.stat(self.a / "y").st_nlink, 2)
        self.assertEqual(os.stat(self.a / "y").st_ino, os.stat(self.b / "d" / "z").st_ino)
        os.symlink("d/z", self.a / "s")
        self.assertEqual(os.readlink(self.b / "s"), "d/z")
        self.assertEqual((self.b / "s").read_text(), "x")
        with self.assertRaises(OSError) as caught:
            os.rmdir(self.b / "d")
        self.assertEqual(caught.exception.errno, errno.ENOTEMPTY)
        (self.a / "other").write_text("old")
        os.rename(self.b / "y", self.b / "other")
        self.assertEqual((self.a / "other").read_text(), "x")
        os.unlink(self.a / "d" / "z")
        os.rmdir(self.b / "d")
        self.assertEqual(sorted(os.listdir(self.a.path)), ["other", "s"])

    def test_a_file_unlinked_elsewhere_stays_while_it_is_open(self):
        (self.a / "f").write_bytes(b"still here")
        with open(self.b / "f", "r+b") as held:
            os.unlink(self.a / "f")
            self.assertFalse((self.b / "f").exists())
            self.assertEqual(held.read(), b"still here")
            os.pwrite(held.fileno(), b"STILL", 0)
            self.assertEqual(os.pread(held.fileno(), 10, 0), b"STILL here")
            self.assertEqual(os.fstat(held.fileno()).st_nlink, 0)

    def test_shared_mappings(self):
        (self.a / "f").write_bytes(b"\0" * 65536)
        with open(self.a / "f", "r+b") as one, open(self.b / "f", "r+b") as two:
            ours = mmap.mmap(one.fileno(), 65536)
            theirs = mmap.mmap(two.fileno(), 65536)
            for i in range(100):
                ours[4096:4104] = b"%08d" % i
                self.assertEqual(theirs[4096:4104], b"%08d" % i)
                theirs[8192:8200] = b"%08d" % i
                self.assertEqual(os.pread(one.fileno(), 8, 8192), b"%08d" % i)
            ours.close()
            theirs.close()

    def test_file_locks_across_mounts(self):
        for lock in (fcntl.flock, fcntl.lockf):
            (self.a / "l").touch()
            with open(self.a / "l", "r+b") as one, open(self.b / "l", "r+b") as two:
                lock(one, fcntl.LOCK_EX)
                # fcntl locks belong to a process: the other side must be another one.
                child = os.fork()
                if child == 0:
                    try:
                        lock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os._exit(1)
                    except OSError as error:
                        os._exit(0 if error.errno in (errno.EAGAIN, errno.EACCES) else 2)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, lock)
                lock(one, fcntl.LOCK_UN)
                lock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock(two, fcntl.LOCK_UN)

    def test_a_large_directory_lists_everything_once(self):
        os.mkdir(self.a / "d")
        names = {f"a rather long name of a file, number {i:05d}" for i in range(5000)}
        for name in names:
            (self.a / "d" / name).touch()
        seen = os.listdir(self.b / "d")
        self.assertEqual(len(seen), 5000)
        self.assertEqual(set(seen), names)
        for name in sorted(names)[::2]:
            os.unlink(self.b / "d" / name)
        self.assertEqual(len(os.listdir(self.a / "d")), 2500)

    def test_everything_is_there_after_all_went_and_came_back(self):
        (self.a / "small").write_bytes(b"s" * 1000)
        (self.b / "large").write_bytes(os.urandom(3_000_000))
        large = (self.b / "large").read_bytes()
        self.a.umount()
        self.b.umount()
        self.server.stop()
        self.world.fsck(self.server.store)
        server = self.world.serve(self.server.store)
        a = self.world.mount(server, "a")
        self.assertEqual((a / "small").read_bytes(), b"s" * 1000)
        self.assertEqual((a / "large").read_bytes(), large)

    def test_status_tells_about_mounts_and_locks(self):
        (self.a / "f").write_text("x")
        (self.b / "f").read_text()
        server = self.server.status()["server"]
        self.assertEqual(len([l for l in server["leases"] if l["state"] == "live"]), 2 +
                         self.server_leases(server))
        mount = self.a.status()["mount"]
        self.assertEqual(mount["lease"]["state"], "live")
        self.assertGreater(mount["locks"]["exclusive"] + mount["locks"]["shared"], 0)
        self.assertGreaterEqual(mount["locks"]["revokes"], 1)
        self.assertIn("lease", harness.run(harness.PLUMERIA, "status", self.a.path).stdout)

    @staticmethod
    def server_leases(server):
        """The lock server's own lease, if it is listed with those of the mounts."""
        return len([l for l in server["leases"] if not l["label"].count(":")])


class Embedded(harness.Case):
    def test_mount_work_unmount_mount_again(self):
        store = self.world.mkfs("store", "--label", "one machine")
        mount = self.world.mount(store, "m")
        os.mkdir(mount / "d")
        (mount / "d" / "f").write_bytes(b"1" * 100_000)
        mount.umount()
        self.world.fsck(store)
        self.assertEqual(self.world.status(store)["store"]["label"], "one machine")
        mount = self.world.mount(store, "m")
        self.assertEqual((mount / "d" / "f").read_bytes(), b"1" * 100_000)

    def test_the_command_returns_when_the_mount_is_usable(self):
        store = self.world.mkfs()
        point = self.world.folder / "m"
        point.mkdir()
        log = self.world.folder / "daemon.log"
        harness.run(harness.PLUMERIA, "mount", store, point, "--log", log)
        self.world.cleanups.append(
            lambda: harness.run("umount", "-l", point, check=False))
        (point / "f").write_text("usable")
        pid = self.world.status(point)["pid"]
        harness.run(harness.PLUMERIA, "umount", point)
        self.eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the daemon ends")
        self.assertNotIn(str(point), harness.mount_table())

    def test_kernel_unmount_writes_back_too(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "f").write_bytes(b"2" * 1_000_000)
        harness.run("umount", mount.path)
        self.assertEqual(mount.wait(), 0)
        self.world.fsck(store)
        mount = self.world.mount(store, "m")
        self.assertEqual((mount / "f").read_bytes(), b"2" * 1_000_000)

    def test_sigterm_is_a_clean_unmount(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "f").write_bytes(b"3" * 1_000_000)
        mount.signal(15)
        self.assertEqual(mount.wait(), 0)
        self.assertNotIn(str(mount.path), harness.mount_table())
        mount = self.world.mount(store, "m")
        self.assertEqual((mount / "f").read_bytes(), b"3" * 1_000_000)


if __name__ == "__main__":
    harness.main()
