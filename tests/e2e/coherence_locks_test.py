#!/usr/bin/env python3
"""File locks across three mounts: flock and fcntl exclude as on one machine, go with their owner,
and who has one sees everything that was done under it before."""
import errno
import fcntl
import mmap
import os
import random
import struct
import time

import harness

SECONDS = 10 if harness.LONG else 1
LOCKS = 16  # records of one file, each with a lock of its own
fork = harness.fork
SHARED, EXCLUSIVE, UNLOCK = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN
NOW = fcntl.LOCK_NB


def who_blocks(fd, kind, start, length):
    """The kind and range of a lock that would be in the way of this one (F_GETLK)."""
    asked = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    found, _, start, length, _ = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if found == fcntl.F_UNLCK else (found, start, length)


def number_at(fd, start=0):
    return struct.unpack("q", os.pread(fd, 8, start))[0]


class Locks(harness.SharedCase):
    mount_count = 3

    def setUp(self):
        super().setUp()
        (self.a / "f").write_bytes(bytes(8 * LOCKS))

    def worker(self, side, name="f"):
        """A process and its descriptor of the file."""
        hands = self.hands()
        return hands, hands.do(os.open, side / name, os.O_RDWR)

    def refused(self, call, *arguments):
        try:
            call(*arguments)
            return False
        except OSError as error:
            self.assertIn(error.errno, (errno.EAGAIN, errno.EACCES))
            return True

    def test_which_ranges_exclude_each_other(self):
        (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
        for held, wanted, excluded in (
                ((EXCLUSIVE, 10, 0), (EXCLUSIVE, 10, 0), True),
                ((EXCLUSIVE, 10, 0), (SHARED, 1, 9), True),
                ((EXCLUSIVE, 10, 0), (EXCLUSIVE, 10, 10), False),
                ((EXCLUSIVE, 10, 5), (EXCLUSIVE, 5, 0), False),
                ((EXCLUSIVE, 10, 5), (EXCLUSIVE, 6, 0), True),
                ((SHARED, 10, 0), (SHARED, 10, 5), False),
                ((SHARED, 10, 0), (EXCLUSIVE, 10, 5), True),
                ((EXCLUSIVE, 0, 100), (EXCLUSIVE, 1, 10**12), True),
                ((EXCLUSIVE, 0, 100), (EXCLUSIVE, 100, 0), False),
                ((SHARED, 0, 0), (SHARED, 0, 0), False)):
            (kind, length, start), (other_kind, *other_range) = held, wanted
            one.do(fcntl.lockf, mine, kind | NOW, length, start)
            self.assertEqual(self.refused(other.do, fcntl.lockf, theirs, other_kind | NOW,
                                          *other_range), excluded, (held, wanted))
            blocker = other.do(who_blocks, theirs,
                               fcntl.F_WRLCK if other_kind == EXCLUSIVE else fcntl.F_RDLCK,
                               other_range[1], other_range[0])
            self.assertEqual(blocker is not None, excluded, (held, wanted))
            if blocker:
                self.assertEqual(blocker[1:], (start, length))
            one.do(fcntl.lockf, mine, UNLOCK)
            other.do(fcntl.lockf, theirs, EXCLUSIVE | NOW)
            other.do(fcntl.lockf, theirs, UNLOCK)

    def test_ranges_split_and_change_their_kind(self):
        (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
        one.do(fcntl.lockf, mine, EXCLUSIVE, 100, 0)
        one.do(fcntl.lockf, mine, UNLOCK, 10, 40)
        other.do(fcntl.lockf, theirs, EXCLUSIVE | NOW, 10, 40)
        self.assertTrue(self.refused(other.do, fcntl.lockf, theirs, EXCLUSIVE | NOW, 1, 39))
        self.assertTrue(self.refused(one.do, fcntl.lockf, mine, EXCLUSIVE | NOW, 100, 0))
        one.do(fcntl.lockf, mine, SHARED, 40, 0)
        other.do(fcntl.lockf, theirs, SHARED | NOW, 40, 0)
        self.assertTrue(self.refused(one.do, fcntl.lockf, mine, EXCLUSIVE | NOW, 1, 0))
        self.assertTrue(self.refused(other.do, fcntl.lockf, theirs, SHARED | NOW, 1, 50))
        one.do(fcntl.lockf, mine, UNLOCK)
        other.do(fcntl.lockf, theirs, EXCLUSIVE | NOW)

    def test_flock_and_fcntl_do_not_know_each_other(self):
        (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
        one.do(fcntl.flock, mine, EXCLUSIVE)
        other.do(fcntl.lockf, theirs, EXCLUSIVE | NOW)
        self.assertTrue(self.refused(other.do, fcntl.flock, theirs, SHARED | NOW))
        one.do(fcntl.flock, mine, SHARED)
        other.do(fcntl.flock, theirs, SHARED | NOW)
        self.assertTrue(self.refused(one.do, fcntl.flock, mine, EXCLUSIVE | NOW))

    def test_a_lock_goes_with_its_owner(self):
        """By unlock, by close, by the end of the process, by its violent end: who waits elsewhere
        gets it at once."""
        def close_another(hands, _):
            hands.do(os.close, hands.do(os.open, self.a / "f", os.O_RDONLY))

        ways = {"unlock": lambda hands, fd: hands.do(take, fd, UNLOCK),
                "close": lambda hands, fd: hands.do(os.close, fd),
                "exit": lambda hands, fd: hands.begin(os._exit, 0),
                "kill": lambda hands, fd: hands.kill(),
                "close of another descriptor": close_another}
        for take in (fcntl.lockf, fcntl.flock):
            for way, let_go in ways.items():
                if take is fcntl.flock and let_go is close_another:
                    continue
                (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
                one.do(take, mine, EXCLUSIVE)
                one.do(os.pwrite, mine, way.encode().ljust(30), 0)
                other.begin(take, theirs, EXCLUSIVE)
                self.assertFalse(other.is_done(0.1), way)
                began = time.monotonic()
                let_go(one, mine)
                other.result(20)
                self.assertLess(time.monotonic() - began, 2, way)
                self.assertEqual(other.do(os.pread, theirs, 30, 0), way.encode().ljust(30))
                other.do(take, theirs, UNLOCK)
                one.kill()
                other.kill()

    def test_who_waits_can_be_killed_and_leaves_no_trace(self):
        for take in (fcntl.lockf, fcntl.flock):
            (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
            third, its = self.worker(self.sides[2])
            one.do(take, mine, EXCLUSIVE)
            other.begin(take, theirs, EXCLUSIVE)
            third.begin(take, its, EXCLUSIVE)
            self.assertFalse(other.is_done(0.1))
            began = time.monotonic()
            other.kill()
            self.assertLess(time.monotonic() - began, 2, "a waiter dies at once")
            one.do(take, mine, UNLOCK)
            third.result(5)
            third.do(take, its, UNLOCK)
            one.do(take, mine, EXCLUSIVE | NOW)
            one.do(take, mine, UNLOCK)

    def test_a_deadlock_across_mounts_is_refused(self):
        workers = [self.worker(side) for side in self.sides]
        for i, (hands, fd) in enumerate(workers):
            hands.do(fcntl.lockf, fd, EXCLUSIVE, 8, 8 * i)
        for i, (hands, fd) in enumerate(workers[:2]):
            hands.begin(fcntl.lockf, fd, EXCLUSIVE, 8, 8 * (i + 1))
            self.assertFalse(hands.is_done(0.1))
        last, fd = workers[2]
        self.assertErrno(errno.EDEADLK, last.do, fcntl.lockf, fd, EXCLUSIVE, 8, 0)
        last.do(fcntl.lockf, fd, UNLOCK)
        workers[1][0].result(5)
        workers[1][0].do(fcntl.lockf, workers[1][1], UNLOCK)
        workers[0][0].result(5)

    def test_a_flock_is_that_of_the_open_file(self):
        """It is kept by a second descriptor of the same open."""
        (one, mine), (other, theirs) = self.worker(self.a), self.worker(self.b)
        second = one.do(os.dup, mine)
        one.do(fcntl.flock, mine, EXCLUSIVE)
        one.do(os.close, mine)
        self.assertTrue(self.refused(other.do, fcntl.flock, theirs, EXCLUSIVE | NOW))
        one.do(os.close, second)
        other.do(fcntl.flock, theirs, EXCLUSIVE)  # close(2) does not wait until it is gone
        # Two opens of one process exclude each other, on one mount as on two.
        again = other.do(os.open, self.sides[2] / "f", os.O_RDWR)
        self.assertTrue(self.refused(other.do, fcntl.flock, again, SHARED | NOW))

    # Counters: whoever has the lock sees all that was done under it.

    def count(self, prepare, step, value, locked=None):
        """On each mount a process counts for a while; nothing is lost."""
        done = fork.RawArray("q", 3)

        def work(side):
            fd = os.open(self.sides[side] / "f", os.O_RDWR)
            state = prepare(self.sides[side])
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                if locked:
                    with locked(self.sides[side], side):
                        step(self.sides[side], state)
                else:
                    fcntl.lockf(fd, EXCLUSIVE)
                    step(self.sides[side], state)
                    fcntl.lockf(fd, UNLOCK)
                done[side] += 1

        harness.together(work, count=3, seconds=SECONDS + 60)
        for side in self.sides:
            self.assertEqual(value(side), sum(done))
        self.assertGreater(min(done), 0, "all got their turn")

    def test_counter_in_a_held_file(self):
        def step(_, fd):
            os.pwrite(fd, struct.pack("q", number_at(fd) + 1), 0)

        self.count(lambda side: os.open(side / "f", os.O_RDWR), step,
                   lambda side: struct.unpack("q", (side / "f").read_bytes()[:8])[0])

    def test_counters_of_many_kinds_at_once(self):
        """In a size, a name, a link count, a mode's time stamp, a mapped page, and a new file."""
        os.mkdir(self.a / "n0")
        (self.a / "size").touch()
        (self.a / "mapped").write_bytes(bytes(4096))
        (self.a / "content").write_text("0")
        (self.a / "time").touch()
        os.utime(self.a / "time", (0, 0))

        def prepare(side):
            fd = os.open(side / "mapped", os.O_RDWR)
            return mmap.mmap(fd, 4096)

        def step(side, mapped):
            i = os.stat(side / "size").st_size
            name, = [n for n in os.listdir(side) if n.startswith("n") and n[1:].isdigit()]
            told = (int(name[1:]), struct.unpack_from("q", mapped, 64)[0],
                    int((side / "content").read_text()), int(os.stat(side / "time").st_mtime))
            assert told == (i, i, i, i), (i, told)
            with open(side / "size", "ab") as file:
                file.write(b"x")
            os.rename(side / name, side / f"n{i + 1}")
            struct.pack_into("q", mapped, 64, i + 1)
            (side / "new").write_text(str(i + 1))
            os.rename(side / "new", side / "content")
            os.utime(side / "time", (i + 1, i + 1))

        self.count(prepare, step, lambda side: os.stat(side / "size").st_size)

    def dot_lock(self, make, remove):
        """The protocols of those who trust only names: lock files."""
        class Locked:
            def __init__(self, side, who):
                self.name, self.who = side / "f.lock", who

            def __enter__(self):
                while True:
                    try:
                        return make(self.name, self.who)
                    except FileExistsError:
                        time.sleep(random.random() * 0.001)

            def __exit__(self, *_):
                remove(self.name)

        def step(side, _):
            value = int((side / "number").read_text())
            (side / "number").write_text(str(value + 1))

        (self.a / "number").write_text("0")
        self.count(lambda _: None, step, lambda side: int((side / "number").read_text()), Locked)

    def test_lock_files_made_exclusively(self):
        self.dot_lock(lambda name, _: os.close(os.open(name, os.O_CREAT | os.O_EXCL)), os.unlink)

    def test_lock_directories(self):
        self.dot_lock(lambda name, _: os.mkdir(name), os.rmdir)

    def test_lock_links(self):
        def make(name, who):
            own = name.with_name(f"own{who}")
            own.touch()
            os.link(own, name)
            assert os.stat(own).st_nlink == 2

        self.dot_lock(make, os.unlink)

    def test_records_of_one_file_each_under_its_own_lock(self):
        done = fork.RawArray("q", 3 * LOCKS)

        def work(side):
            chance = random.Random(side)
            fd = os.open(self.sides[side] / "f", os.O_RDWR)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                record = chance.randrange(LOCKS)
                fcntl.lockf(fd, EXCLUSIVE, 8, 8 * record)
                os.pwrite(fd, struct.pack("q", number_at(fd, 8 * record) + 1), 8 * record)
                fcntl.lockf(fd, UNLOCK, 8, 8 * record)
                done[side * LOCKS + record] += 1

        harness.together(work, count=3)
        for side in self.sides:
            values = struct.unpack(f"{LOCKS}q", (side / "f").read_bytes())
            for record in range(LOCKS):
                self.assertEqual(values[record], sum(done[record::LOCKS]), record)

    def test_killed_counters(self):
        """Processes that count under a lock are killed at any moment: the others go on, and what
        was counted stays counted."""
        counted = fork.RawArray("q", 3)

        def work(side):
            fd = os.open(self.sides[side] / "f", os.O_RDWR)
            while True:
                fcntl.lockf(fd, EXCLUSIVE)
                os.pwrite(fd, struct.pack("q", number_at(fd) + 1), 0)
                counted[side] += 1
                fcntl.lockf(fd, UNLOCK)

        seed = random.randrange(10**6)
        chance = random.Random(seed)
        workers = [fork.Process(target=work, args=(side,), daemon=True) for side in range(3)]
        for worker in workers:
            worker.start()
        kills = 0
        end = time.monotonic() + 2 * SECONDS
        while time.monotonic() < end:
            time.sleep(chance.random() * 0.1)
            victim = chance.randrange(3)
            before = list(counted)
            workers[victim].kill()
            workers[victim].join(10)
            self.assertIsNotNone(workers[victim].exitcode, "cannot be killed")
            kills += 1
            others = [side for side in range(3) if side != victim]
            self.eventually(lambda o=others, b=before: all(counted[s] > b[s] for s in o), 5,
                            f"the others go on (seed {seed})")
            workers[victim] = fork.Process(target=work, args=(victim,), daemon=True)
            workers[victim].start()
        for worker in workers:
            worker.kill()
            worker.join(10)
        kills += 3
        with open(self.a / "f", "r+b") as file:
            fcntl.lockf(file, EXCLUSIVE | NOW)
            value = number_at(file.fileno())
        self.assertGreaterEqual(value, sum(counted))
        self.assertLessEqual(value, sum(counted) + kills)

    @staticmethod
    def eventually(condition, seconds, what):
        return harness.wait_until(condition, seconds, what)


if __name__ == "__main__":
    harness.main()
