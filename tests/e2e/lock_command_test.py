#!/usr/bin/env python3
"""`plumeria lock`, `locks` and `who`: locks of programs, between real processes."""
import json
import os
import signal
import subprocess
import time

import harness
from harness import PLUMERIA, run

LEASE = 2.0  # seconds


class Locks(harness.Case):
    def setUp(self):
        super().setUp()
        self.server = self.world.serve(self.world.mkfs(), lease=LEASE)
        self.environment = {**os.environ, "PLUMERIA_STORE": self.server.address}
        self.started = []
        self.addCleanup(self.end_started)

    def end_started(self):
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(20)
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()

    def start(self, *words):
        process = subprocess.Popen([PLUMERIA, "lock", *words], env=self.environment, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def holder(self, mode, name, command="sleep 100", *options):
        """One that has the lock."""
        process = self.start(mode, name, *options, "--", "sh", "-c",
                             f"echo $PLUMERIA_FENCE; exec {command}")
        process.fence = int(process.stdout.readline())
        return process

    def waiter(self, mode, name, command="sleep 100", *options):
        """One that waits for it."""
        before = self.waiting(name)
        process = self.start(mode, name, *options, "--", "sh", "-c",
                             f"echo $PLUMERIA_FENCE; exec {command}")
        self.eventually(lambda: self.waiting(name) > before, 20, f"{mode} waits for {name}")
        return process

    def eventually(self, condition, seconds, what):
        return harness.wait_until(condition, seconds, what)

    def locks(self, *options):
        return json.loads(run(PLUMERIA, "locks", self.server.address, "--json", *options).stdout)[
            "locks"]

    def lock(self, name):
        found = [lock for lock in self.locks() if lock["name"] == name]
        return found[0] if found else {"holders": [], "waiters": []}

    def waiting(self, name):
        return len(self.lock(name)["waiters"])

    def who(self, name, *options):
        return run(PLUMERIA, "who", name, *options, env=self.environment).stdout

    def run_lock(self, *words, timeout=60):
        return run(PLUMERIA, "lock", *words, env=self.environment, timeout=timeout, check=False)

    def test_one_at_a_time_with_growing_fences(self):
        counter, fences = self.world.folder / "counter", self.world.folder / "fences"
        counter.write_text("0")
        script = (f'i=0; while [ $i -lt 5 ]; do {PLUMERIA} lock exclusive counter -- sh -c '
                  f"'n=$(cat {counter}); sleep 0.01; echo $((n + 1)) >{counter}; "
                  f"echo $PLUMERIA_FENCE >>{fences}' || exit 1; i=$((i + 1)); done")
        loops = [subprocess.Popen(["sh", "-c", script], env=self.environment) for _ in range(5)]
        self.started += loops
        for loop in loops:
            self.assertEqual(loop.wait(120), 0)
        self.assertEqual(counter.read_text().strip(), "25")
        numbers = [int(line) for line in fences.read_text().split()]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(self.locks(), [])

    def test_readers_and_writers(self):
        """Reader, writer, reader on one name: each is asked, served in turn, and nobody is lost."""
        first = self.holder("shared", "n")
        beside = self.holder("shared", "n")
        self.assertEqual(self.run_lock("exclusive", "n", "--try", "--", "true").returncode, 3)
        writer = self.waiter("exclusive", "n")
        self.assertEqual([h["asked"] for h in self.lock("n")["holders"]], [True, True])
        second = self.waiter("shared", "n", "true")
        self.assertEqual([w["mode"] for w in self.lock("n")["waiters"]], ["exclusive", "shared"])
        for reader in (first, beside):
            reader.terminate()
            self.assertEqual(reader.wait(30), 128 + signal.SIGTERM)
        fence = int(writer.stdout.readline())
        held = self.lock("n")
        self.assertEqual([h["mode"] for h in held["holders"]], ["exclusive"])
        self.assertTrue(held["holders"][0]["asked"])
        writer.terminate()
        self.assertEqual(writer.wait(30), 128 + signal.SIGTERM)
        self.assertEqual(second.wait(30), 0)
        self.assertLess(max(first.fence, beside.fence), fence)
        self.assertLess(fence, int(second.stdout.readline()))
        self.assertEqual(self.server.status()["server"]["expired"], 0)

    def test_patience(self):
        holder = self.holder("exclusive", "n")
        began = time.monotonic()
        done = self.run_lock("shared", "n", "--timeout", "0.5", "--", "true")
        self.assertEqual(done.returncode, 3)
        self.assertIn("default/n", done.stderr)
        self.assertGreater(time.monotonic() - began, 0.5)
        self.assertEqual(self.waiting("n"), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            waiter = self.waiter("exclusive", "n")
            waiter.send_signal(number)
            self.assertEqual(waiter.wait(10), 128 + number)
            self.assertEqual(self.waiting("n"), 0)
        self.assertEqual(self.run_lock("exclusive", "n", "--table", "other", "--", "true")
                         .returncode, 0)
        holder.terminate()
        self.assertEqual(holder.wait(10), 128 + signal.SIGTERM)
        self.assertEqual(self.run_lock("exclusive", "n", "--try", "--", "true").returncode, 0)

    def test_exit_codes(self):
        for words, code in ((("sh", "-c", "exit 42"), 42), (("sh", "-c", "kill -9 $$"), 137),
                            (("/none",), 127), (("/etc/passwd",), 126)):
            self.assertEqual(self.run_lock("shared", "n", "--", *words).returncode, code, words)
        self.environment["PLUMERIA_STORE"] = f"127.0.0.1:{harness.free_port()}"
        self.assertEqual(self.run_lock("shared", "n", "--", "true").returncode, 5)
        del self.environment["PLUMERIA_STORE"]
        done = self.run_lock("shared", "n", "--", "true")
        self.assertEqual(done.returncode, 2)
        self.assertIn("PLUMERIA_STORE", done.stderr)
        self.assertEqual(self.run_lock("shared", "x" * 4097, "--", "true").returncode, 2)

    def test_names(self):
        long, odd = "x" * 4096, "two\nlines \t\x01 \u00e9"
        for name in (long, odd):
            self.holder("exclusive", name, "sleep 100", "--table", "names")
        self.holder("shared", os.fsdecode(b"\xff"), "sleep 100", "--table", "bytes")
        self.assertEqual({lock["name"] for lock in self.locks("--table", "names")}, {long, odd})
        self.assertEqual([lock["name"] for lock in self.locks("--table", "bytes")], ["\ufffd"])
        self.assertIn("bytes/", run(PLUMERIA, "locks", self.server.address).stdout)

    def test_a_killed_holder(self):
        mark = self.world.folder / "mark"
        holder = self.holder("exclusive", "n", f"sh -c 'echo $$ >{mark}; exec sleep 100'")
        self.eventually(lambda: mark.exists() and mark.read_text().strip(), 10, "it runs")
        waiter = self.waiter("exclusive", "n", "true")
        self.assertIn("waits exclusive", self.who("n"))
        self.assertIn("asked to give it up", self.who("n"))
        holder.kill()
        began = time.monotonic()
        fence = int(waiter.stdout.readline())
        took = time.monotonic() - began
        self.assertGreater(fence, holder.fence)
        self.assertGreater(took, LEASE / 2)  # Nobody knows better than the lease.
        self.assertLess(took, LEASE + 20)
        self.assertFalse(os.path.exists(f"/proc/{int(mark.read_text())}/fd"))
        self.assertEqual(waiter.wait(20), 0)
        self.assertIn("nobody holds it", self.who("n"))

    def test_a_lost_lease_ends_the_command(self):
        ended = self.world.folder / "ended"
        holder = self.holder("exclusive", "n", f"sh -c 'trap \"touch {ended}; exit 0\" TERM; "
                                               "while :; do sleep 0.1; done'")
        holder.send_signal(signal.SIGSTOP)
        self.addCleanup(holder.send_signal, signal.SIGCONT)
        other = self.holder("exclusive", "n", "true")
        self.assertGreater(other.fence, holder.fence)
        holder.send_signal(signal.SIGCONT)
        self.assertEqual(holder.wait(30), 7)
        self.assertIn("is lost", holder.stderr.read())
        self.assertTrue(ended.exists())

    def test_a_server_that_comes_back(self):
        holder = self.holder("exclusive", "n", "sleep 8")
        waiter = self.waiter("shared", "n", "true")
        self.server.kill()
        time.sleep(LEASE)  # It is suspended meanwhile.
        self.server = self.world.serve(self.server.store, lease=LEASE, port=self.server.port)
        self.eventually(lambda: self.lock("n")["holders"], 30, "the holder has reported")
        self.assertEqual(self.lock("n")["name"], "n")
        self.assertEqual(holder.wait(60), 0)
        self.assertGreater(int(waiter.stdout.readline()), holder.fence)
        self.assertEqual(waiter.wait(30), 0)


if __name__ == "__main__":
    harness.main()
