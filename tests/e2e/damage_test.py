#!/usr/bin/env python3
"""Damage in the store, through the real program: an error that names it, or the right answer.

The simulator does this hundreds of times for each kind of block (sim/damage_test.cc); here it goes
through a real directory, fsck, a mount and the kernel, and also to the store's own files.
"""
import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import time

import harness
from harness import PLUMERIA, run

MAGIC = b"PLMB"  # docs/format.md, "Block header"
KINDS = {1: "superblock", 2: "piece", 3: "inode", 4: "directory leaf", 5: "directory inner block",
         6: "orphan list", 7: "log header", 8: "extended attributes"}
BLOCK = 4096
OWN_FILES = ("store", "state", "leases", "registers/view", "registers/server")
NAMES = 300  # of 200 bytes: more than one leaf, so there is an inner block
ROUNDS = 30 if harness.LONG else 2


def blocks_by_kind(store):
    """{kind: [(file, offset)]} of all blocks that hold something but file data."""
    found = {}
    regions = os.path.join(store, "segments/regions")
    for name in sorted(os.listdir(regions)):
        path = os.path.join(regions, name)
        is_log = 1 << 32 <= int(name, 16) < 2 << 32
        with open(path, "rb") as file:
            content = file.read()
        for offset in range(0, len(content), BLOCK):
            block = content[offset:offset + BLOCK]
            if block[:4] == MAGIC and int(name, 16) != 4:
                kind = KINDS[struct.unpack_from("<H", block, 4)[0]]
            elif is_log and offset >= 2 * BLOCK and any(block):
                kind = "log chunk"
            else:
                continue
            found.setdefault(kind, []).append((path, offset))
    return found


class Damage(harness.Case):
    seconds = 3000 if harness.LONG else 400

    def make_tree(self, mount):
        os.mkdir(mount / "d")
        for i in range(NAMES):
            (mount / "d" / f"{'n' * 190}{i:05d}").touch()
        (mount / "inline").write_text("inline")
        (mount / "small").write_bytes(b"s" * 20_000)
        (mount / "large").write_bytes(b"l" * 300_000)
        os.symlink("target", mount / "link")
        for name in ("inline", "d"):
            os.setxattr(mount / name, "user.x", b"described" * 50)
        for name in ("inline", "small", "large"):
            with open(mount / name, "rb") as file:
                os.fsync(file.fileno())

    def look_at(self, mount):
        """Reads everything; each answer is right, or EIO. The number of errors."""
        errors = 0

        def expect(what, wanted, call, *arguments):
            nonlocal errors
            try:
                got = call(*arguments)
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO, f"{what}: {error}")
                errors += 1
            else:
                self.assertEqual(got, wanted, what)

        wanted = {"inline": b"inline", "small": b"s" * 20_000, "large": b"l" * 300_000}
        for name, content in wanted.items():
            expect(name, content, (mount / name).read_bytes)
        expect("link", "target", os.readlink, mount / "link")
        for name in ("inline", "d"):
            expect("xattr", b"described" * 50, os.getxattr, mount / name, "user.x")
        expect("d", NAMES, lambda: len(set(os.listdir(mount / "d"))))
        for i in range(0, NAMES, 17):
            expect(i, 0, lambda k=i: os.stat(mount / "d" / f"{'n' * 190}{k:05d}").st_size)
        expect("new", 1, lambda: (mount / "new").write_text("x"))
        return errors

    def stores(self):
        """(name, store): one whose mount was killed, with a file open that has no name; and one
        that was left in peace."""
        store = self.world.mkfs("store", "--log-size", "1M")
        mount = self.world.mount(store, "m")
        self.make_tree(mount)
        mount.umount()  # Everything is in place, and the next log is short.
        mount = self.world.mount(store, "m")
        orphan = os.open(mount / "orphan", os.O_CREAT | os.O_WRONLY)
        os.write(orphan, b"o" * 5000)
        os.unlink(mount / "orphan")
        (mount / "last").touch()
        with open(mount / "last", "rb") as last:
            os.fsync(last.fileno())
        mount.kill()
        with self.assertRaises(OSError):
            os.close(orphan)
        mount.detach()
        self.assertIn("1 deleted but not reclaimed", self.world.fsck(store).stdout)
        yield "killed", store
        # After the replay the list of orphans is in place, and cleared when they are reclaimed.
        mount = self.world.mount(store, "m")
        mount.umount()
        self.world.fsck(store)
        yield "left in peace", store

    def test_damaged_blocks(self):
        seed = int(os.environ.get("PLUMERIA_SEED", random.randrange(10**6)))
        print(f"PLUMERIA_SEED={seed}")
        chance = random.Random(seed)
        seen = set()
        for name, store in self.stores():
            for kind, blocks in sorted(blocks_by_kind(store).items()):
                seen.add(kind)
                for _ in range(ROUNDS):
                    self.damage_once(name, store, kind, blocks, chance)
        self.assertEqual(seen, {*KINDS.values(), "log chunk"})

    def damage_once(self, name, store, kind, blocks, chance):
        copy = self.world.folder / "copy"
        run("cp", "-a", "--sparse=always", store, copy)
        path, offset = chance.choice(blocks)
        damaged = copy / os.path.relpath(path, store)
        way = chance.choice(("bit", "bit", "bit", "zeros", "noise"))
        with open(damaged, "r+b") as file:
            file.seek(offset)
            block = bytearray(file.read(BLOCK))
            if way == "bit":
                at = chance.randrange(BLOCK)
                block[at] ^= 1 << chance.randrange(8)
            else:
                block[:] = bytes(BLOCK) if way == "zeros" else chance.randbytes(BLOCK)
            file.seek(offset)
            file.write(block)
        with self.subTest(store=name, kind=kind, file=str(damaged), offset=offset, way=way):
            self.check_damaged(copy, kind, name == "killed")
        shutil.rmtree(copy)

    def check_damaged(self, store, kind, has_log):
        checked = run(PLUMERIA, "fsck", store, check=False)
        self.assertIn(checked.returncode, (0, 4), checked.stderr)
        is_found = checked.returncode == 4
        if is_found:
            self.assertRegex(checked.stdout + checked.stderr, "damaged|not a Plumeria store")
        try:
            mount = self.world.mount(store, "m")
        except AssertionError as refused:
            self.assertTrue(is_found)
            self.assertRegex(str(refused), "damaged|not a Plumeria store")
            self.assertNotIn("CHECK", str(refused))
            return
        errors = self.look_at(mount)
        self.assertTrue(mount.alive(), mount.messages()[-2000:])
        if errors:
            self.assertTrue(is_found)
            self.assertIn("damaged", mount.messages())
        elif not has_log and kind not in ("orphan list", "log chunk"):
            # (A list of zeros is an empty list, and what was in a log does not count any more.)
            self.assertTrue(is_found, "fsck has not found it")
        print(f"{kind}: {'found' if is_found else 'healed'}, {errors} operations failed")
        mount.kill()
        mount.detach()

    def test_repair(self):
        chance = random.Random(int(os.environ.get("PLUMERIA_SEED", random.randrange(10**6))))
        for name, store in self.stores():
            for kind, blocks in sorted(blocks_by_kind(store).items()):
                for _ in range(ROUNDS):
                    with self.subTest(store=name, kind=kind):
                        self.repair_once(store, kind, blocks, chance)

    def repair_once(self, store, kind, blocks, chance):
        copy = self.world.folder / "copy"
        run("cp", "-a", "--sparse=always", store, copy)
        path, offset = chance.choice(blocks)
        with open(copy / os.path.relpath(path, store), "r+b") as file:
            file.seek(offset)
            file.write(chance.choice((bytes(BLOCK), chance.randbytes(BLOCK))))
        repair = [PLUMERIA, "fsck", "--repair", copy]
        if kind == "superblock":
            self.assertEqual(run(*repair, check=False).returncode, 4)
            shutil.rmtree(copy)
            return
        # Killed or stopped somewhere, it is begun again.
        for end in (signal.SIGINT, signal.SIGKILL):
            stopped = subprocess.Popen(repair, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            time.sleep(chance.random() * 0.05)
            stopped.send_signal(end)
            said = stopped.communicate(timeout=60)[1]
            self.assertIn(stopped.returncode, (0, 1, 6, -end), said)
            if stopped.returncode == 1:
                self.assertIn("stopped", said)
        done = run(*repair, check=False, timeout=300)
        self.assertIn(done.returncode, (0, 6), done.stderr)
        self.assertTrue(done.stdout.endswith(f"{copy}: clean\n"), done.stdout)
        self.assertEqual(run(*repair).returncode, 0)
        self.world.fsck(copy)
        mount = self.world.mount(copy, "m")
        self.assertEqual(run(*repair, check=False).returncode, 3)
        # What is there is right.
        names = set(os.listdir(mount.path)) - {"lost+found"}
        for name, content in {"inline": b"inline", "small": b"s" * 20_000,
                              "large": b"l" * 300_000}.items():
            if name in names:
                self.assertEqual((mount / name).read_bytes(), content)
        if kind not in ("inode", "directory leaf"):
            self.assertGreaterEqual(names, {"d", "inline", "small", "large", "link"})
            self.assertEqual(len(os.listdir(mount / "d")), NAMES)
        (mount / "new").write_text("x")
        for folder, _, files in os.walk(mount.path):
            for name in files:
                os.lstat(os.path.join(folder, name))
        mount.umount()
        self.world.fsck(copy)
        print(f"{kind}: {done.stdout.splitlines()[-2]}")
        shutil.rmtree(copy)

    def test_damaged_files_of_the_store_itself(self):
        chance = random.Random(5)
        store = self.world.mkfs("store", "--log-size", "1M")
        mount = self.world.mount(store, "m")
        self.make_tree(mount)
        mount.umount()
        for name in OWN_FILES:
            whole = (store / name).read_bytes()
            places = range(len(whole))
            if name != "store":  # The bytes that mean something (docs/format.md, "Slot file").
                slots = (0, len(whole) // 2)
                places = [at for slot in slots for at in
                          range(slot, slot + 32 + struct.unpack_from("<Q", whole, slot + 16)[0])]
            for _ in range(4 * ROUNDS):
                damaged = bytearray(whole)
                at = chance.choice(places)
                damaged[at] ^= 1 << chance.randrange(8)
                (store / name).write_bytes(damaged)
                with self.subTest(file=name, at=at):
                    checked = run(PLUMERIA, "fsck", store, check=False)
                    if checked.returncode == 0:
                        self.assertEqual(name, "state")  # Of its two slots one is enough.
                        self.assertIn(f"torn or damaged: {store}/state", checked.stdout)
                    else:
                        self.assertEqual(checked.returncode, 4)
                        self.assertIn(f"{store}/{name}" if name != "store" else str(store),
                                      checked.stderr)
                        done = run(PLUMERIA, "mount", store, mount.path, check=False)
                        self.assertEqual(done.returncode, 4, done.stderr)
                (store / name).write_bytes(whole)
        mount = self.world.mount(store, "m")
        self.assertEqual(self.look_at(mount), 0)
        mount.umount()
        self.world.fsck(store)


if __name__ == "__main__":
    harness.main()
