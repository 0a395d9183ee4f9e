#!/usr/bin/env python3
"""Real programs across two mounts: tar, make and the compiler, git, SQLite."""
import filecmp
import multiprocessing
import os
import pathlib
import shutil
import sqlite3
import time

import harness

fork = multiprocessing.get_context("fork")
# A tree that is on every machine that can build the project: a few hundred headers.
SOURCE_TREE = pathlib.Path("/usr/include/absl")
MAKEFILE = """\
CXXFLAGS = -O0 -std=c++20 -I..
prog: a.o b.o main.o
\t$(CXX) -o $@ $^
\t./prog
"""


def same_tree(one, two):
    compared = filecmp.dircmp(one, two, ignore=[])
    pending = [compared]
    files = 0
    while pending:
        level = pending.pop()
        assert not level.left_only and not level.right_only and not level.funny_files, level.left
        equal, different, wrong = filecmp.cmpfiles(level.left, level.right, level.common_files,
                                                   shallow=False)
        assert not different and not wrong, (level.left, different, wrong)
        files += len(equal)
        pending.extend(level.subdirs.values())
    return files


class Tools(harness.Case):
    seconds = 240

    def setUp(self):
        super().setUp()
        self.server, self.a, self.b = self.world.served_pair()

    def test_untar_through_one_build_through_the_other(self):
        archive = self.world.folder / "tree.tar"
        harness.run("tar", "cf", archive, "-C", SOURCE_TREE.parent, SOURCE_TREE.name)
        harness.run("tar", "xf", archive, "-C", self.a.path)
        self.assertGreater(same_tree(SOURCE_TREE, self.b / SOURCE_TREE.name), 100)

        os.mkdir(self.a / "src")
        (self.a / "src/Makefile").write_text(MAKEFILE)
        (self.a / "src/a.cc").write_text("#include <string>\nint a() { return std::string(\"four\")"
                                         ".size(); }\n")
        (self.a / "src/b.cc").write_text("#include <absl/base/macros.h>\nint b() { int x[5]; "
                                         "return ABSL_ARRAYSIZE(x) - 1; }\n")
        (self.a / "src/main.cc").write_text("int a(); int b();\nint main() { return a() - b(); }\n")
        harness.run("make", "-s", "-C", self.b / "src")
        harness.run(self.a / "src/prog")
        # make trusts time stamps: nothing is to be done again through the other mount.
        self.assertEqual(harness.run("make", "-q", "-C", self.a / "src", check=False).returncode, 0)
        (self.a / "src/b.cc").write_text("int b() { return 4; }\n")
        self.assertEqual(harness.run("make", "-q", "-C", self.b / "src", check=False).returncode, 1)

        shutil.copytree(self.b / SOURCE_TREE.name, self.b / "copy")
        self.assertGreater(same_tree(SOURCE_TREE, self.a / "copy"), 100)
        shutil.rmtree(self.a / "copy")
        self.assertFalse((self.b / "copy").exists())

    def test_git_on_both(self):
        identity = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
                    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "HOME": "/nonexistent",
                    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "1",
                    "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}

        def git(*command):
            return harness.run("git", *command, env=identity, timeout=120).stdout

        repository = self.a / "repository"
        git("init", "-q", "-b", "main", repository)
        for commit in range(5):
            for i in range(40):
                (repository / f"f{i}").write_text(f"{commit} {i}\n" * (i + 1))
            # Both mounts commit in turn.
            path = (self.a if commit % 2 == 0 else self.b) / "repository"
            git("-C", path, "add", "-A")
            git("-C", path, "commit", "-q", "-m", f"commit {commit}")
        git("clone", "-q", "--no-local", self.b / "repository", self.b / "clone")
        git("-C", self.a / "clone", "fsck", "--strict")
        self.assertEqual(git("-C", self.a / "clone", "status", "--porcelain"), "")
        self.assertEqual(git("-C", self.a / "clone", "rev-list", "--count", "HEAD").strip(), "5")
        git("-C", self.a / "repository", "gc", "-q")
        git("-C", self.b / "repository", "fsck", "--strict")
        self.assertGreaterEqual(same_tree(self.a / "clone", self.b / "clone"), 40)

    def test_sqlite_with_a_process_on_each_mount(self):
        seconds = 10 if harness.LONG else 3
        for mode in ("delete", "wal"):
            name = f"{mode}.db"
            with sqlite3.connect(self.a / name) as base:
                self.assertEqual(base.execute(f"pragma journal_mode={mode}").fetchone()[0], mode)
                base.execute("create table t (side int, n int, text)")
                base.execute("create table total (n int)")
                base.execute("insert into total values (0)")
            base.close()
            committed = fork.RawArray("q", 2)

            def work(side, file=name, made=committed):
                mount = (self.a, self.b)[side]
                connection = sqlite3.connect(mount / file, timeout=60, isolation_level=None)
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    connection.execute("begin immediate")
                    connection.execute("insert into t values (?, ?, ?)",
                                       (side, made[side], "x" * (made[side] % 2000)))
                    connection.execute("update total set n = n + 1")
                    connection.execute("commit")
                    made[side] += 1
                connection.close()

            children = [fork.Process(target=work, args=(side,)) for side in (0, 1)]
            for child in children:
                child.start()
            for child in children:
                child.join(seconds + 90)
                self.assertEqual(child.exitcode, 0, mode)
            for mount in (self.a, self.b):
                base = sqlite3.connect(mount / name)
                self.assertEqual(base.execute("pragma integrity_check").fetchone()[0], "ok")
                self.assertEqual(base.execute("select n from total").fetchone()[0], sum(committed))
                counts = dict(base.execute("select side, count(*) from t group by side"))
                self.assertEqual([counts.get(side, 0) for side in (0, 1)], list(committed))
                base.close()
            self.assertGreater(min(committed), 0, "both got their turn")


if __name__ == "__main__":
    harness.main()
