#!/usr/bin/env python3
"""The order in which several mounts see what happens at once: one order for all of them, in which
whatever has returned comes before whatever begins later."""
import bisect
import errno
import mmap
import os
import random
import shutil
import signal
import struct
import time

import harness

SECONDS = 10 if harness.LONG else 1
fork = harness.fork


def number_at(fd, start=0):
    return struct.unpack("q", os.pread(fd, 8, start))[0]


def store(fd, value, start=0):
    os.pwrite(fd, struct.pack("q", value), start)


def seconds(length=SECONDS, enough=lambda: True):
    """Counts from 1 for so long without pause, and then slowly until it is enough: here it is the
    order that is tested. How long who waits: tests/stress."""
    start = time.monotonic()
    i = 0
    while True:
        if time.monotonic() > start + length:
            if enough():
                return
            assert time.monotonic() < start + length + 30, "hardly anything happens"
            time.sleep(0.005)
        i += 1
        yield i


class Order(harness.SharedCase):
    mount_count = 4

    def setUp(self):
        super().setUp()
        self.c, self.d = self.sides[2:]
        self.stop = fork.RawValue("b", 0)

    def numbers(self, *names, size=8):
        for name in names:
            (self.a / name).write_bytes(bytes(size))

    def until_stopped(self):
        while not self.stop.value:
            yield

    # Message passing: who sees the second change sees the first.

    def message(self, first, second, seen_second, seen_first, pauses=False):
        """first(side, i) then second(side, i) on one mount; on the two others seen_second(side) is
        a number up to which second() is seen, and then seen_first(side) must not be lower."""
        checks = fork.RawArray("q", 3)  # up to which number a side has looked

        def work(side):
            if side == 3:
                self.pause_daemons()
                return
            if side == 0:
                for i in seconds(enough=lambda: min(checks[1:]) > 3):
                    first(self.a, i)
                    second(self.a, i)
                self.stop.value = 1
                return
            for _ in self.until_stopped():
                told = seen_second(self.sides[side])
                seen = seen_first(self.sides[side], told)
                assert seen >= told, f"saw {told} of the second, and only {seen} of the first"
                checks[side] = told

        try:
            harness.together(work, count=4 if pauses else 3)
        finally:
            for daemon in [*self.mounts, self.server]:
                daemon.signal(signal.SIGCONT)

    def pause_daemons(self):
        """Now a mount, now the server stands still for a moment, far below a lease."""
        seed = random.randrange(10**6)
        print(f"pauses by seed {seed}", flush=True)
        chance = random.Random(seed)
        for _ in self.until_stopped():
            daemon = chance.choice([*self.mounts, self.server])
            daemon.signal(signal.SIGSTOP)
            time.sleep(chance.random() * 0.05)
            daemon.signal(signal.SIGCONT)
            time.sleep(chance.random() * 0.05)

    def test_two_files_by_held_descriptors(self):
        self.numbers("x", "y")
        x, y = ({side: self.open(side / name) for side in self.sides} for name in "xy")
        self.message(lambda side, i: store(x[side], i), lambda side, i: store(y[side], i),
                     lambda side: number_at(y[side]), lambda side, _: number_at(x[side]))

    def test_two_places_of_one_file(self):
        self.numbers("x", size=300_000)
        x = {side: self.open(side / "x") for side in self.sides}
        self.message(lambda side, i: store(x[side], i, 200_000), lambda side, i: store(x[side], i),
                     lambda side: number_at(x[side]), lambda side, _: number_at(x[side], 200_000))

    def test_content_before_a_name(self):
        """What is renamed into sight is complete; and its name is a number."""
        def publish(side, i):
            os.rename(side / "new", side / f"n{i}")
            if i > 5:
                os.unlink(side / f"n{i - 5}")

        def newest(side):
            return max((int(name[1:]) for name in os.listdir(side) if name[1:].isdigit()),
                       default=0)

        def content(side, i):
            if not i:
                return 0
            try:
                data = (side / f"n{i}").read_bytes()
            except FileNotFoundError:
                return i  # Overtaken: it was removed.
            assert data == b"%08d" % i * (100 + i % 900), (i, len(data))
            return i

        self.message(lambda side, i: (side / "new").write_bytes(b"%08d" % i * (100 + i % 900)),
                     publish, newest, content)

    def test_a_write_before_attributes(self):
        self.numbers("x", "y")
        x = {side: self.open(side / "x") for side in self.sides}
        os.utime(self.a / "y", (0, 0))
        self.message(lambda side, i: store(x[side], i),
                     lambda side, i: os.utime(side / "y", (i, i)),
                     lambda side: int(os.stat(side / "y").st_mtime),
                     lambda side, _: number_at(x[side]))

    def test_a_size_before_a_mapped_number(self):
        """The second change is a store into a mapping, seen through mappings."""
        self.numbers("x", "y", size=4096)
        mapped = {}
        for side in self.sides:
            fd = self.open(side / "y")
            mapped[side] = mmap.mmap(fd, 4096)
            self.addCleanup(mapped[side].close)

        def store_mapped(side, i):
            mapped[side][8:16] = struct.pack("q", i)

        self.message(lambda side, i: os.truncate(side / "x", 4096 + i), store_mapped,
                     lambda side: struct.unpack("q", mapped[side][8:16])[0],
                     lambda side, _: os.stat(side / "x").st_size - 4096)

    def test_a_mapped_store_before_a_write(self):
        self.numbers("x", "y", size=4096)
        y = {side: self.open(side / "y") for side in self.sides}
        x = {side: self.open(side / "x") for side in self.sides}
        mapped = {side: mmap.mmap(x[side], 4096) for side in self.sides}
        for one in mapped.values():
            self.addCleanup(one.close)

        def store_mapped(side, i):
            mapped[side][16:24] = struct.pack("q", i)

        def seen(side, _):
            if side == self.b:
                return number_at(x[side], 16)
            return struct.unpack("q", mapped[side][16:24])[0]

        self.message(store_mapped, lambda side, i: store(y[side], i),
                     lambda side: number_at(y[side]), seen)

    def test_daemons_that_pause_change_no_order(self):
        self.numbers("x", "y", size=300_000)
        x, y = ({side: self.open(side / name) for side in self.sides} for name in "xy")
        mapped = {side: mmap.mmap(y[side], 300_000) for side in self.sides}
        for one in mapped.values():
            self.addCleanup(one.close)

        def first(side, i):
            store(x[side], i, 8 * (i % 30_000))
            store(x[side], i, 8 * 30_001)

        def second(side, i):
            mapped[side][8:16] = struct.pack("q", i)

        def seen_second(side):
            return struct.unpack("q", mapped[side][8:16])[0]

        def seen_first(side, told):
            assert not told or number_at(x[side], 8 * (told % 30_000)) % 30_000 == told % 30_000
            return number_at(x[side], 8 * 30_001)

        self.message(first, second, seen_second, seen_first, pauses=True)

    def test_what_was_passed_on_is_known_to_the_third(self):
        """a writes x; b, having seen it, writes y; c, having seen that, sees x."""
        self.numbers("x", "y")
        x, y = ({side: self.open(side / name) for side in self.sides} for name in "xy")
        seen_by_c = fork.RawValue("q", 0)

        def work(side):
            if side == 0:
                for i in seconds(enough=lambda: seen_by_c.value > 3):
                    store(x[self.a], i)
                self.stop.value = 1
            for _ in self.until_stopped():
                if side == 1:
                    store(y[self.b], number_at(x[self.b]))
                else:
                    told = number_at(y[self.c])
                    assert number_at(x[self.c]) >= told
                    seen_by_c.value = told

        harness.together(work, count=3)

    def test_one_of_two_sees_the_other(self):
        """Store buffering: each writes its own and then reads the other's; not both may miss."""
        rounds = 2000 if harness.LONG else 400
        self.numbers("x", "y")
        fds = [{side: self.open(side / name) for side in self.sides} for name in "xy"]
        barrier = fork.Barrier(2)
        saw = [fork.RawArray("q", rounds + 1), fork.RawArray("q", rounds + 1)]

        def work(side):
            mount = self.sides[side]
            for i in range(1, rounds + 1):
                barrier.wait(30)
                store(fds[side][mount], i)
                saw[side][i] = number_at(fds[1 - side][mount])

        harness.together(work)
        missed = [i for i in range(1, rounds + 1) if saw[0][i] < i and saw[1][i] < i]
        self.assertEqual(missed, [])
        for side in (0, 1):
            self.assertTrue(all(i - 1 <= saw[side][i] <= i for i in range(1, rounds + 1)))

    def test_two_readers_see_two_writers_in_one_order(self):
        """Independent reads of independent writes: a and b write, c and d read in opposite order,
        and log what they saw."""
        self.numbers("x", "y")
        x, y = ({side: self.open(side / name) for side in self.sides} for name in "xy")
        room = 200_000
        logs = [fork.RawArray("q", 2 * room) for _ in range(2)]
        lengths = fork.RawArray("q", 2)

        def work(side):
            if side < 2:
                mount = self.sides[side]
                for i in seconds(enough=lambda: min(lengths) > 10):
                    store((x, y)[side][mount], i)
                self.stop.value = 1
                return
            reader = side - 2
            mount = (self.c, self.d)[reader]
            order = ((x, y), (y, x))[reader]
            for _ in self.until_stopped():
                at = lengths[reader]
                if at == room:
                    return
                logs[reader][2 * at] = number_at(order[0][mount])
                logs[reader][2 * at + 1] = number_at(order[1][mount])
                lengths[reader] += 1

        harness.together(work, count=4)
        first = [(logs[0][2 * i], logs[0][2 * i + 1]) for i in range(lengths[0])]  # x, then y
        second = [(logs[1][2 * i + 1], logs[1][2 * i]) for i in range(lengths[1])]  # y, then x
        for log in (first, second):
            for before, after in zip(log, log[1:]):
                self.assertLessEqual(before[0], after[0], "x goes back")
                self.assertLessEqual(before[1], after[1], "y goes back")
        seen_y = [y_seen for _, y_seen in second]
        for x_first, y_later in first:
            at = bisect.bisect_right(seen_y, y_later)
            if at < len(second):
                self.assertLessEqual(x_first, second[at][0],
                                     f"one saw x={x_first} before y>{y_later}, one the reverse")

    def test_reads_and_writes_have_one_order_in_time(self):
        """One register, a writer, readers on the other mounts. By the machine's one clock: a read
        gives what was there at some moment between its begin and its end."""
        self.numbers("x")
        room = 100_000
        logs = [fork.RawArray("d", 3 * room) for _ in range(4)]
        lengths = fork.RawArray("q", 4)

        def note(who, begin, value):
            at = lengths[who]
            logs[who][3 * at:3 * at + 3] = [begin, time.monotonic(), value]
            lengths[who] += 1
            return at + 1 < room

        def work(who):
            fd = os.open(self.sides[who] / "x", os.O_RDWR)
            if who == 0:
                for i in seconds(enough=lambda: min(lengths[1:]) > 10):
                    begin = time.monotonic()
                    store(fd, i)
                    if not note(0, begin, i):
                        break
                self.stop.value = 1
                return
            for _ in self.until_stopped():
                begin = time.monotonic()
                if not note(who, begin, number_at(fd)):
                    break

        harness.together(work, count=4)
        begins, ends = ([logs[0][3 * i + k] for i in range(lengths[0])] for k in (0, 1))
        reads = sorted((logs[who][3 * i], logs[who][3 * i + 1], int(logs[who][3 * i + 2]))
                       for who in (1, 2, 3) for i in range(lengths[who]))
        for begin, end, value in reads:
            self.assertGreaterEqual(value, bisect.bisect_left(ends, begin), "older than allowed")
            self.assertLessEqual(value, bisect.bisect_right(begins, end), "from the future")
        by_end = sorted((end, value) for _, end, value in reads)
        known, at = 0, 0
        for begin, _, value in reads:
            while by_end[at][0] < begin:
                known = max(known, by_end[at][1])
                at += 1
            self.assertGreaterEqual(value, known, "less than an earlier read had seen")

    # Whole things.

    @staticmethod
    def open_current(path):
        """What is replaced between being found and being opened is looked up again."""
        while True:
            try:
                return open(path, "rb")
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise

    def test_a_file_that_is_replaced_is_always_whole(self):
        def content(i):
            return struct.pack("q", i) * (1 + i * 733 % 15_000)

        (self.a / "f").write_bytes(content(0))
        published = fork.RawValue("q", 0)
        looks = fork.RawArray("q", 3)

        def work(side):
            if side == 0:
                for i in seconds(enough=lambda: min(looks[1:]) > 10):
                    (self.a / f"f.{i % 3}").write_bytes(content(i))
                    os.rename(self.a / f"f.{i % 3}", self.a / "f")
                    published.value = i
                self.stop.value = 1
                return
            before = 0
            for _ in self.until_stopped():
                least = published.value
                with self.open_current(self.sides[side] / "f") as file:
                    looks[side] += 1
                    size = os.fstat(file.fileno()).st_size
                    data = file.read()
                    again = os.pread(file.fileno(), size, 0)
                i = struct.unpack_from("q", data)[0]
                assert data == content(i), f"{i} is not whole: {len(data)} bytes"
                assert (size, again) == (len(data), data), "it changed while it was open"
                assert i >= max(before, least), f"{i} after {before}, {least} was published"
                before = i

        harness.together(work, count=3)

    def test_appended_records_stay_whole(self):
        (self.a / "log").touch()
        written = fork.RawArray("q", 3)

        def record(side, i):
            body = bytes([65 + side]) * (i * 7919 % (200_000 if i % 10 == 9 else 9000))
            return struct.pack("<cqq", b"R", side, i) + struct.pack("q", len(body)) + body

        def work(side):
            fd = os.open(self.sides[side] / "log", os.O_WRONLY | os.O_APPEND)
            for i in seconds():
                data = record(side, i)
                assert os.write(fd, data) == len(data)
                written[side] = i
                size = os.fstat(fd).st_size
                assert size >= os.lseek(fd, 0, os.SEEK_CUR)

        harness.together(work, count=3)
        data = (self.b / "log").read_bytes()
        self.assertEqual(data, (self.a / "log").read_bytes())
        at, seen = 0, [0, 0, 0]
        while at < len(data):
            side, i = struct.unpack_from("<qq", data, at + 1)
            self.assertEqual(i, seen[side] + 1, f"at {at}")
            wanted = record(side, i)
            self.assertEqual(data[at:at + len(wanted)], wanted, f"at {at}")
            seen[side], at = i, at + len(wanted)
        self.assertEqual(seen, list(written))

    # Races that one wins.

    def race(self, attempt, rounds=100):
        """attempt(side, folder, i) on all mounts at once: exactly one succeeds, each time."""
        won = [fork.RawArray("b", rounds) for _ in range(3)]
        barrier = fork.Barrier(3)

        def work(side):
            for i in range(rounds):
                if i % 10 == 0:
                    barrier.wait(30)
                try:
                    attempt(side, self.sides[side], i)
                    won[side][i] = 1
                except OSError as error:
                    assert error.errno in (errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY), error

        harness.together(work, count=3)
        self.assertEqual([sum(w[i] for w in won) for i in range(rounds)], [1] * rounds)

    def test_one_creates(self):
        (self.a / "target").touch()
        for kind, make in (
                ("open", lambda p: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY))),
                ("mkdir", os.mkdir), ("symlink", lambda p: os.symlink("x", p)),
                ("link", lambda p: os.link(p.parent / "target", p))):
            self.race(lambda _, folder, i, k=kind, m=make: m(folder / f"{k}{i}"))
        self.assertEqual(os.stat(self.c / "target").st_nlink, 101)

    def test_one_removes(self):
        for i in range(100):
            (self.a / f"f{i}").touch()
            os.mkdir(self.a / f"d{i}")
            (self.a / f"r{i}").touch()
        self.race(lambda _, folder, i: os.unlink(folder / f"f{i}"))
        self.race(lambda _, folder, i: os.rmdir(folder / f"d{i}"))
        self.race(lambda side, folder, i: os.rename(folder / f"r{i}", folder / f"to{side}-{i}"))
        self.assertEqual(len(os.listdir(self.c)), 100)

    def test_a_directory_is_removed_or_filled(self):
        for i in range(100):
            os.mkdir(self.a / f"d{i}")

        def attempt(side, folder, i):
            if side == 0:
                os.rmdir(folder / f"d{i}")
            elif side == 1:
                (folder / f"d{i}/f").touch()
            else:
                raise FileNotFoundError(errno.ENOENT, "only looks on")

        self.race(attempt)

    def test_two_directories_never_move_into_each_other(self):
        for i in range(50):
            os.makedirs(self.a / f"l{i}")
            os.makedirs(self.a / f"r{i}")

        def work(side):
            for i in range(50):
                one, other = (("l", "r"), ("r", "l"))[side]
                try:
                    os.rename(self.sides[side] / f"{one}{i}", self.sides[side] / f"{other}{i}/in")
                except OSError as error:
                    assert error.errno in (errno.ENOENT, errno.EINVAL), error

        harness.together(work)
        for i in range(50):
            left, right = (self.c / f"l{i}").exists(), (self.c / f"r{i}").exists()
            self.assertEqual(left + right, 1, i)
            self.assertTrue((self.c / (f"l{i}" if left else f"r{i}") / "in").is_dir())

    def test_all_make_the_same_path(self):
        def work(side):
            for i in range(40):
                path = self.sides[side] / f"p{i}/a/b/c"
                os.makedirs(path, exist_ok=True)
                (path / f"of{side}").touch()

        harness.together(work, count=3)
        for i in range(40):
            self.assertEqual(sorted(os.listdir(self.a / f"p{i}/a/b/c")), ["of0", "of1", "of2"])

    def test_all_fill_and_remove_one_tree(self):
        def work(side):
            for i in range(6):
                for k in range(10):
                    try:
                        os.makedirs(self.sides[side] / f"t/{k}", exist_ok=True)
                        (self.sides[side] / f"t/{k}/f{side}-{i}").write_text("x")
                    except (FileNotFoundError, FileExistsError):
                        pass  # somebody removes the tree meanwhile
                if i % 3 == side:
                    try:
                        shutil.rmtree(self.sides[side] / "t", ignore_errors=True)
                    except OSError as error:  # It had opened a folder that another removed.
                        self.assertEqual(error.errno, errno.ESTALE)

        harness.together(work, count=3)
        trees = [sorted(str(p.relative_to(side)) for p in side.rglob("*")) for side in self.sides]
        for tree in trees[1:]:
            self.assertEqual(tree, trees[0])
        os.makedirs(self.c / "t", exist_ok=True)
        shutil.rmtree(self.b / "t")
        self.assertEqual(os.listdir(self.a), [])


if __name__ == "__main__":
    harness.main()
