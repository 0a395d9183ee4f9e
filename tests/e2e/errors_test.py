#!/usr/bin/env python3
"""What the world may hand us: wrong arguments, foreign stores, garbage on the port, a full disk."""
import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
from harness import PLUMERIA, TREE, run

fork = multiprocessing.get_context("fork")
VERSION = 4
GREETING_CHECKSUM = "66aa7c787c3e9ada"  # XXH3 of the 40 bytes before it


def greeting(version=VERSION):
    """The handshake of docs/protocol.md, "Connections"."""
    said = struct.pack("<8sIIQQQ", b"PLUMERIA", version, 0, 0, 0, 0)
    if version == VERSION:
        return said + bytes.fromhex(GREETING_CHECKSUM)
    return said + bytes(8)


def resident_size(process):
    with open(f"/proc/{process.popen.pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Errors(harness.Case):
    seconds = 180

    def fails(self, code, words, *command, timeout=60):
        """The command ends with this code and one message that has all these words."""
        done = run(PLUMERIA, *command, timeout=timeout, check=False)
        if code is None:
            self.assertIn(done.returncode, (1, 4), f"{command}: {done.stderr}")
        else:
            self.assertEqual(done.returncode, code, f"{command}: {done.stderr}")
        for word in words.split("|"):
            self.assertIn(word, done.stderr, command)
        self.assertNotIn("CHECK", done.stderr)

    def test_wrong_arguments(self):
        store = self.world.mkfs()
        point = self.world.folder / "m"
        point.mkdir()
        file = self.world.folder / "file"
        file.touch()
        label = "l" * 64
        # What the message must name, and the command.
        for words, *command in (
                ("a command",), ("nonsense", "nonsense"), ("--nonsense", "--nonsense"),
                ("STORE", "mkfs"), ("STORE", "mkfs", ""), ("y", "mkfs", "x", "y"),
                ("--log-size|zzz", "mkfs", "x", "--log-size", "zzz"),
                ("--log-size|4095", "mkfs", "x", "--log-size", "4095"),
                ("--log-size|1048577|4096", "mkfs", "x", "--log-size", "1048577"),
                ("--log-size|-5", "mkfs", "x", "--log-size", "-5"),
                ("--log-size|99999999999999999999", "mkfs", "x", "--log-size", "9" * 20),
                ("--log-size", "mkfs", "x", "--log-size"),
                ("--lease|0.5|between 1", "mkfs", "x", "--lease", "0.5"),
                ("--lease|nan", "mkfs", "x", "--lease", "nan"),
                ("--label|63", "mkfs", "x", "--label", label),
                ("TARGET", "mount"), ("DIR", "mount", store),
                ("extra", "mount", store, point, "extra"),
                ("-o|bogus", "mount", store, point, "-o", "ro,bogus"),
                ("--cache-size|1k|8388608", "mount", store, point, "--cache-size", "1k"),
                ("--timeout|-1", "mount", store, point, "--timeout", "-1"),
                ("127.0.0.1:99999", "mount", "127.0.0.1:99999", point),
                ("inside one another", "mount", store, store),
                ("STORE", "serve"), ("--lease|-1", "serve", store, "--lease", "-1"),
                ("--lease|x", "serve", store, "--lease", "x"),
                ("--listen|nowhere:x", "serve", store, "--listen", "nowhere:x"),
                ("192.0.2.1:80|no address of this machine", "serve", store, "--listen",
                 "192.0.2.1:80"),
                ("DIR", "umount"), ("--timeout|x", "umount", point, "--timeout", "x"),
                ("STORE", "fsck"), ("--findings|x", "fsck", store, "--findings", "x"),
                ("STORE", "logdump"), ("--slot|-1", "logdump", store, "--slot", "-1"),
                ("DIR", "bench"), ("--threads|0", "bench", store, "--threads", "0"),
                ("TARGET", "status"), ("extra", "version", "extra")):
            self.fails(2, "plumeria: |" + words, *command)
        for words, *command in (
                ("missing", "mkfs", self.world.folder / "missing/x"), ("file", "mkfs", file),
                ("missing", "mount", store, self.world.folder / "missing"),
                ("file", "mount", store, file), ("file", "mount", file, point),
                ("./none|mkfs makes a store", "mount", "./none", point),
                ("/none/log", "mount", store, point, "--log", "/none/log"),
                ("/none/pid", "serve", store, "--pid-file", "/none/pid"),
                ("m|no Plumeria file system", "umount", point), ("file", "umount", file),
                ("file", "fsck", file), ("file", "status", file),
                ("unix:/none/s", "serve", store, "--listen", "unix:/none/s")):
            self.fails(1, "plumeria: |" + words, *command)
        self.assertFalse((self.world.folder / "x").exists() or os.path.exists("x"))

    def test_help_is_enough(self):
        text = run(PLUMERIA, "--help").stdout
        for command in ("mkfs", "mount", "umount", "serve", "fsck", "status", "lock", "locks",
                        "who", "logdump", "bench", "version"):
            help_text = run(PLUMERIA, command, "--help").stdout
            self.assertRegex(text, f"(?m)^ +{command} +{re.escape(help_text.splitlines()[0])}")
            if command != "version":
                self.assertIn("Exit codes", help_text)
            if os.path.exists(TREE / f"man/plumeria-{command}.1"):
                manual = (TREE / f"man/plumeria-{command}.1").read_text()
                for option in re.findall(r"(--[a-z][a-z-]+)", help_text):
                    if not manual.startswith(".so") and option != "--help":
                        self.assertIn(option.replace("-", "\\-"), manual, command)
                self.assertTrue(".SH EXIT STATUS" in manual or manual.startswith(".so"))
        self.assertIn("store format", run(PLUMERIA, "version").stdout)

    def test_mount_points(self):
        store = self.world.mkfs()
        full = self.world.folder / "full"
        full.mkdir()
        (full / "precious").touch()
        self.fails(1, "full|nonempty", "mount", store, full)
        mount = self.world.mount(store, "full", "-o", "nonempty")
        self.assertEqual(os.listdir(full), [])
        other = self.world.mkfs("other")
        self.fails(3, "full|mounted here already", "mount", other, full)
        # A daemon that hangs is not taken for one that is dead.
        mount.signal(signal.SIGSTOP)
        self.fails(3, "full|mounted here already", "mount", other, full)
        self.fails(5, "full|does not answer", "status", full)
        mount.signal(signal.SIGCONT)
        mount.kill()
        self.fails(5, "full|has died", "status", full)
        mount = self.world.mount(store, "full", "-o", "nonempty")  # over the dead one
        (mount / "works").touch()
        mount.kill()
        done = run(PLUMERIA, "umount", full, timeout=10)
        self.assertIn("had died", done.stderr)
        self.assertEqual(os.listdir(full), ["precious"])

    def test_stores_that_are_none(self):
        foreign = self.world.folder / "foreign"
        foreign.mkdir()
        (foreign / "precious").write_text("do not touch")
        point = self.world.folder / "m"
        point.mkdir()
        self.fails(1, "foreign|precious", "mkfs", foreign)
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

    def test_stores_of_another_version_or_in_pieces(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "f").write_text("x")
        mount.umount()
        commands = (["serve", store], ["mount", store, mount.path], ["fsck", store],
                    ["status", store])
        identity = (store / "store").read_bytes()
        # Each file of the store itself, damaged in several ways.
        regions = "segments/regions/"
        for name, damages in {
                "store": (b"", b"a shop\n", identity[:-3], identity.replace(b"e", b"f")),
                "state": (b"", b"\0" * 32768, b"\xff" * 32768),
                "leases": (b"", b"\0" * 32768, b"\xff" * 32768, b"x"),
                "registers/view": (b"", b"\xff" * 32768),
                "registers/server": (b"\xff" * 32768,),
                regions + "0" * 16: (b"", b"\xff" * 4096, b"PLMB" + bytes(4092)),
        }.items():
            whole = (store / name).read_bytes()
            for damage in damages:
                (store / name).write_bytes(damage)
                for command in commands:
                    if command[0] == "status" and name.startswith("registers/"):
                        continue  # It does not look at them.
                    self.fails(4, str(store), *command)
                self.assertEqual((store / name).read_bytes(), damage)  # Nothing was overwritten.
                (store / name).write_bytes(whole)
        (store / "store").write_bytes(identity.replace(b"format 1", b"format 7"))
        for command in commands:
            self.fails(4, f"{store}|format 7|up to 2", *command)
        (store / "store").write_bytes(identity)
        for name in ("state", "leases", "registers", "segments"):
            os.rename(store / name, self.world.folder / "aside")
            for command in commands[:3]:
                self.fails(None, f"{store}/{name}", *command)
            os.rename(self.world.folder / "aside", store / name)
        mount = self.world.mount(store, "m")
        self.assertEqual((mount / "f").read_text(), "x")
        mount.umount()
        self.world.fsck(store)

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
        unknown = "no.such.host.invalid"
        self.fails(5, f"{unknown}|cannot find host", "mount", unknown, point, "--timeout", "2")
        self.fails(5, f"{unknown}|cannot find host", "status", f"{unknown}:7411")
        self.fails(5, f"{unknown}|cannot find host", "serve", self.world.mkfs(), "--listen",
                   f"{unknown}:7411")
        self.fails(5, "nodirectory|no directory of this name", "status", "nodirectory")
        self.fails(1, "", "mount", "no.such.host.invalid:1/x", point)
        self.assertEqual(harness.mount_table().get(str(point)), None)

    def test_somebody_else_at_the_address(self):
        """Neither a web server, nor one who never answers, nor a server of another version."""
        point = self.world.folder / "m"
        point.mkdir()
        newer = greeting(version=7)
        for answer, words in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak"),
                              (newer, "version 7|version 4"), (b"", "did not greet"),
                              (greeting() + b"\xff" * 1000, "not a message")):
            with socket.socket() as ear:
                ear.bind(("127.0.0.1", 0))
                ear.listen()
                address = f"127.0.0.1:{ear.getsockname()[1]}"
                stop = threading.Event()

                def serve(listener=ear, said=answer, ended=stop):
                    listener.settimeout(0.1)
                    peers = []
                    while not ended.is_set():
                        try:
                            peers.append(listener.accept()[0])
                            peers[-1].sendall(said)
                        except OSError:
                            pass
                    for peer in peers:
                        peer.close()

                server = threading.Thread(target=serve)
                server.start()
                try:
                    self.fails(5, f"{address}|{words}", "mount", address, point, "--timeout", "7")
                    self.fails(5, address, "status", address)
                finally:
                    stop.set()
                    server.join()

    def test_a_port_that_is_taken(self):
        store = self.world.mkfs()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.fails(3, "in use", "serve", store, "--listen",
                       f"127.0.0.1:{taken.getsockname()[1]}")
        server = self.world.serve(store)
        self.assertTrue(server.status()["server"]["was_clean"])

    def test_another_store_at_the_same_address(self):
        """Its mounts wait, and touch nothing of it; with the right one they go on."""
        server = self.world.serve(self.world.mkfs("one"), lease=2)
        a = self.world.mount(server, "a")
        (a / "f").write_text("one")
        with open(a / "f", "rb") as file:
            os.fsync(file.fileno())
        (a / "dirty").write_text("dirty")
        server.kill()
        # Alike in all numbers: leases, slots, epochs, incarnations.
        other = self.world.serve(self.world.mkfs("two"), lease=2, port=server.port)
        b = self.world.mount(other, "b")
        (b / "f").write_text("two")
        self.eventually(lambda: "serves another store" in a.messages(), 20, "a has noticed")
        time.sleep(3)
        self.assertEqual((b / "f").read_text(), "two")
        self.assertEqual(os.listdir(b.path), ["f"])
        b.umount()
        other.stop()
        self.world.fsck(other.store)
        server = self.world.serve(server.store, lease=2, port=server.port)
        self.assertEqual((a / "f").read_text(), "one")
        self.assertEqual((a / "dirty").read_text(), "dirty")
        self.assertEqual(a.status()["mount"]["rejoins"], 0)
        a.umount()
        server.stop()
        self.world.fsck(server.store)

    def test_garbage_on_the_port(self):
        server, a, b = self.world.served_pair()
        chance = random.Random(7)
        idle = []
        beginnings = (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, b"\xff" * 64,
                      greeting(), greeting(version=1), greeting(version=0), greeting()[:47])
        for length in (0, 1, 7, 64, 4096, 1 << 20):
            for first in beginnings:
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
        # A good beginning, then noise: what a client of ours says first, and each byte changed,
        # or cut off there.
        spoken = self.record_greeting()
        self.assertTrue(spoken.startswith(greeting()))
        for at in range(0, len(spoken), max(1, len(spoken) // 50)):
            broken = bytearray(spoken)
            broken[at] ^= 0xff
            for said in (bytes(broken) + chance.randbytes(500), spoken[:at]):
                with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                    peer.settimeout(0.2)
                    try:
                        peer.sendall(said)
                        peer.recv(65536)
                    except OSError:
                        pass
        # Many who greet and begin a large message, byte by byte: nobody else is held up, and the
        # server's memory does not follow what they claim.
        before = resident_size(server)
        frame = spoken[len(greeting()):]
        for _ in range(300):
            idle.append(socket.create_connection(("127.0.0.1", server.port), 5))
            idle[-1].sendall(greeting() + frame[:20])
        start = time.monotonic()
        for i in range(20):
            (a / "g").write_text(str(i))
            self.assertEqual((b / "g").read_text(), str(i))
        self.assertLess(time.monotonic() - start, 5)
        self.assertLess(resident_size(server) - before, 100 << 20)
        for peer in idle:
            peer.close()
        self.assertIn("speaks protocol version 1, this program speaks version 4",
                      server.messages())
        self.assertTrue(server.alive() and a.alive() and b.alive())
        for mount in (a, b):
            self.assertEqual(mount.status()["mount"]["rejoins"], 0)
            mount.umount()
        server.stop()
        self.world.fsck(server.store)

    def record_greeting(self):
        """What a mount sends first."""
        point = self.world.folder / "greeting"
        point.mkdir()
        with socket.socket() as ear:
            ear.bind(("127.0.0.1", 0))
            ear.listen()
            ear.settimeout(10)
            address = f"127.0.0.1:{ear.getsockname()[1]}"
            client = subprocess.Popen([PLUMERIA, "mount", address, point, "--timeout", "3"],
                                      stderr=subprocess.DEVNULL)
            connection, _ = ear.accept()
            with connection:
                connection.settimeout(1)
                connection.sendall(greeting())  # It says more when it has been greeted.
                said = b""
                try:
                    while part := connection.recv(65536):
                        said += part
                except OSError:
                    pass
            client.wait(60)
        self.assertGreater(len(said), 64)
        return said

    def test_a_store_that_vanishes(self):
        """The server ends and says why; nothing is acknowledged meanwhile, and nothing is lost."""
        server, a, b = self.world.served_pair(lease=2)
        (a / "dirty").write_text("dirty")
        aside = self.world.folder / "aside"
        os.rename(server.store, aside)
        synced = fork.RawArray("i", 2)

        def write(index, mount):
            with open(mount / f"new{index}", "wb") as file:
                file.write(b"x" * 100_000)
                file.flush()
                os.fsync(file.fileno())
            synced[index] = 1

        writers = [fork.Process(target=write, args=one) for one in enumerate((a, b))]
        for writer in writers:
            writer.start()
        self.assertEqual(server.wait(), 1)
        self.assertIn(f"{server.store} is not there any more", server.messages())
        time.sleep(3)
        self.assertEqual(list(synced), [0, 0], "an fsync succeeded into nowhere")
        os.rename(aside, server.store)
        server = self.world.serve(server.store, lease=2, port=server.port)
        for writer in writers:
            writer.join(30)
            self.assertEqual(writer.exitcode, 0)
        for mount in (a, b):
            self.assertEqual((mount / "dirty").read_text(), "dirty")
            for index in range(2):
                self.assertEqual((mount / f"new{index}").read_bytes(), b"x" * 100_000)
        for mount in (a, b):
            mount.umount()
        server.stop()
        self.world.fsck(server.store)

    def test_the_store_of_an_embedded_mount_is_removed(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "old").write_text("old")
        shutil.rmtree(store)
        for size in (10, 100_000):
            with self.assertRaises(OSError) as caught:
                with open(mount / f"new{size}", "wb") as file:
                    file.write(b"x" * size)
                    file.flush()
                    os.fsync(file.fileno())
            self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertIn(f"{store} is not there any more", mount.messages())
        done = run(PLUMERIA, "umount", mount.path, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(str(store), done.stderr)
        self.assertEqual(mount.wait(), 1)

    def test_a_read_only_host_directory(self):
        disk = self.world.folder / "disk"
        disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=100m", "none", disk)
        store = disk / "store"
        run(PLUMERIA, "mkfs", store, "--log-size", "1M")
        mount = self.world.mount(store, "m")
        (mount / "f").write_text("x")
        mount.umount()
        run("mount", "-o", "remount,ro", disk)
        for command in (["mkfs", disk / "other"], ["serve", store], ["mount", store, mount.path]):
            self.fails(1, f"{disk}|read-only", *command)
        self.assertIn("clean", run(PLUMERIA, "fsck", store).stdout)
        self.assertIn("not in use", run(PLUMERIA, "status", store).stdout)

    def small_disk(self, kind):
        """A host file system of 96 MiB."""
        disk = self.world.folder / "disk"
        disk.mkdir()
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", "size=96m", "none", disk)
        else:
            image = self.world.folder / "image"
            with open(image, "wb") as file:
                file.truncate(96 << 20)
            run("mkfs.ext4", "-q", "-F", image)
            run("mount", "-o", "loop", image, disk)
        return disk

    def fill(self, folder, size):
        """Writes files with fsync until ENOSPC; {name: content} of those whose fsync returned."""
        kept = {}
        for i in range(2000):
            name, content = f"{folder.path.name}-{size}-{i}", os.urandom(size)
            try:
                fd = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
                try:
                    left = content
                    while left:
                        left = left[os.write(fd, left):]
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC, name)
                return kept
            kept[name] = content
        self.fail("the disk is never full")
        return kept

    def use_full(self, mount):
        """All kinds of calls on a full disk: each works or is ENOSPC, and is whole in any case."""
        def attempt(call, *arguments):
            try:
                return call(*arguments)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC, call)
                return None

        def write(name, size):
            with open(mount / name, "ab") as file:
                file.write(b"x" * size)
                file.flush()
                os.fsync(file.fileno())

        for i in range(40):
            attempt(os.mkdir, mount / f"dir{i}")
            attempt(os.symlink, "target", mount / f"link{i}")
            attempt(write, f"tiny{i}", 10)
            attempt(write, f"page{i}", 5000)
            attempt(write, "appended", 4096)
            if (mount / f"tiny{i}").exists():
                attempt(os.rename, mount / f"tiny{i}", mount / f"renamed{i}")
        names = os.listdir(mount.path)
        self.assertEqual(len(names), len(set(names)))
        for name in names:  # What is listed is there.
            os.lstat(mount / name)
        os.statvfs(mount.path)

    def check_kept(self, mount, kept):
        for name, content in kept.items():
            self.assertEqual((mount / name).read_bytes(), content, f"{name} was fsynced")

    def empty_and_use_again(self, mount, other):
        """Deleting works on a full disk, and brings the space back."""
        for name in os.listdir(mount.path):
            if (mount / name).is_dir() and not (mount / name).is_symlink():
                os.rmdir(mount / name)
            else:
                os.unlink(mount / name)
        self.assertEqual(os.listdir(other.path), [])
        self.eventually(lambda: self.space_for(other, 40 << 20), 30, "there is space again")

    def test_a_full_host_disk(self):
        for kind in ("ext4", "tmpfs"):
            disk = self.small_disk(kind)
            store = disk / "store"
            run(PLUMERIA, "mkfs", store, "--log-size", "4M")
            mount = self.world.mount(store, "m")
            kept = self.fill(mount, 1 << 20)
            self.assertGreater(len(kept), 20)
            kept |= self.fill(mount, 30_000)
            kept |= self.fill(mount, 1000)
            self.use_full(mount)
            self.check_kept(mount, kept)
            mount.kill()
            mount.detach()
            mount = self.world.mount(store, "m")  # Replaying needs no space.
            self.check_kept(mount, kept)
            self.use_full(mount)
            self.empty_and_use_again(mount, mount)
            mount.umount()
            self.world.fsck(store)
            # And once more, left full in peace.
            mount = self.world.mount(store, "m")
            kept = self.fill(mount, 300_000)
            self.use_full(mount)
            mount.umount()
            self.world.fsck(store)
            mount = self.world.mount(store, "m")
            self.check_kept(mount, kept)
            self.empty_and_use_again(mount, mount)
            mount.umount()
            self.world.fsck(store)
            self.world.end_round()

    def test_a_full_host_disk_below_a_server(self):
        store = self.small_disk("ext4") / "store"
        run(PLUMERIA, "mkfs", store, "--log-size", "4M")
        server = self.world.serve(store, lease=2)
        a, b = self.world.mount(server, "a"), self.world.mount(server, "b")
        kept = self.fill(a, 1 << 20) | self.fill(b, 100_000) | self.fill(a, 3000)
        for mount in (a, b):
            self.use_full(mount)
            self.check_kept(mount, kept)
        # A mount that dies while the disk is full: the lock server can still write what it must.
        a.kill()
        self.check_kept(b, kept)
        a.detach()
        self.assertEqual(server.status()["server"]["replay_errors"], 0)
        server.kill()
        server = self.world.serve(store, lease=2, port=server.port)
        self.check_kept(b, kept)
        a = self.world.mount(server, "a")
        self.check_kept(a, kept)
        self.empty_and_use_again(b, a)
        for mount in (a, b):
            mount.umount()
        server.stop()
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
