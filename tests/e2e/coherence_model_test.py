#!/usr/bin/env python3
"""Random calls, each on one of two mounts and on a twin, a folder of the local file system:
the same results, the same errors, the same trees. PLUMERIA_SEED repeats a run."""
import mmap
import os
import random
import stat
import struct
import time

import harness

SECONDS = 60 if harness.LONG else 6
FOLDERS = ["", "d0", "d1", "d0/s", "d1/s"]
NAMES = ["f0", "f1", "f2", "f3", "d0", "d1", "s"]
SIZES = [0, 1, 50, 3000, 3700, 4096, 5000, 20_000, 65_536, 70_000, 150_000]
TARGETS = ["f0", "../f1", "d0", "../d1/f2", "s/f0", "nowhere"]
OPEN_FLAGS = [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
              os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_APPEND, os.O_WRONLY]
HANDLES_MAX = 8


def attempt(function, *arguments):
    """A result that can be compared, or the errno."""
    try:
        return function(*arguments)
    except OSError as error:
        return f"errno {error.errno}"
    except ValueError:  # mmap of nothing
        return "value"


def attributes(found):
    """What a mount and its twin have in common: not the sizes and links of folders."""
    if stat.S_ISDIR(found.st_mode):
        return oct(found.st_mode), found.st_uid
    return oct(found.st_mode), found.st_nlink, found.st_size, found.st_uid


def exact(found):
    """What all mounts must tell alike."""
    return (found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size,
            found.st_mtime_ns, found.st_ctime_ns)


def sizes(fd):
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        return attributes(found)
    return attributes(found), os.lseek(fd, 0, os.SEEK_END)


def read_file(path):
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def peek(fd):
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        return mapped[:]


def poke(fd, start, data):
    with mmap.mmap(fd, 0) as mapped:
        start %= len(mapped)
        data = data[:len(mapped) - start]
        mapped[start:start + len(data)] = data


def look(path):
    """Everything about one name."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return attributes(found), os.readlink(path)
    if stat.S_ISDIR(found.st_mode):
        return attributes(found), sorted(os.listdir(path))
    return attributes(found), read_file(path)


def tree(root):
    """{name: everything about it}"""
    seen = {"": attempt(look, root)}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            seen[os.path.relpath(path, root)] = attempt(look, path)
    return seen


class Handle:
    """An open file of a mount, and that of the twin."""

    def __init__(self, name, side, real, twin):
        self.name, self.side, self.real, self.twin = name, side, real, twin

    def __str__(self):
        return f"handle of {self.name} on {self.side}"


class Run:
    """One random run over `sides` (folders of the mounts) and `twin`."""

    def __init__(self, sides, twin, seed):
        self.sides, self.twin, self.chance = sides, twin, random.Random(seed)
        self.handles = []
        self.steps = []
        self.changed = [""]
        self.calls = {
            "open": 6, "close": 3, "pwrite": 8, "write": 3, "ftruncate": 3, "pread": 4, "fstat": 4,
            "peek": 3, "poke": 4, "fsync": 1, "unlink": 4, "rmdir": 2, "mkdir": 3, "rename": 5,
            "link": 3, "symlink": 2, "chmod": 2, "chown": 1, "truncate": 3, "utime": 1, "create": 4,
        }

    def name(self):
        return os.path.join(self.chance.choice(FOLDERS), self.chance.choice(NAMES))

    def data(self):
        return struct.pack("<I", len(self.steps)) * (self.chance.choice(SIZES) // 4 + 1)

    def same(self, what, real, twin):
        if real != twin:
            shown = [repr(value)[:300] for value in (real, twin)]
            where = ""
            if isinstance(real, bytes) and isinstance(twin, bytes):
                at = next((i for i, (x, y) in enumerate(zip(real, twin)) if x != y),
                          min(len(real), len(twin)))
                where = f" ({len(real)} and {len(twin)} bytes, different from {at} on)"
            raise AssertionError(f"{what}: {shown[0]}, but the twin {shown[1]}{where}\nafter\n  " +
                                 "\n  ".join(self.steps[-40:]))

    def step(self):
        kind = self.chance.choices(list(self.calls), list(self.calls.values()))[0]
        if kind in ("close", "pwrite", "write", "ftruncate", "pread", "fstat", "peek", "poke",
                    "fsync"):
            self.use_handle(kind)
        else:
            self.use_name(kind)

    def use_handle(self, kind):
        if not self.handles:
            return
        handle = self.chance.choice(self.handles)
        start = self.chance.choice([0, self.chance.randrange(100_000), 4096, 65_536])
        call = {
            "close": os.close,
            "pwrite": lambda fd, data=self.data(): os.pwrite(fd, data, start),
            "write": lambda fd, data=self.data(): os.write(fd, data),
            "ftruncate": lambda fd, size=self.chance.choice(SIZES): os.ftruncate(fd, size),
            "pread": lambda fd: os.pread(fd, 10_000, start),
            "fstat": sizes,
            "peek": peek,
            "poke": lambda fd, data=self.data(): poke(fd, start, data),
            "fsync": os.fsync,
        }[kind]
        self.steps.append(f"{kind} ({start}) on the {handle}")
        self.same(self.steps[-1], attempt(call, handle.real), attempt(call, handle.twin))
        self.changed = [handle.name]
        if kind == "close":
            self.handles.remove(handle)

    def use_name(self, kind):
        side = self.chance.randrange(len(self.sides))
        name, other = self.name(), self.name()
        number = len(self.steps)
        self.changed = [name]
        self.steps.append(f"{kind} {name} ({other}) on {side}")
        if kind == "open":
            flags = self.chance.choice(OPEN_FLAGS)
            real = attempt(os.open, self.sides[side] / name, flags)
            twin = attempt(os.open, self.twin / name, flags)
            self.steps[-1] += f" flags {flags:o}"
            self.same(self.steps[-1], isinstance(real, int) or real, isinstance(twin, int) or twin)
            if isinstance(real, int):
                self.handles.append(Handle(name, side, real, twin))
                if len(self.handles) > HANDLES_MAX:
                    oldest = self.handles.pop(0)
                    os.close(oldest.real)
                    os.close(oldest.twin)
            return
        size, target = self.chance.choice(SIZES), self.chance.choice(TARGETS)
        data = self.data()
        call = {
            "unlink": lambda root: os.unlink(root / name),
            "rmdir": lambda root: os.rmdir(root / name),
            "mkdir": lambda root: os.mkdir(root / name),
            "rename": lambda root: os.rename(root / name, root / other),
            "link": lambda root: os.link(root / name, root / other, follow_symlinks=False),
            "symlink": lambda root: os.symlink(target, root / name),
            "chmod": lambda root: os.chmod(root / name, 0o700 + number % 64),
            "chown": lambda root: os.chown(root / name, number, -1),
            "truncate": lambda root: os.truncate(root / name, size),
            "utime": lambda root: os.utime(root / name, (number, number)),
            "create": lambda root: (root / name).write_bytes(data),
        }[kind]
        self.changed.append(other)
        self.same(self.steps[-1], attempt(call, self.sides[side]), attempt(call, self.twin))

    def compare(self):
        """Looks at what was changed, at something else, at everything, or not at all."""
        how = self.chance.random()
        sides = self.chance.sample(self.sides, len(self.sides))
        if how < 0.1:
            return
        if how < 0.75:
            for name in [*self.changed, self.name()]:
                for side in sides:
                    self.same(f"{side / name}", attempt(look, side / name),
                              attempt(look, self.twin / name))
                told = [attempt(lambda p: exact(os.lstat(p)), side / name) for side in sides]
                self.same(f"attributes of {name}", told[0], told[1])
        else:
            self.compare_all(sides if how > 0.9 else sides[:1])
        for handle in self.chance.sample(self.handles, min(2, len(self.handles))):
            self.same(f"content by the {handle}", attempt(os.pread, handle.real, 300_000, 0),
                      attempt(os.pread, handle.twin, 300_000, 0))
            self.same(f"attributes by the {handle}", attributes(os.fstat(handle.real)),
                      attributes(os.fstat(handle.twin)))

    def compare_all(self, sides):
        twin = tree(self.twin)
        for side in sides:
            real = tree(side)
            self.same(f"names on {side}", sorted(real), sorted(twin))
            for name, value in real.items():
                for part, (seen, wanted) in enumerate(zip(value, twin[name])):
                    self.same(f"{side / name} ({('attributes', 'content')[part]})", seen, wanted)

    def end(self):
        self.compare_all(self.sides)
        for handle in self.handles:
            os.close(handle.real)
            os.close(handle.twin)
        self.compare_all(self.sides)


class Model(harness.SharedCase):
    mount_count = 2
    seconds = 60 + SECONDS

    def runs(self, sides, rounds):
        """A few runs, each from an empty folder."""
        seed = int(os.environ.get("PLUMERIA_SEED", random.randrange(10**6)))

        def work(_):
            steps = 0
            for number in range(rounds):
                folder = f"run{number}"
                twin = self.world.folder / self._testMethodName / folder
                os.makedirs(twin)
                os.mkdir(sides[0] / folder)
                os.chmod(sides[0] / folder, os.stat(twin).st_mode & 0o7777)
                run = Run([side / folder for side in sides], twin, seed + number)
                print(f"PLUMERIA_SEED={seed + number}", flush=True)
                end = time.monotonic() + SECONDS / rounds
                while time.monotonic() < end:
                    run.step()
                    run.compare()
                run.end()
                steps += len(run.steps)
            print(f"{steps} calls")
            assert steps > 100, "hardly anything was done"

        harness.together(work, count=1, seconds=SECONDS + 40)

    def test_random_calls_on_two_mounts(self):
        self.runs(self.sides, 4)


if __name__ == "__main__":
    harness.main()
