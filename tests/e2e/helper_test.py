#!/usr/bin/env python3
"""What makes mounts and servers start with the system: the helpers of mount(8) and umount(8) for
the type fuse.plumeria (share/mount.fuse.plumeria), and the unit of the server."""
import os
import pathlib
import re
import shlex
import signal
import sys

import harness
from harness import PLUMERIA, TREE, run

HELPER = TREE / "share/mount.fuse.plumeria"
# mount(8) looks for its helpers in /sbin only, and takes notes in /run/mount. The tests run in a
# mount namespace of their own that has the helpers there; nobody else sees them, and they go with
# it.
NAMESPACE = """
set -e
mkdir -p /run/mount
mount -t tmpfs tmpfs /run/mount
mkdir /run/mount/upper /run/mount/work
mount -t overlay overlay \
  -o lowerdir=/usr/sbin,upperdir=/run/mount/upper,workdir=/run/mount/work /usr/sbin
ln -s "$1" /usr/sbin/mount.fuse.plumeria
ln -s "$1" /usr/sbin/umount.fuse.plumeria
shift
exec "$@"
"""


class Helper(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.world.mkfs()
        self.point = self.world.folder / "mnt"
        self.point.mkdir()
        self.log = self.world.folder / "log"
        self.world.cleanups.append(self.end_daemons)

    def end_daemons(self):
        """Those of a test that failed."""
        for pid in harness.processes_of(self.world.folder):
            os.kill(pid, signal.SIGKILL)

    def helper(self, *arguments, code=0, name="mount.fuse.plumeria", **environment):
        done = run(f"/usr/sbin/{name}", *arguments, check=False,
                   env={**os.environ, **environment})
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def options(self):
        with open("/proc/self/mounts", encoding="utf-8") as table:
            for line in table:
                source, point, kind, options, *_ = line.split()
                if point == str(self.point):
                    self.assertEqual((source, kind), (str(self.store), "fuse.plumeria"))
                    return options.split(",")
        return None

    def test_mount_and_umount(self):
        pid_file = self.world.folder / "pid"
        self.helper(self.store, self.point, "-n", "-o",
                    f"rw,noexec,_netdev,nofail,x-systemd.automount,relatime,user=u,log={self.log},"
                    f"cache-size=16M,nice=3,pid-file={pid_file}")
        self.assertTrue({"rw", "noexec", "nosuid", "nodev"} <= set(self.options()))
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, int(pid_file.read_text())), 3)
        (self.point / "f").write_text("x")
        self.helper(self.point, name="umount.fuse.plumeria")
        # It returns when the daemon has written everything: nobody holds the store.
        self.assertIsNone(self.options())
        self.world.fsck(self.store)
        self.helper(self.store, self.point, "-o", f"ro,suid,dev,log={self.log}", "-t",
                    "fuse.plumeria", "-N", "/proc/self/ns/mnt")
        self.assertIn("ro", self.options())
        self.assertNotIn("nosuid", self.options())
        self.assertEqual((self.point / "f").read_text(), "x")
        self.helper(self.point, "-l", name="umount.fuse.plumeria")

    def test_what_is_refused(self):
        store, point = self.store, self.point
        self.assertIn("usage", self.helper(store, code=1).stderr)
        self.assertIn("bogus", self.helper(store, point, "-o", "rw,bogus", code=1).stderr)
        self.assertIn("remount", self.helper(store, point, "-o", "remount", code=1).stderr)
        self.assertIn("-q", self.helper(store, point, "-q", code=1).stderr)
        self.assertIn("extra", self.helper(store, point, "extra", code=1).stderr)
        self.assertIn("cache-size", self.helper(store, point, "-o", "cache-size=1", code=1).stderr)
        self.assertIn("missing", self.helper(store, f"{point}/missing", code=32).stderr)
        self.assertIn("/none", self.helper(store, point, code=2, PLUMERIA="/none").stderr)
        done = self.helper(point, code=32, name="umount.fuse.plumeria")
        self.assertIn("no Plumeria", done.stderr)
        self.assertIsNone(self.options())

    def test_sloppy_fake_and_verbose(self):
        done = self.helper(self.store, self.point, "-sfv", "-o", "bogus,ro")
        self.assertIn(f"mount -o ro {self.store} {self.point}", done.stdout)
        self.assertIsNone(self.options())

    def test_mount_8_and_umount_8(self):
        run("mount", "-t", "fuse.plumeria", self.store, self.point, "-o", f"noexec,log={self.log}")
        self.assertIn("noexec", self.options())
        for i in range(100):
            (self.point / f"f{i}").write_text("x" * 10000)
        run("umount", self.point)
        # It has waited for the end of the daemon: nobody holds the store.
        self.world.fsck(self.store)
        run("mount", "-t", "fuse.plumeria", self.store, self.point, "-r", "-o", f"log={self.log}")
        self.assertIn("ro", self.options())
        self.assertEqual((self.point / "f7").read_text(), "x" * 10000)
        with open(self.point / "f7", "rb"):
            busy = run("umount", self.point, check=False)
            self.assertEqual(busy.returncode, 32)
            self.assertIn("files of it are open", busy.stderr)
            run("umount", "-l", self.point)
            self.assertIsNone(self.options())
        notes = pathlib.Path("/run/mount/utab")
        self.assertNotIn(str(self.point), notes.read_text())

    def test_fstab(self):
        fstab = self.world.folder / "fstab"
        fstab.write_text(f"{self.store} {self.point} fuse.plumeria nofail,noexec,log={self.log},"
                         "x-systemd.requires=network.target 0 0\n")
        environment = {"env": {**os.environ, "LIBMOUNT_FSTAB": str(fstab)}}
        for _ in range(2):  # The second time everything is mounted already.
            run("mount", "-a", **environment)
            self.assertIn("noexec", self.options())
        (self.point / "f").write_text("x")
        run("umount", self.point, **environment)
        self.world.fsck(self.store)
        run("mount", self.point, **environment)
        self.assertEqual((self.point / "f").read_text(), "x")
        failed = run("mount", "-o", "remount,ro", self.point, check=False, **environment)
        self.assertIn("unmount and mount again", failed.stderr)
        run("umount", self.point, **environment)
        self.world.fsck(self.store)

    def test_what_the_unit_of_the_server_runs(self):
        """As systemd would, with a configuration as the example is."""
        unit = (TREE / "share/plumeria-serve@.service").read_text()
        command, = re.findall(r"(?m)^ExecStart=plumeria (.*)$", unit)
        pid_file, = re.findall(r"(?m)^PIDFile=(.*)$", unit)
        address = f"127.0.0.1:{harness.free_port()}"
        example = (TREE / "share/example.conf").read_text()
        conf = self.world.folder / "home.conf"
        conf.write_text(example.replace("/srv/store", str(self.store))
                        .replace("192.0.2.1:7411", address))

        def placed(text):
            return text.replace("%i", "home").replace("/run/", f"{self.world.folder}/")

        words = shlex.split(placed(command))
        values = dict(line.split("=", 1) for line in conf.read_text().splitlines()
                      if line and not line.startswith("#"))
        at = words.index("$OPTIONS")
        words[at:] = [*values["OPTIONS"].split(), values["STORE"]]
        self.assertIn("${STORE}", command)
        run(PLUMERIA, *words)
        self.assertIn(str(self.store), self.world.status(address)["what"])
        pid = int(pathlib.Path(placed(pid_file)).read_text())
        self.helper(address, self.point, "-o", f"_netdev,log={self.log}")
        (self.point / "f").write_text("x")
        self.helper(self.point, name="umount.fuse.plumeria")
        os.kill(pid, signal.SIGTERM)
        self.eventually(lambda: not pathlib.Path(placed(pid_file)).exists(), 10, "it stops")
        self.world.fsck(self.store)


if __name__ == "__main__":
    if os.environ.get("PLUMERIA_NAMESPACE") != "1":
        os.environ |= {"PLUMERIA_NAMESPACE": "1", "PLUMERIA": PLUMERIA}
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", NAMESPACE, "sh", str(HELPER),
                              sys.executable, *sys.argv])
    harness.main()
