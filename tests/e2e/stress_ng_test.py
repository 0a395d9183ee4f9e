#!/usr/bin/env python3
"""The file-system stressors of stress-ng, with --verify, on an embedded mount and on two served
ones at once: those that ext4 passes must pass here.

Several stressors run side by side, each with an instance or two. What stress-ng skips, it says:
fiemap and verity, which the kernel does not ask FUSE for.
"""
import re
import subprocess

import harness

# Those of its class "filesystem" that use a file system (not binderfs, eventfd, ioprio, procfs, nor
# bind-mount, which needs --pathological, nor fanotify and io, which watch and sync all mounts of
# the machine), and those of others that use files.
STRESSORS = """
    access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate
    fcntl fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd
    inode-flags inotify iomix lease link locka lockf lockofd mknod open rename symlink sync-file
    touch utime verity xattr
    aio aiol msync readahead revio seek sendfile splice
""".split()
TOGETHER = 1 if harness.LONG else 10
SECONDS = 5 if harness.LONG else 1
INSTANCES = 2 if harness.LONG else 1
# Less than they would write by themselves, so that slow machines come to an end in time.
SMALLER = [f"--{what}=16m" for what in ("hdd-bytes", "iomix-bytes", "fallocate-bytes",
                                       "sync-file-bytes", "readahead-bytes", "seek-size",
                                       "msync-bytes")]
MAY_BE_SKIPPED = {"fiemap", "verity"}


def start(stressors, folder, outside):
    words = ["stress-ng", "--verify", "--timeout", f"{SECONDS}s", "--temp-path", str(folder)]
    words += SMALLER
    for stressor in stressors:
        words += [f"--{stressor}", str(INSTANCES)]
    # The working directory is not on the mount: getcwd may fail for a moment there (docs/kernel.md,
    # "What FUSE does not allow"). A session of its own, so that all of it can be ended.
    return subprocess.Popen(words, cwd=outside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace",
                            start_new_session=True)


class StressNg(harness.Case):
    seconds = 1800 if harness.LONG else 240

    def stress(self, *mounts):
        skipped = set()
        folders = [mount / "stress" for mount in mounts]  # of two mounts it is the same one
        folders[0].mkdir()
        for begin in range(0, len(STRESSORS), TOGETHER):
            stressors = STRESSORS[begin:begin + TOGETHER]
            running = [start(stressors, folder, self.world.folder) for folder in folders]
            for process in running:
                output, _ = process.communicate(timeout=SECONDS + 60)
                self.assertEqual(process.returncode, 0, f"{stressors}\n{output}")
                self.assertNotIn("fail:", output)
                skipped.update(re.findall(r"\[\d+\] ([\w-]+): .*skipping", output))
        print(f"{len(STRESSORS)} stressors, skipped: {', '.join(sorted(skipped)) or 'none'}",
              flush=True)
        self.assertLessEqual(skipped, MAY_BE_SKIPPED)
        for mount in mounts:
            self.assertEqual(mount.status()["mount"]["files"]["lost"], 0)
            mount.umount()

    def test_embedded_mount(self):
        store = self.world.mkfs()
        self.stress(self.world.mount(store, "m"))
        self.world.fsck(store)

    def test_two_mounts_in_one_directory(self):
        server, a, b = self.world.served_pair()
        self.stress(a, b)
        server.stop()
        self.world.fsck(server.store)


if __name__ == "__main__":
    harness.main()
