#!/usr/bin/env python3
"""`plumeria logdump` and `plumeria bench` on real stores and mounts."""
import json
import os
import re
import signal
import subprocess
import time

import harness
from harness import PLUMERIA, run

LEASE = 60.0  # seconds; nobody is to be recovered


def synced(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class LogDump(harness.Case):
    def dump(self, *arguments, code=0):
        done = run(PLUMERIA, "logdump", *arguments, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def logs(self, *arguments, code=0):
        return json.loads(self.dump(self.store, "--json", *arguments, code=code).stdout)["logs"]

    def changes(self, *arguments):
        return [change for log in self.logs(*arguments) for chunk in log["chunks"]
                for record in chunk["records"] for change in record["changes"]]

    def test_what_killed_mounts_have_left(self):
        server, a, b = self.world.served_pair("--log-size", "1M", lease=LEASE)
        self.store = server.store
        for i in range(20):
            synced(a / f"f{i}", b"x" * 10)
        inode = os.stat(a / "f7").st_ino
        slots = {mount: mount.status()["mount"]["lease"]["slot"] for mount in (a, b)}
        self.assertIn("in use", self.dump(self.store, code=3).stderr)
        time.sleep(0.2)  # The last chunk is vouched for.
        for process in (a, b, server):
            process.kill()
        for mount in (a, b):
            mount.detach()
        before = {path: path.read_bytes() for path in self.store.rglob("*") if path.is_file()}

        logs = {log["slot"]: log for log in self.logs()}
        self.assertEqual(set(logs), set(slots.values()))
        log = logs[slots[a]]
        self.assertEqual((log["header"]["state"], log["ended"]), ("in use", "end"))
        self.assertIn(str(a.path), log["owner"]["label"])
        self.assertGreaterEqual(log["record_count"], 20)
        numbers = [record["number"] for chunk in log["chunks"] for record in chunk["records"]]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + log["record_count"])))
        self.assertEqual([chunk["position"] + chunk["bytes"] for chunk in log["chunks"]][-1],
                         log["position"])

        # The history of one inode: its versions grow, and a delta has the bytes it replaces.
        history = self.changes("--block", f"inode:{inode}", "-v")
        self.assertEqual({change["block"] for change in history}, {f"inode {inode}"})
        versions = [change["version"] for change in history]
        self.assertEqual(versions, sorted(set(versions)))
        self.assertEqual(history[0]["kind"], "image")
        for change in self.changes("--slot", slots[a], "-v"):
            for piece in change.get("ranges", []):
                self.assertEqual(len(piece["bytes"]), 2 * piece["length"])

        text = self.dump(self.store).stdout
        self.assertIn(f"log of slot {slots[a]}: in use, of lease", text)
        self.assertRegex(text, rf"(?m)^      inode {inode} +version \d+ +image of \d+ bytes$")
        only_b = self.dump(self.store, "--slot", slots[b]).stdout
        self.assertNotIn(f"log of slot {slots[a]}", only_b)
        self.assertEqual(before, {path: path.read_bytes() for path in before}, "it changed nothing")

        path = self.store / f"segments/regions/{(1 << 32) + slots[a]:016x}"
        with open(path, "r+b") as file:
            file.write(b"\xff" * 8192)  # Both headers.
        done = self.dump(self.store, code=4)
        self.assertIn(f"damaged: log of slot {slots[a]}", done.stdout)
        self.assertIn(f"log of slot {slots[b]}: in use", done.stdout)
        self.assertIn("1 damaged", done.stderr)

        path.write_bytes(before[path])
        self.world.fsck(self.store)

    def test_what_an_unmount_leaves(self):
        self.store = self.world.mkfs()
        self.assertEqual(self.logs(), [])
        mount = self.world.mount(self.store, "m")
        (mount / "f").write_text("x")
        mount.umount()
        log, = self.logs()
        self.assertEqual((log["ended"], log["owner"], log["record_count"]), ("empty", None, 0))
        self.assertIn("  empty: no record counts", self.dump(self.store).stdout)
        self.assertIn("slot 9: never used", self.dump(self.store, "--slot", "9").stdout)
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([PLUMERIA, "logdump", self.store], stdout=full, timeout=60,
                                  stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual((done.returncode, "could not be written" in done.stderr), (1, True))

    def test_what_is_no_store(self):
        empty = self.world.folder / "empty"
        empty.mkdir()
        self.assertIn("not a Plumeria store", self.dump(empty, code=4).stderr)
        self.assertIn("missing", self.dump(self.world.folder / "missing", code=1).stderr)
        self.assertIn("inode:NUMBER", self.dump(empty, "--block", "file:1", code=2).stderr)


class Bench(harness.Case):
    def test_a_mount_and_an_ordinary_directory(self):
        mount = self.world.mount(self.world.mkfs(), "m")
        plain = self.world.folder / "plain"
        plain.mkdir()
        for folder in (mount.path, plain):
            small = ("--files", "40", "--size", "2M", "--threads", "2")
            report = json.loads(run(PLUMERIA, "bench", folder, *small, "--json").stdout)
            self.assertEqual((report["directory"], report["files"]), (str(folder), 40))
            self.assertEqual(len(report["figures"]), 14)
            for figure in report["figures"]:
                for name in ("rate", "calls", "seconds", "median_us", "p99_us", "max_us"):
                    self.assertGreater(figure[name], 0, figure)
            done = run(PLUMERIA, "bench", folder, "--quick")
            for figure in report["figures"]:
                name, unit = re.escape(figure["name"]), figure["unit"]
                self.assertRegex(done.stdout, rf"(?m)^  {name} .* {unit} ")
            self.assertEqual(done.stderr, "", "no progress where there is no terminal")
            self.assertEqual(os.listdir(folder), [])
        mount.umount()

    def test_interrupted_it_leaves_nothing(self):
        mount = self.world.mount(self.world.mkfs(), "m")
        for number in (signal.SIGINT, signal.SIGTERM):
            bench = subprocess.Popen(
                [PLUMERIA, "bench", mount.path, "--files", "10000000", "--threads", "3"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.eventually(lambda: any(mount.path.glob("plumeria-bench-*/2/d9")), 20, "it works")
            bench.send_signal(number)
            output, messages = bench.communicate(timeout=60)
            self.assertEqual((bench.returncode, output), (1, ""))
            self.assertIn("interrupted", messages)
            self.assertEqual(os.listdir(mount.path), [])
        mount.umount()

    def test_errors(self):
        for words, code, *arguments in (("missing", 1, self.world.folder / "missing"),
                                        ("--files|0", 2, "/tmp", "--files", "0"),
                                        ("--size|1k|1048576", 2, "/tmp", "--size", "1k")):
            done = run(PLUMERIA, "bench", *arguments, check=False)
            self.assertEqual(done.returncode, code, done.stderr)
            for word in words.split("|"):
                self.assertIn(word, done.stderr)


if __name__ == "__main__":
    harness.main()
