#!/usr/bin/env python3
"""The Debian package installs, works and goes again, on this machine's system as it is.

Everything happens in a mount namespace whose root is a layer of memory over the real one, so that
the machine itself does not change. Needs root.

    package_test.py BUILD_FOLDER       the release build, with the program in it
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
# The layer is mounted at $1; the rest is a command for it, which finds the packages in /tmp/deb.
LAYER = """
set -e
layer=$1 packages=$2
shift 2
mount -t tmpfs tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay overlay \
  -o lowerdir=/,upperdir="$layer/upper",workdir="$layer/work" "$layer/root"
mount --rbind /dev "$layer/root/dev"
mount -t proc proc "$layer/root/proc"
mkdir "$layer/root/tmp/deb"
mount --bind "$packages" "$layer/root/tmp/deb"
exec chroot "$layer/root" "$@"
"""
INSIDE = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin
step() { echo "== $1"; }
find /usr /etc | sort >/tmp/before
step install
dpkg -i /tmp/deb/*.deb
dpkg -s plumeria | grep '^Status: install ok installed'
step version
cd /
plumeria --version
plumeria --help >/dev/null
step manual
for page in plumeria plumeria-mount plumeria-umount plumeria-logdump mount.fuse.plumeria; do
  man --warnings=w "$page" 2>&1 >/dev/null | sed "s/^/$page: /" >&2
done
step helper
mount.fuse.plumeria /srv/store /mnt -fv -o ro
mkdir /tmp/store-parent
plumeria mkfs /tmp/store-parent/store
step unit
mkdir -p /etc/plumeria
cp /usr/share/doc/plumeria/example.conf /etc/plumeria/demo.conf
systemd-analyze verify plumeria-serve@demo.service
step completion
bash -c 'source /usr/share/bash-completion/completions/plumeria && complete -p plumeria'
step again
dpkg -i /tmp/deb/*.deb
rm -r /etc/plumeria
step remove
dpkg -r plumeria
if dpkg -s plumeria 2>/dev/null; then exit 1; fi
find /usr /etc | sort >/tmp/after
diff /tmp/before /tmp/after
step end
"""


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False, timeout=240, **options)
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="plumeria-package-")
        cls.deb_folder = pathlib.Path(cls.folder.name) / "deb"
        # Like tools/deb, but leaving the build folder as it is.
        run("cpack", "-G", "DEB", "-B", cls.deb_folder, cwd=BUILD)
        cls.debs = list(cls.deb_folder.glob("*.deb"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_what_it_says_of_itself(self):
        self.assertEqual(len(self.debs), 1)
        version = run(BUILD / "plumeria", "version").stdout.split()[1].rstrip(",")
        architecture = run("dpkg", "--print-architecture").stdout.strip()
        self.assertEqual(self.debs[0].name, f"plumeria_{version}_{architecture}.deb")
        fields = run("dpkg-deb", "-f", self.debs[0]).stdout
        for line in ("Package: plumeria", f"Version: {version}", "Section: admin",
                     "Maintainer: .+ <.+@.+>", "Description: POSIX file system .+",
                     r"Depends: .*libc6 \(>= .*libstdc\+\+6"):
            self.assertRegex(fields, f"(?m)^{line}")

    def test_it_has_everything(self):
        listing = run("dpkg-deb", "-c", self.debs[0]).stdout
        files = {line.split()[5].removeprefix("."): line.split() for line in listing.splitlines()}
        wanted = {"/usr/bin/plumeria": "-rwxr-xr-x", "/usr/sbin/mount.fuse.plumeria": "-rwxr-xr-x",
                  "/usr/sbin/umount.fuse.plumeria": "-rwxr-xr-x",
                  "/usr/lib/systemd/system/plumeria-serve@.service": "-rw-r--r--",
                  "/usr/share/bash-completion/completions/plumeria": "-rw-r--r--",
                  "/usr/share/doc/plumeria/copyright": "-rw-r--r--"}
        for page in (TREE / "man").iterdir():
            wanted[f"/usr/share/man/man{page.suffix[1:]}/{page.name}"] = "-rw-r--r--"
        for path, mode in wanted.items():
            self.assertIn(path, files)
            self.assertEqual((files[path][0], files[path][1]), (mode, "root/root"), path)

    def test_it_installs_works_and_goes(self):
        layer = pathlib.Path(self.folder.name) / "layer"
        layer.mkdir()
        done = run("unshare", "-m", "sh", "-c", LAYER, "sh", layer, self.deb_folder, "sh", "-c",
                   INSIDE)
        self.assertIn("== end", done.stdout)
        self.assertRegex(done.stdout, r"(?m)^plumeria \d+\.\d+\.\d+, store format \d+")
        self.assertIn("plumeria mount -o ro /srv/store /mnt", done.stdout)
        messages = [line for line in done.stderr.splitlines() if re.match("plumeria|mount.fuse|man",
                                                                          line)]
        self.assertEqual(messages, [], done.stderr)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("this test installs a package (in a namespace of its own): it needs root")
    BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
