#!/usr/bin/env python3
"""fio with verification: what was written by its engines is what is read back, also through another
mount."""
import os
import subprocess

import harness

MEGABYTES = 512 if harness.LONG else 16
JOBS = {
    "sequential": ["--rw=write", "--bs=1M"],
    "random": ["--rw=randwrite", "--bs=4k", "--ioengine=psync"],
    "overwritten": ["--rw=randwrite", "--bsrange=4k-64k", "--ioengine=psync", "--overwrite=1",
                    "--fsync=50", "--verify_backlog=32"],
    "mapped": ["--rw=randwrite", "--bs=4k", "--ioengine=mmap"],
    "direct": ["--rw=randwrite", "--bsrange=4k-64k", "--ioengine=psync", "--direct=1"],
    "asynchronous": ["--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=16",
                     "--direct=1"],
    "buffered_asynchronous": ["--rw=randwrite", "--bs=16k", "--ioengine=libaio", "--iodepth=8",
                              "--fallocate=none"],
}


def command(path, job, *more):
    return ["fio", f"--name={job}", f"--filename={path}", f"--size={MEGABYTES}M",
            "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randseed=7",
            "--minimal", *JOBS[job], *more]


def run(words):
    done = harness.run(*words, timeout=600, cwd=os.path.dirname(words[2].partition("=")[2]))
    # fio says 0 also after some errors; what it says then is not for a machine.
    assert "err=" not in done.stdout + done.stderr, done.stdout + done.stderr


class Fio(harness.Case):
    seconds = 1800 if harness.LONG else 240

    def test_every_engine_on_an_embedded_mount(self):
        store = self.world.mkfs()
        mount = self.world.mount(store, "m")
        for job in JOBS:
            with self.subTest(job):
                run(command(mount / job, job))
        mount.umount()
        mount = self.world.mount(store, "m")
        for job in JOBS:
            with self.subTest(f"{job}, mounted again"):
                run(command(mount / job, job, "--verify_only"))
        mount.umount()
        self.world.fsck(store)

    def test_jobs_on_two_mounts_at_once_each_verified_by_the_other(self):
        server, a, b = self.world.served_pair()
        jobs = [("random", a, b), ("direct", b, a), ("mapped", a, b), ("sequential", b, a)]
        running = [subprocess.Popen(command(writer / job, job), cwd=writer.path,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
                   for job, writer, _ in jobs]
        for process in running:
            output, _ = process.communicate(timeout=600)
            self.assertEqual(process.returncode, 0, output)
        for job, _, reader in jobs:
            run(command(reader / job, job, "--verify_only"))
        for mount in (a, b):
            mount.umount()
        server.stop()
        self.world.fsck(server.store)


if __name__ == "__main__":
    harness.main()
