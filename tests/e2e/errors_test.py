#!/usr/bin/env python3
"""What the world may hand us: wrong arguments, foreign stores, garbage on the port, a full disk."""
import errno
import os
import random
import socket
import subprocess
import time

import harness
from harness import PLUMERIA, run


class Errors(harness.Case):
    def fails(self, code, words, *command, timeout=60):
        """The command ends with this code and one message that has all these words."""
        done = run(PLUMERIA, *command, timeout=timeout, check=False)
        self.assertEqual(done.returncode, code, f"{command}: {done.stderr}")
        for word in words.split("|"):
            self.assertIn(word, done.stderr, command)
        self.assertNotIn("CHECK", done.stderr)

    def test_wrong_arguments(self):
        store = self.world.mkfs()
        for command in ([], ["mkfs"], ["nonsense"], ["mount", store], ["status"], ["umount"],
                        ["mkfs", "x", "--log-size", "y"], ["mkfs", "x", "--log-size", "4095"],
                        ["serve", store, "--lease", "-1"], ["serve", store, "--lease", "x"],
                        ["mkfs", "x", "y"], ["mkfs", "x", "--label", "l" * 64]):
            self.fails(2, "plumeria", *command)
        for command in ("mkfs", "mount", "umount", "serve", "fsck", "status", "version"):
            self.assertIn("plumeria", run(PLUMERIA, command, "--help").stdout.lower())

    def test_stores_that_are_none(self):
        foreign = self.world.folder / "foreign"
        foreign.mkdir()
        (foreign / "precious").write_text("do not touch")
        point = self.world.folder / "m"
        point.mkdir()
        self.fails(1, "foreign", "mkfs", foreign)
        for command in (["serve", foreign], ["mount", foreign, point], ["fsck", foreign],
                        ["status", foreign]):
            self.fails(4, "foreign|not a Plumeria store", *command)
        self.assertEqual(os.listdir(foreign), ["precious"])
        self.assertEqual((foreign / "precious").read_text(), "do not touch")
        missing = self.world.folder / "missing"
        for command in (["serve", missing], ["mount", missing, point], ["fsck", missing]):
            self.fails(1, "missing", *command)
        self.assertFalse(missing.exists())
        self.fails(1, "missing", "mount", self.world.mkfs(), missing)

    def test_a_store_in_use_names_its_holder(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        other = self.world.folder / "other"
        other.mkdir()
        self.fails(3, f"{store}|{mount.popen.pid}", "serve", store)
        self.fails(3, f"{store}|{mount.popen.pid}", "mount", store, other)
        self.fails(1, "exists already", "mkfs", store)
        (mount / "f").write_text("still works")
        with open(mount / "f", encoding="utf-8"):
            self.fails(3, "busy", "umount", mount.path)
        self.fails(3, "m", "mount", store, mount.path)
        mount.umount()

    def test_nobody_at_the_address(self):
        point = self.world.folder / "m"
        point.mkdir()
        address = f"127.0.0.1:{harness.free_port()}"
        self.fails(5, address, "mount", address, point, "--timeout", "2")
        self.fails(5, address, "status", address)
        self.fails(1, "", "mount", "no.such.host.invalid:1/x", point)
        self.assertEqual(harness.mount_table().get(str(point)), None)

    def test_a_port_that_is_taken(self):
        store = self.world.mkfs()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.fails(3, "in use", "serve", store, "--listen",
                       f"127.0.0.1:{taken.getsockname()[1]}")
        server = self.world.serve(store)
        self.assertTrue(server.status()["server"]["was_clean"])

    def test_garbage_on_the_port(self):
        server, a, b = self.world.served_pair()
        chance = random.Random(7)
        idle = []
        for length in (0, 1, 7, 64, 4096, 1 << 20):
            for first in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, b"\xff" * 64):
                with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                    peer.settimeout(5)
                    try:
                        peer.sendall(first + chance.randbytes(length))
                        if length > 64:
                            while peer.recv(65536):
                                pass
                    except OSError:
                        pass
            idle.append(socket.create_connection(("127.0.0.1", server.port), 5))
            (a / "f").write_text(str(length))
            self.assertEqual((b / "f").read_text(), str(length))
        # A good beginning, then noise: what a client of ours says first, and each byte changed.
        spoken = self.record_greeting()
        for at in range(0, len(spoken), max(1, len(spoken) // 50)):
            broken = bytearray(spoken)
            broken[at] ^= 0xff
            with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                peer.settimeout(0.2)
                try:
                    peer.sendall(bytes(broken) + chance.randbytes(500))
                    peer.recv(65536)
                except OSError:
                    pass
        for peer in idle:
            peer.close()
        (a / "g").write_text("alive")
        self.assertEqual((b / "g").read_text(), "alive")
        self.assertTrue(server.alive() and a.alive() and b.alive())

    def record_greeting(self):
        """What a mount sends first."""
        point = self.world.folder / "greeting"
        point.mkdir()
        with socket.socket() as ear:
            ear.bind(("127.0.0.1", 0))
            ear.listen()
            ear.settimeout(10)
            address = f"127.0.0.1:{ear.getsockname()[1]}"
            client = subprocess.Popen([PLUMERIA, "mount", address, point, "--timeout", "1"],
                                      stderr=subprocess.DEVNULL)
            connection, _ = ear.accept()
            with connection:
                connection.settimeout(10)
                greeting = connection.recv(65536)
            client.wait(60)
        self.assertGreater(len(greeting), 4)
        return greeting

    def test_a_full_host_disk(self):
        image, disk = self.world.folder / "image", self.world.folder / "disk"
        disk.mkdir()
        with open(image, "wb") as file:
            file.truncate(96 << 20)
        run("mkfs.ext4", "-q", "-F", image)
        run("mount", "-o", "loop", image, disk)
        self.world.cleanups.append(lambda: run("umount", "-l", disk, check=False))
        store = disk / "store"
        run(PLUMERIA, "mkfs", store, "--log-size", "4M")
        mount = self.world.mount(store, "m")
        with open(mount / "kept", "wb") as kept:
            kept.write(b"k" * 100_000)
            kept.flush()
            os.fsync(kept.fileno())
        codes, files = set(), 0
        try:
            for files in range(400):
                with open(mount / f"big{files}", "wb") as file:
                    file.write(os.urandom(1 << 20))
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            codes.add(error.errno)
        self.assertEqual(codes, {errno.ENOSPC})
        self.assertGreater(files, 20)
        for i in range(5):
            try:
                (mount / f"small{i}").write_text("x")
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual((mount / "kept").read_bytes(), b"k" * 100_000)
        for i in range(files + 1):
            (mount / f"big{i}").unlink(missing_ok=True)
        self.eventually(lambda: self.space_for(mount, 4 << 20), 30, "there is space again")
        mount.umount()
        self.world.fsck(store)

    @staticmethod
    def space_for(mount, size):
        try:
            with open(mount / "again", "wb") as file:
                file.write(bytes(size))
                os.fsync(file.fileno())
            return True
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            time.sleep(0.2)
            return False


if __name__ == "__main__":
    harness.main()
