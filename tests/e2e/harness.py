"""Real processes for the end-to-end tests: stores, servers, mounts, and the certainty that they go.

A test derives from Case and uses self.world. Whatever happens, at its end every process that it
started is gone, every mount is unmounted (a hung one by aborting its FUSE connection) and its
folder is removed. A watchdog does the same when a test takes too long, so that a hang in the kernel
is a failure and not the end of the machine. If the test program itself is killed, a second process
that waits for its end (the janitor) does it.

Environment: PLUMERIA (the program; else the release build's), PLUMERIA_LONG=1 (longer loads),
PLUMERIA_KEEP=1 (keep folders of failed tests).
"""
import contextlib
import ctypes
import json
import multiprocessing
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
PLUMERIA = os.environ.get("PLUMERIA", str(TREE / "build/release/plumeria"))
LONG = os.environ.get("PLUMERIA_LONG") == "1"
FUSE_CONNECTIONS = pathlib.Path("/sys/fs/fuse/connections")
PR_SET_PDEATHSIG = 1
fork = multiprocessing.get_context("fork")
# All folders of this program lie below it, and each command that it starts has it in PLUMERIA_RUN.
base_folder = None


class Hung(Exception):
    """Something did not answer in its time."""


def wait_until(condition, seconds, what):
    """Asks `condition` again and again; returns its first true value and how long it took."""
    start = time.monotonic()
    while True:
        value = condition()
        if value:
            return value, time.monotonic() - start
        if time.monotonic() - start > seconds:
            raise Hung(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def run(*command, timeout=60, check=True, **options):
    """Runs a command to its end; a failure shows what it printed."""
    command = [str(word) for word in command]
    done = subprocess.run(command, timeout=timeout, check=False, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n"
                             f"{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mounts_below(folder):
    """[(mount point, kind of file system, minor device number)], in the order of mounting."""
    mounts = []
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            fields = line.split()
            if fields[4].startswith(f"{str(folder).rstrip('/')}/"):
                kind = fields[fields.index("-") + 1]
                mounts.append((fields[4], kind, int(fields[2].split(":")[1])))
    return mounts


def mount_table():
    """{mount point: minor device number} of all Plumeria mounts."""
    return {point: minor for point, kind, minor in mounts_below("/") if kind == "fuse.plumeria"}


def abort_connection(minor):
    if not (FUSE_CONNECTIONS / str(minor)).exists():
        subprocess.run(["mount", "-t", "fusectl", "fusectl", FUSE_CONNECTIONS], check=False,
                       capture_output=True)
    try:
        (FUSE_CONNECTIONS / str(minor) / "abort").write_text("1")
    except OSError:
        pass


def unmount_below(folder):
    """Takes everything that is mounted below a folder out of the tree; nothing of it can hang."""
    for point, kind, minor in reversed(mounts_below(folder)):
        if kind == "fuse.plumeria":
            abort_connection(minor)
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def processes_of(folder):
    """Those that were started with PLUMERIA_RUN at or below this folder."""
    mark = f"PLUMERIA_RUN={folder}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if any(v == mark or v.startswith(mark + b"/") for v in variables):
            found.append(int(name))
    return found


def clean_up_after_death(folder):
    """Ends everything that a killed test program has left."""
    for _ in range(100):
        processes = processes_of(folder)
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        unmount_below(folder)
        if not processes:
            break
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def be_janitor(folder, test):
    """Waits for the end of the test program (which ends us if it comes to its own end)."""
    descriptor = os.pidfd_open(test)
    print("ready", flush=True)
    select.select([descriptor], [], [])
    clean_up_after_death(folder)


def start_janitor():
    """Returns its process, when it watches."""
    global base_folder
    base_folder = tempfile.mkdtemp(prefix="plumeria-e2e-")
    janitor = subprocess.Popen(
        [sys.executable, __file__, "--janitor", base_folder, str(os.getpid())],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL)
    janitor.stdout.readline()
    # Processes that are forked (and not marked by their environment) die with the one that did it.
    libc = ctypes.CDLL(None)
    os.register_at_fork(
        after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    return janitor


class Process:
    """A plumeria daemon in the foreground, its messages in a file."""

    def __init__(self, world, name, *arguments):
        self.world = world
        self.log = world.folder / f"{name}.log"
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen([PLUMERIA, *map(str, arguments)],
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True)
        world.processes.append(self)

    def messages(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """As a power cut would: no clean-up. Returns when it is gone."""
        self.popen.kill()
        self.popen.wait(20)

    def wait(self, timeout=30):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Hung(f"{self.popen.args} did not end\n{self.messages()[-3000:]}") from None

    def alive(self):
        return self.popen.poll() is None


class Server(Process):
    def __init__(self, world, store, lease=None, port=None):
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.store = store
        extra = ["--lease", lease] if lease else []
        super().__init__(world, f"serve-{self.port}", "serve", store, "--listen", self.address,
                         "--foreground", *extra)
        self.wait_usable()

    def wait_usable(self):
        def usable():
            if not self.alive():
                raise AssertionError(f"serve ended with {self.popen.returncode}\n{self.messages()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                return False
        wait_until(usable, 60, f"serve at {self.address}")

    def status(self):
        return self.world.status(self.address)

    def stop(self):
        self.signal(signal.SIGTERM)
        code = self.wait()
        if code != 0:
            raise AssertionError(f"serve ended with {code}\n{self.messages()[-3000:]}")


class Mount(Process):
    def __init__(self, world, target, name, *options):
        self.path = world.folder / name
        self.minor = None
        if str(self.path) not in mount_table():  # else a dead one is still there
            self.path.mkdir(exist_ok=True)
        super().__init__(world, f"mount-{name}", "mount", target, self.path, "--foreground",
                         *options)
        self.wait_usable()

    def wait_usable(self):
        def usable():
            if not self.alive():
                raise AssertionError(f"mount ended with {self.popen.returncode}\n{self.messages()}")
            self.minor = mount_table().get(str(self.path))
            try:
                return self.minor is not None and os.statvfs(self.path)
            except OSError:
                return False
        wait_until(usable, 60, f"mount at {self.path}")
        self.path.stat()

    def __truediv__(self, name):
        return self.path / name

    def status(self):
        return self.world.status(self.path)

    def umount(self, timeout=60):
        run(PLUMERIA, "umount", self.path, timeout=timeout)
        code = self.wait()
        if code != 0:
            raise AssertionError(f"mount ended with {code}\n{self.messages()[-3000:]}")

    def detach(self):
        """After its process died: takes the dead mount out of the tree."""
        subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)

    def abort(self):
        # The number of a connection that has ended is somebody else's by now.
        if self.minor is None:
            return
        if self.alive() or mount_table().get(str(self.path)) == self.minor:
            abort_connection(self.minor)


class World:
    def __init__(self, seconds):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="test-", dir=base_folder))
        os.environ["PLUMERIA_RUN"] = str(self.folder / "run")
        self.processes = []
        self.cleanups = []
        self.hung = False
        self.watchdog = None
        self.watch(seconds)

    def watch(self, seconds):
        """From now on there are so many seconds."""
        if self.watchdog:
            self.watchdog.cancel()
        self.watchdog = threading.Timer(seconds, self.give_up)
        self.watchdog.daemon = True
        self.watchdog.start()

    def give_up(self):
        self.hung = True
        print("watchdog: the test takes too long; ending its processes", file=sys.stderr)
        self.end_processes()

    def mkfs(self, name="store", *options):
        store = self.folder / name
        run(PLUMERIA, "mkfs", store, *options)
        return store

    def serve(self, store, **options):
        return Server(self, store, **options)

    def mount(self, target, name, *options):
        return Mount(self, getattr(target, "address", target), name, *options)

    def served_pair(self, *mkfs_options, **serve_options):
        """A store, its server, and two mounts of it."""
        server = self.serve(self.mkfs("store", *mkfs_options), **serve_options)
        return server, self.mount(server, "a"), self.mount(server, "b")

    def status(self, target):
        return json.loads(run(PLUMERIA, "status", target, "--json").stdout)

    def fsck(self, store):
        return run(PLUMERIA, "fsck", store, timeout=300)

    def show_messages(self):
        for process in self.processes:
            print(f"--- {process.log.name} (exit {process.popen.poll()})\n"
                  f"{process.messages()[-3000:]}", file=sys.stderr)

    def end_processes(self):
        for process in reversed(self.processes):
            if isinstance(process, Mount):
                process.abort()
            if process.alive():
                process.popen.send_signal(signal.SIGCONT)
                process.popen.kill()
        for point, kind, _ in reversed(mounts_below(self.folder)):
            if kind == "fuse.plumeria":
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)

    def end_round(self):
        """Everything of this world goes, and it can be used again."""
        self.end_processes()
        for process in self.processes:
            process.popen.wait(20)
        self.processes.clear()
        unmount_below(self.folder)
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)

    def close(self, keep):
        self.watchdog.cancel()
        self.end_processes()
        for process in self.processes:
            try:
                process.popen.wait(20)
            except subprocess.TimeoutExpired:
                print(f"{process.popen.args} cannot be killed", file=sys.stderr)
        for cleanup in reversed(self.cleanups):
            cleanup()
        unmount_below(self.folder)
        if keep:
            print(f"kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def together(work, *arguments, count=2, seconds=90):
    """Runs work(side, …) in so many processes at once; all must end well."""
    barrier = fork.Barrier(count)

    def one(side):
        barrier.wait(20)
        work(side, *arguments)

    children = [fork.Process(target=one, args=(side,), daemon=True) for side in range(count)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    try:
        while not all(child.exitcode == 0 for child in children):
            for child in children:
                child.join(0.02)
                if child.exitcode not in (None, 0):
                    raise AssertionError(f"a worker ended with {child.exitcode}")
            if time.monotonic() > end:
                raise Hung("a worker did not end")
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.join(10)


NOBODY = 65534  # a user, and a group


@contextlib.contextmanager
def nobody():
    """This process has no rights."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


class Hands:
    """A process that does what it is told: for what belongs to a process (file locks, the working
    directory, mappings), and for calls that could hang the test itself."""

    def __init__(self):
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=self.work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    @staticmethod
    def work(pipe):
        while True:
            function, arguments = pipe.recv()
            try:
                answer = None, function(*arguments)
            except Exception as error:  # pylint: disable=broad-except
                answer = error, None
            pipe.send(answer)

    def begin(self, function, *arguments):
        self.pipe.send((function, arguments))

    def is_done(self, seconds=0.0):
        return self.pipe.poll(seconds)

    def result(self, seconds=30):
        if not self.pipe.poll(seconds):
            raise Hung(f"a call did not return within {seconds} s")
        error, value = self.pipe.recv()
        if error:
            raise error
        return value

    def do(self, function, *arguments):
        self.begin(function, *arguments)
        return self.result()

    def kill(self):
        self.process.kill()
        self.process.join(20)


def has_failed(test):
    result = test._outcome.result  # pylint: disable=protected-access
    return any(one is test for one, _ in result.failures + result.errors)


class SharedCase(unittest.TestCase):
    """Tests that share a store, its server and its mounts, each in a folder of its own. `seconds`
    is the watchdog's, for one test. At the end all is unmounted, and the store is whole."""
    mount_count = 2
    seconds = 90

    @classmethod
    def setUpClass(cls):
        cls.world = World(cls.seconds)
        try:
            cls.server = cls.world.serve(cls.world.mkfs())
            cls.mounts = [cls.world.mount(cls.server, name) for name in "abcd"[:cls.mount_count]]
        except BaseException:
            cls.world.show_messages()
            cls.world.close(keep=False)
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            cls.world.watch(cls.seconds)
            for mount in cls.mounts:
                mount.umount()
            cls.server.stop()
            cls.world.fsck(cls.server.store)
        finally:
            cls.world.close(keep=False)

    def setUp(self):
        self.world.watch(self.seconds)
        name = self._testMethodName.removeprefix("test_")
        os.mkdir(self.mounts[0] / name)
        self.sides = [mount / name for mount in self.mounts]
        self.a, self.b = self.sides[:2]
        self.addCleanup(lambda: self.world.show_messages() if has_failed(self) else None)

    def open(self, path, flags=os.O_RDWR, mode=0o644):
        """A descriptor that is closed at the end of the test."""
        fd = os.open(path, flags, mode)
        self.addCleanup(os.close, fd)
        return fd

    def hands(self):
        hands = Hands()
        self.addCleanup(hands.kill)
        return hands

    def assertErrno(self, code, call, *arguments):
        with self.assertRaises(OSError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.errno, code, f"{call.__name__}{arguments}")


class Case(unittest.TestCase):
    """One world a test. `seconds` is the watchdog's."""
    seconds = 120

    def setUp(self):
        self.world = World(self.seconds)
        self.addCleanup(self.close_world)

    def close_world(self):
        failed = has_failed(self)
        if failed or self.world.hung:
            self.world.show_messages()
        self.world.close(keep=failed and os.environ.get("PLUMERIA_KEEP") == "1")
        if self.world.hung:
            raise Hung(f"not done within {self.seconds} s")

    def eventually(self, condition, seconds, what):
        return wait_until(condition, seconds, what)


def main():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("these tests mount file systems: they need root and /dev/fuse", file=sys.stderr)
        sys.exit(1)

    # Whoever ends the test early gets the same clean-up, and no further test begins.
    def end_early(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end_early)
    janitor = start_janitor()
    try:
        unittest.main(verbosity=2)
    except KeyboardInterrupt:
        print("ended early; what is left goes now", file=sys.stderr, flush=True)
        os._exit(1)  # Whatever else would be waited for may hang. The janitor does the rest.
    finally:
        janitor.kill()
        try:
            os.rmdir(base_folder)  # What is kept for people stays.
        except OSError:
            pass


if __name__ == "__main__" and sys.argv[1:2] == ["--janitor"]:
    be_janitor(sys.argv[2], int(sys.argv[3]))
