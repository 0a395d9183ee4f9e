#!/usr/bin/env python3
"""What docs/operations.md and README.md say, statement by statement, where no other test does."""
import ctypes
import errno
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
from harness import PLUMERIA, TREE, run

LEASE = 2.0  # seconds


class Proxy:
    """A network between mounts and a server, which can be cut: packets are swallowed."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.ear = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.ear.getsockname()[1]}"
        self.is_cut = threading.Event()
        self.ended = threading.Event()
        self.pairs = {}  # each socket's other end
        self.thread = threading.Thread(target=self.carry, daemon=True)
        self.thread.start()

    def carry(self):
        while not self.ended.is_set():
            if self.is_cut.is_set():
                time.sleep(0.01)
                continue
            ready, _, _ = select.select([self.ear, *self.pairs], [], [], 0.02)
            for one in ready:
                if one is self.ear:
                    client, _ = self.ear.accept()
                    server = socket.create_connection(self.target)
                    self.pairs |= {client: server, server: client}
                elif one in self.pairs:
                    self.carry_some(one)

    def carry_some(self, one):
        other = self.pairs[one]
        try:
            data = one.recv(1 << 16)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for end in (one, other):
            del self.pairs[end]
            end.close()

    def end(self):
        self.ended.set()
        self.thread.join(5)
        for end in (self.ear, *self.pairs):
            end.close()


def synced(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class Guard(harness.Case):
    """The process that lets go of what waits on a daemon which dies and cannot end."""

    PTRACE_SEIZE, ALL_CHILDREN = 0x4206, 0x40000000  # sys/ptrace.h; __WALL of wait(2)

    def test_it_aborts_the_dead_mount_and_no_other_one_that_gets_its_number(self):
        dead = self.world.mount(self.world.mkfs("one"), "dead")
        thread = next(int(t) for t in os.listdir(f"/proc/{dead.popen.pid}/task")
                      if int(t) != dead.popen.pid)
        libc = ctypes.CDLL(None, use_errno=True)
        # A thread that is traced stays until the tracer has seen its end, and the process with it.
        self.assertEqual(libc.ptrace(self.PTRACE_SEIZE, thread, None, None), 0)
        try:
            os.kill(dead.popen.pid, signal.SIGKILL)

            def has_died():
                try:
                    os.statvfs(dead.path)
                except OSError as error:
                    return error.errno == errno.ENOTCONN
                return False
            harness.wait_until(has_died, 20, "the end of the connection")
            dead.detach()
            other = self.world.mount(self.world.mkfs("two"), "other")
            self.assertEqual(other.minor, dead.minor, "the kernel gave it another number")
            with open(other / "file", "wb") as file:
                for _ in range(20):  # It would look every half second.
                    time.sleep(0.1)
                    file.write(b"x")
                    os.fsync(file.fileno())
        finally:
            os.waitpid(thread, self.ALL_CHILDREN)
        other.umount()


class Unmounting(harness.Case):
    """What is unmounted is gone, and what is mounted there next is somebody else's."""

    def daemon_of(self, point):
        """Its process, which is ended with the test in any case."""
        pid = self.world.status(point)["pid"]

        def end():
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                    if str(self.world.folder) in file.read():
                        os.kill(pid, signal.SIGKILL)
            except OSError:
                pass

        self.addCleanup(end)
        return pid

    def test_a_daemon_that_ends_leaves_alone_what_is_mounted_there_by_then(self):
        store = self.world.mkfs()
        server = self.world.serve(store)
        point = self.world.folder / "point"
        point.mkdir()
        run(PLUMERIA, "mount", server.address, point, "--log", self.world.folder / "old.log")
        user = subprocess.Popen(["sleep", "600"], cwd=point)
        old = self.daemon_of(point)
        try:
            run(PLUMERIA, "umount", "--lazy", point)
            run("mount", "-t", "tmpfs", "none", point)
            (point / "only copy").write_text("x")
            user.kill()
            user.wait()
            harness.wait_until(lambda: not os.path.exists(f"/proc/{old}"), 30, "the end of it")
            self.assertEqual((point / "only copy").read_text(), "x")
        finally:
            user.kill()
            run("umount", point)

    def test_the_next_mount_at_a_place_is_asked_itself(self):
        store = self.world.mkfs()
        server = self.world.serve(store)
        point = self.world.folder / "point"
        point.mkdir()
        log = self.world.folder / "log"
        run(PLUMERIA, "mount", server.address, point, "--log", log)
        old = self.daemon_of(point)
        user = subprocess.Popen(["sleep", "600"], cwd=point)
        try:
            run(PLUMERIA, "umount", "--lazy", point)
            run(PLUMERIA, "mount", server.address, point, "--log", log)
            new = self.daemon_of(point)
            self.assertNotEqual(old, new)
            run(PLUMERIA, "umount", point)
            harness.wait_until(lambda: not os.path.exists(f"/proc/{new}"), 30, "the end of it")
            self.assertTrue(os.path.exists(f"/proc/{old}"))
            self.assertNotIn("will not work", log.read_text())
        finally:
            user.kill()
            user.wait()
        harness.wait_until(lambda: not os.path.exists(f"/proc/{old}"), 30, "the end of it")

    def test_a_store_is_waited_for_whose_holder_ends(self):
        """umount(8) does not wait for the daemon."""
        store = self.world.mkfs()
        point = self.world.folder / "point"
        point.mkdir()
        log = self.world.folder / "log"
        for _ in range(5):
            run(PLUMERIA, "mount", store, point, "--log", log)
            (point / "file").write_bytes(os.urandom(4 << 20))
            run("umount", point)
        self.world.fsck(store)
        run(PLUMERIA, "mount", store, point, "--log", log)
        refused = run(PLUMERIA, "fsck", store, check=False)
        self.assertEqual(refused.returncode, 3)
        self.assertIn("held by", refused.stderr)
        run(PLUMERIA, "umount", point)

    def test_an_idle_mount_goes_though_its_server_is_away(self):
        store = self.world.mkfs()
        server = self.world.serve(store)
        mount = self.world.mount(server, "m")
        server.kill()
        # Nobody can write back, so the end is waited for in vain; but it is not mounted any more.
        done = run(PLUMERIA, "umount", "--timeout", "3", mount.path, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("is unmounted, but its daemon did not say", done.stderr)
        self.assertNotIn(str(mount.path), harness.mount_table())
        mount.kill()

    def test_what_is_no_mount_and_no_store(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "d").mkdir()
        asked = run(PLUMERIA, "status", mount / "d", check=False)
        self.assertEqual(asked.returncode, 2)
        self.assertIn(f"is a part of what is mounted at {mount.path}", asked.stderr)
        begun = time.monotonic()
        refused = run(PLUMERIA, "mount", "nostore.invalid", self.world.folder, check=False)
        self.assertIn("there is no directory of this name", refused.stderr)
        self.assertLess(time.monotonic() - begun, 10)
        unknown = run(PLUMERIA, "foo", check=False)
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("unknown command foo", unknown.stderr)
        self.assertIn("store format", run(PLUMERIA, "--version").stdout)
        mount.umount()


class Setup(harness.Case):
    def test_the_five_commands_of_the_readme(self):
        store, point = self.world.folder / "store", self.world.folder / "mnt"
        point.mkdir()
        log = self.world.folder / "log"
        run(PLUMERIA, "mkfs", store)
        run(PLUMERIA, "mount", store, point, "--log", log)
        (point / "f").write_text("x")
        self.assertIn("lease", run(PLUMERIA, "status", point).stdout)
        run(PLUMERIA, "umount", point)
        address = f"127.0.0.1:{harness.free_port()}"
        pid_file, its_pid = self.world.folder / "pid", self.world.folder / "its-pid"
        run(PLUMERIA, "serve", store, "--listen", address, "--log", log, "--pid-file", pid_file)
        pid = int(pid_file.read_text())
        ours = os.getpriority(os.PRIO_PROCESS, 0)  # What nice(1) has set stays.
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, pid), ours or -10)
        try:
            run(PLUMERIA, "mount", address, point, "--log", log, "--nice", "3", "--pid-file",
                its_pid)
            self.assertEqual(os.getpriority(os.PRIO_PROCESS, int(its_pid.read_text())), 3)
            self.assertEqual((point / "f").read_text(), "x")
            run(PLUMERIA, "umount", point)
        finally:
            os.kill(pid, signal.SIGTERM)
        self.eventually(lambda: not pid_file.exists(), 10, "the server ends, and its pid file")
        self.world.fsck(store)
        for line in log.read_text().splitlines():  # Time, process, what it is, severity, message.
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \d+ (mount|serve) /\S+ "
                                   r"(info|warning|error) .+")

    def test_the_store_shrinks_and_can_be_copied(self):
        store = self.world.mkfs("store", "--log-size", "1M")
        mount = self.world.mount(store, "m")

        def used():
            return int(run("du", "-s", "--block-size=1", store).stdout.split()[0])

        synced(mount / "kept", b"k" * 100_000)
        before = used()
        synced(mount / "large", os.urandom(20 << 20))
        self.assertGreater(used(), before + (20 << 20) - 1)
        host, ours = os.statvfs(store), os.statvfs(mount.path)
        self.assertEqual(ours.f_blocks * ours.f_frsize, host.f_blocks * host.f_frsize)
        os.truncate(mount / "large", 0)
        self.eventually(lambda: used() < before + (1 << 20), 10, "a truncation gives space back")
        synced(mount / "large", os.urandom(20 << 20))
        os.unlink(mount / "large")
        self.eventually(lambda: used() < before + (1 << 20), 10, "a deletion gives space back")
        mount.umount()
        copy = self.world.folder / "copy"
        run("cp", "-a", "--sparse=always", store, copy)
        self.world.fsck(copy)
        mount = self.world.mount(copy, "m")
        self.assertEqual((mount / "kept").read_bytes(), b"k" * 100_000)
        mount.umount()

    def test_mount_options(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        (mount / "run").write_text("#!/bin/sh\n")
        os.chmod(mount / "run", 0o4755)
        mount.umount()
        for options, words in (("ro", "ro,"), ("noexec", "noexec"), ("suid", ""), ("", "nosuid")):
            mount = self.world.mount(store, "m", *(["-o", options] if options else []))
            with open("/proc/self/mounts", encoding="utf-8") as table:
                line = next(line for line in table if str(mount.path) in line)
            self.assertIn(words, line)
            self.assertEqual("nosuid" in line, options != "suid", line)
            if options == "ro":
                with self.assertRaises(OSError) as caught:
                    (mount / "f").touch()
                self.assertEqual(caught.exception.errno, errno.EROFS)
            mount.umount()

    def test_status_tells_what_its_manual_says(self):
        server, a, b = self.world.served_pair()
        (a / "f").write_text("x")
        (b / "f").read_text()
        manual = (TREE / "man/plumeria-status.1").read_text()
        asked = {"mount": a.status(), "server": server.status(), "store": server.status(),
                 "disk": a.status()}
        manual = manual[manual.index(".TP"):manual.index(".SH EXIT")]
        part = None
        for line in manual.splitlines():
            if found := re.match(r"\.B (mount|server|store|disk)(?:\.(\w+))?$", line):
                part = found[1]
                self.assertIn(found[2] or part, asked[part][part] if found[2] else asked[part])
            elif part and line.startswith((".B ", ".BR ")):
                known = json.dumps(asked[part])
                for name in re.findall(r"[a-z]\w+", re.sub(r"\([^)]*\)| and ", " ", line[3:])):
                    if name not in ("tried", "refused"):  # There are none of these now.
                        self.assertIn(f'"{name}"', known, line)
        text = run(PLUMERIA, "status", server.address).stdout
        for mount in (a, b):
            self.assertIn(str(mount.path), text)
        self.assertIn("in use", json.dumps(run(PLUMERIA, "fsck", server.store,
                                               check=False).stderr))


class Stopping(harness.Case):
    def test_sigterm_with_open_files(self):
        for signals in (1, 2):
            store = self.world.mkfs(f"store{signals}")
            mount = self.world.mount(store, f"m{signals}")
            synced(mount / "f", b"old")
            fd = os.open(mount / "f", os.O_RDWR)
            os.pwrite(fd, b"new", 0)  # not fsynced
            start = time.monotonic()
            mount.signal(signal.SIGTERM)
            self.eventually(lambda m=mount: str(m.path) not in harness.mount_table(), 3, "detached")
            os.pwrite(fd, b"newer", 0)  # It can still be used for a while.
            if signals == 2:
                mount.signal(signal.SIGTERM)
            self.assertEqual(mount.wait(), 0)
            took = time.monotonic() - start
            self.assertLess(took, 4 if signals == 2 else 9)
            self.assertGreater(took, 0 if signals == 2 else 4)
            with self.assertRaises(OSError):
                os.fstatvfs(fd)
            with self.assertRaises(OSError):
                os.close(fd)
            self.world.fsck(store)
            mount = self.world.mount(store, f"m{signals}")
            self.assertEqual((mount / "f").read_bytes(), b"newer")
            mount.umount()

    def test_umount_with_open_files(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        with open(mount / "f", "w", encoding="utf-8") as file:
            file.write("x")
            file.flush()
            done = run(PLUMERIA, "umount", mount.path, check=False)
            self.assertEqual(done.returncode, 3)
            self.assertIn("--lazy", done.stderr)
            run(PLUMERIA, "umount", "--lazy", mount.path)
            self.assertNotIn(str(mount.path), harness.mount_table())
            time.sleep(0.5)
            self.assertTrue(mount.alive())
            file.write("y")
        self.assertEqual(mount.wait(), 0)
        mount = self.world.mount(store, "m")
        self.assertEqual((mount / "f").read_text(), "xy")
        mount.umount()


class Failures(harness.Case):
    seconds = 180

    def cut_off_pair(self):
        self.server = self.world.serve(self.world.mkfs(), lease=LEASE)
        self.proxy = Proxy(self.server.port)
        self.world.cleanups.append(self.proxy.end)
        self.a = self.world.mount(self.proxy.address, "a")
        self.b = self.world.mount(self.server, "b")

    def finish(self):
        for mount in (self.a, self.b):
            mount.umount()
        self.server.stop()
        self.world.fsck(self.server.store)

    def test_a_mount_cut_off_for_less_than_its_lease(self):
        self.cut_off_pair()
        (self.a / "f").write_text("dirty")
        self.proxy.is_cut.set()
        time.sleep(LEASE / 4)
        self.proxy.is_cut.clear()
        self.assertEqual((self.b / "f").read_text(), "dirty")
        (self.a / "g").write_text("goes on")
        self.assertEqual((self.b / "g").read_text(), "goes on")
        self.assertEqual(self.a.status()["mount"]["rejoins"], 0)
        self.finish()

    def test_a_mount_cut_off_for_longer_than_its_lease(self):
        self.cut_off_pair()
        synced(self.a / "clean", b"clean")
        synced(self.a / "f", b"old")
        (self.a / "l").touch()
        fd = os.open(self.a / "f", os.O_RDWR)
        os.pwrite(fd, b"dirty", 0)
        self.proxy.is_cut.set()
        start = time.monotonic()
        seen = (self.b / "f").read_bytes()
        print(f"the other waited {time.monotonic() - start:.2f} s")
        self.assertLess(time.monotonic() - start, LEASE + 6)
        self.assertIn(seen, (b"old", b"dirty"))
        (self.b / "f").write_bytes(b"of b")
        self.proxy.is_cut.clear()
        self.eventually(lambda: self.a.status()["mount"]["rejoins"] == 1, 30, "it joins again")
        with self.assertRaises(OSError) as caught:
            os.pread(fd, 10, 0)
        self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertRegex(self.a.messages(), r"joined again with a new lease; 1 open files lost")
        self.assertEqual(self.a.status()["mount"]["files"]["lost"], 1)
        os.close(fd)
        self.assertEqual((self.a / "f").read_bytes(), b"of b")
        self.assertEqual((self.a / "clean").read_bytes(), b"clean")
        self.assertEqual(self.a.status()["mount"]["files"]["lost"], 0)
        self.finish()

    def test_the_store_moves_to_another_place(self):
        server, a, b = self.world.served_pair(lease=LEASE)
        (a / "dirty").write_text("dirty")
        server.kill()
        elsewhere = self.world.folder / "elsewhere"
        os.rename(server.store, elsewhere)
        time.sleep(LEASE)
        server = self.world.serve(elsewhere, lease=LEASE, port=server.port)
        self.assertEqual((b / "dirty").read_text(), "dirty")
        for mount in (a, b):
            mount.umount()
        server.stop()
        self.world.fsck(elsewhere)

    def test_a_damaged_log_freezes_what_its_mount_held(self):
        server, a, b = self.world.served_pair("--log-size", "1M", lease=LEASE)
        slot = a.status()["mount"]["lease"]["slot"]
        os.mkdir(a / "of-a")
        os.mkdir(b / "of-b")
        for i in range(20):
            synced(a / "of-a" / f"f{i}", b"x")
        (b / "of-b" / "f").touch()
        time.sleep(0.2)
        a.kill()
        path = server.store / f"segments/regions/{(1 << 32) + slot:016x}"
        whole = path.read_bytes()
        # The first chunk that counts is where the newer header says (docs/format.md, "Log").
        newer = max((whole[:4096], whole[4096:8192]), key=lambda h: struct.unpack_from("<Q", h, 8))
        start = 8192 + struct.unpack_from("<Q", newer, 48)[0]
        with open(path, "r+b") as file:
            file.seek(start + 100)
            file.write(b"\xff" * 8)
        self.eventually(lambda: server.status()["server"]["replay_errors"] > 0, LEASE + 8, "noted")
        status = run(PLUMERIA, "status", server.address).stdout
        self.assertIn(f"log of slot {slot}", status)
        self.assertIn(f"log of slot {slot}", server.messages())
        (b / "of-b" / "g").write_text("goes on")
        waiting = subprocess.Popen(["stat", b / "of-a" / "f3"], stdout=subprocess.DEVNULL)
        time.sleep(2)
        self.assertIsNone(waiting.poll(), "the dead mount's locks were given away")
        checked = run(PLUMERIA, "fsck", server.store, check=False)
        self.assertEqual(checked.returncode, 3)
        # Restored, it is replayed, and everything goes on.
        path.write_bytes(whole)
        self.assertEqual(waiting.wait(20), 0)
        self.assertEqual((b / "of-a" / "f3").read_bytes(), b"x")
        a.detach()
        b.umount()
        server.stop()
        self.world.fsck(server.store)

    def test_a_server_refuses_to_start_with_a_damaged_log(self):
        server, a, b = self.world.served_pair("--log-size", "1M", lease=LEASE)
        for i in range(20):
            synced(a / f"f{i}", b"x")
        slot = a.status()["mount"]["lease"]["slot"]
        time.sleep(0.2)
        for process in (a, b, server):
            process.kill()
        path = server.store / f"segments/regions/{(1 << 32) + slot:016x}"
        whole = path.read_bytes()
        with open(path, "r+b") as file:
            file.write(b"\xff" * 8192)  # Both headers.
        done = run(PLUMERIA, "serve", server.store, "--listen", server.address, check=False)
        self.assertEqual(done.returncode, 4)
        self.assertIn(f"log of slot {slot}", done.stderr)
        checked = run(PLUMERIA, "fsck", server.store, check=False)
        self.assertEqual(checked.returncode, 4)
        self.assertIn(f"log of slot {slot}", checked.stderr)
        path.write_bytes(whole)
        server = self.world.serve(server.store, lease=LEASE, port=server.port)
        for mount in (a, b):
            mount.detach()
        c = self.world.mount(server, "c")
        for i in range(20):
            self.assertEqual((c / f"f{i}").read_bytes(), b"x")
        c.umount()
        server.stop()
        self.world.fsck(server.store)


if __name__ == "__main__":
    harness.main()
