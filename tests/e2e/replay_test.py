#!/usr/bin/env python3
"""A mount dies with as much in its log as there can be that is not in its place: what the replay
costs at the next mount."""
import os
import time

import harness

REPLAY_MAX = 5.0  # seconds; far more than it takes, so that only what is wrong takes longer
MEBIBYTE = 1 << 20
LOG = 64 * MEBIBYTE  # the default
# The log is trimmed when half of it is used; so it is made twice as large to hold what fills one.
LONG_LOG = 2 * LOG


class Replay(harness.Case):
    seconds = 600

    def fill(self, mount, wanted):
        """Creates files on two processors until `wanted` bytes of the log are used; the number."""
        go_on = harness.fork.RawValue("b", 1)
        made = harness.fork.RawArray("q", 2)

        def create(side):
            folder = mount / f"d{side}"
            os.mkdir(folder)
            while go_on.value:
                os.mknod(folder / f"f{made[side]}")  # a regular file, with one request
                made[side] += 1
            whole = os.open(folder, os.O_RDONLY)
            os.fsync(whole)

        workers = [harness.fork.Process(target=create, args=(side,), daemon=True)
                   for side in range(2)]
        for worker in workers:
            worker.start()
        used = 0
        while used < wanted:
            now = mount.status()["mount"]["log"]["used"]
            self.assertGreaterEqual(now, used, "the log was trimmed: too late")
            used = now
            time.sleep(0.05)
        go_on.value = 0
        for worker in workers:
            worker.join(60)
            self.assertEqual(worker.exitcode, 0)
        return list(made), mount.status()["mount"]["log"]["used"]

    def test_replay_of_a_full_log(self):
        size = LONG_LOG if harness.LONG else LOG
        store = self.world.mkfs("store", "--log-size", f"{size // MEBIBYTE}M")
        # With a usual cache its dirty blocks would be written back first.
        mount = self.world.mount(store, "m", "--cache-size", "2G")
        made, used = self.fill(mount, int(size * 0.46))
        mount.kill()
        mount.detach()
        start = time.monotonic()
        mount = self.world.mount(store, "m")
        took = time.monotonic() - start
        replay = mount.status()["server"]["first_replay"]
        print(f"{used >> 20} MiB of log, {sum(made)} files: usable after {took:.2f} s, of which "
              f"the replay was {replay['took_ms'] / 1000:.2f} s ({replay['records']} records, "
              f"{replay['blocks_written']} blocks)", flush=True)
        self.assertGreater(replay["records"], sum(made) / 2, "the log was not full")
        self.assertLess(took, REPLAY_MAX)
        for side in range(2):
            self.assertEqual(len(os.listdir(mount / f"d{side}")), made[side])
            self.assertEqual(os.stat(mount / f"d{side}" / f"f{made[side] - 1}").st_size, 0)
        mount.umount()
        self.world.fsck(store)


if __name__ == "__main__":
    harness.main()
