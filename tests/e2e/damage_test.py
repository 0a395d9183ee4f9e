#!/usr/bin/env python3
"""Bits that flip in the store: an error that names the block, or the right answer, and no crash."""
import errno
import os
import random
import shutil
import struct

import harness
from harness import PLUMERIA, run

MAGIC = b"PLMB"  # docs/format.md, "Block header"
KINDS = {1: "superblock", 2: "piece", 3: "inode", 4: "directory_leaf", 5: "directory_inner",
         6: "orphan_list", 7: "log_header"}
BLOCK = 4096


def blocks_by_kind(store):
    """{kind: [(file, offset)]} of all metadata blocks of a store."""
    found = {}
    for folder, _, names in os.walk(store):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                offset = 0
                while True:
                    try:
                        offset = os.lseek(file.fileno(), offset, os.SEEK_DATA) & -BLOCK
                    except OSError:
                        break
                    file.seek(offset)
                    block = file.read(BLOCK)
                    if not block:
                        break
                    if block[:4] == MAGIC:
                        kind = struct.unpack_from("<H", block, 4)[0]
                        found.setdefault(kind, []).append((path, offset))
                    offset += BLOCK
    return found


class Damage(harness.Case):
    seconds = 400

    def make_tree(self, mount):
        os.mkdir(mount / "d")
        for i in range(3000):  # enough for inner blocks of a directory
            (mount / "d" / f"a name that takes some room in its block {i:05d}").touch()
        (mount / "inline").write_text("inline")
        (mount / "small").write_bytes(b"s" * 20_000)
        (mount / "large").write_bytes(b"l" * 300_000)
        os.symlink("target", mount / "link")
        with open(mount / "orphan", "wb") as file:
            file.write(b"o" * 5000)
            file.flush()
            os.unlink(mount / "orphan")

    def look_at(self, mount):
        """Reads everything; each answer is right, or EIO. The number of errors."""
        errors = 0
        wanted = {"inline": b"inline", "small": b"s" * 20_000, "large": b"l" * 300_000}
        for name, content in wanted.items():
            try:
                self.assertEqual((mount / name).read_bytes(), content)
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO, name)
                errors += 1
        try:
            names = os.listdir(mount / "d")
            self.assertEqual(len(set(names)), 3000)
            for name in names[::17]:
                try:
                    os.stat(mount / "d" / name)
                except OSError as error:
                    self.assertEqual(error.errno, errno.EIO, name)
                    errors += 1
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
            errors += 1
        try:
            (mount / "new").write_text("x")
            os.fsync(os.open(mount / "new", os.O_RDONLY))
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
            errors += 1
        return errors

    def test_a_flipped_bit_in_each_kind_of_block(self):
        chance = random.Random(11)
        store = self.world.mkfs("store", "--log-size", "1M")
        mount = self.world.mount(store, "m")
        self.make_tree(mount)
        mount.umount()
        self.assertEqual(self.world.fsck(store).returncode, 0)
        found = blocks_by_kind(store)
        self.assertTrue({1, 2, 3, 4, 7} <= set(found), sorted(found))
        for kind, blocks in sorted(found.items()):
            for path, offset in chance.sample(blocks, min(3, len(blocks))):
                copy = self.world.folder / "copy"
                run("cp", "-a", "--sparse=always", store, copy)
                damaged = os.path.join(copy, os.path.relpath(path, store))
                with open(damaged, "r+b") as file:
                    at = offset + chance.randrange(BLOCK)
                    file.seek(at)
                    byte = file.read(1)[0]
                    file.seek(at)
                    file.write(bytes([byte ^ (1 << chance.randrange(8))]))
                with self.subTest(kind=KINDS.get(kind, kind), file=damaged, offset=at):
                    self.check_damaged(copy, kind)
                shutil.rmtree(copy)

    def check_damaged(self, store, kind):
        checked = run(PLUMERIA, "fsck", store, check=False)
        if KINDS.get(kind) != "log_header":  # There are two of them, and one is enough.
            self.assertEqual(checked.returncode, 4, checked.stdout + checked.stderr)
            self.assertIn("damaged", checked.stdout + checked.stderr)
        try:
            mount = self.world.mount(store, "m")
        except AssertionError as refused:
            self.assertIn("damaged", str(refused))
            self.assertNotIn("CHECK", str(refused))
            return
        errors = self.look_at(mount)
        self.assertTrue(mount.alive(), mount.messages()[-2000:])
        if errors:
            self.assertIn("damaged", mount.messages())
        print(f"{KINDS.get(kind, kind)}: {errors} operations failed")
        mount.abort()
        mount.kill()
        mount.detach()


if __name__ == "__main__":
    harness.main()
