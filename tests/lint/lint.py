#!/usr/bin/env python3
"""Rules about the source that no compiler checks. Prints one line for each breach; exits 1 if any.

    lint.py [--root DIR] [RULE...]       RULE: levels seams words layout width (default: all)

levels   no include points upwards or sideways (table in ARCHITECTURE.md)
seams    no clock, chance, sleep, thread, mutex, socket or file call outside the folders that may
words    no forbidden word, nothing that is left for later
layout   clang-format would change nothing
width    no line over 100 columns, no trailing space, no tab
"""
import argparse
import pathlib
import re
import subprocess
import sys

# The levels of ARCHITECTURE.md. A folder includes only folders of lower levels, and itself.
LEVELS = {
    "base": 0,
    "format": 1, "net": 1, "lock": 1,
    "disk": 2,
    "os": 3, "diskd": 3, "lockd": 3, "clerk": 3,
    "wal": 4,
    "cache": 5, "recovery": 5,
    "fs": 6, "check": 6,
    "mount": 7, "serve": 7,
    "fuse": 8, "sim": 8,
    "cli": 9,
    "tests": 10,
}
# Folders whose business is the operating system.
WORLDLY = {"os", "fuse", "cli", "tests"}

SEAMS = [
    (r"#\s*include\s*<(thread|mutex|shared_mutex|condition_variable|future|fstream|filesystem|"
     r"semaphore|latch|barrier|stop_token|ctime)>", "header"),
    (r"#\s*include\s*<(sys/(socket|mman|file|time|epoll|uio)|netinet/\w+|pthread|unistd|time|"
     r"signal|poll)\.h>", "header"),
    (r"\bstd::(this_thread|thread|jthread|mutex|shared_mutex|condition_variable|async|ifstream|"
     r"ofstream|fstream|filesystem)\b", "thread or file"),
    (r"\b(system_clock|steady_clock|high_resolution_clock)\b", "clock"),
    (r"(?<![\w.>])(clock_gettime|gettimeofday|nanosleep|usleep|sleep|time|absl::Now|"
     r"absl::SleepFor)\s*\(", "clock or sleep"),
    (r"(?<![\w>])::(open|openat|creat|stat|fstat|lstat|fcntl|pread|pwrite|fsync|fdatasync|socket|"
     r"bind|listen|accept|mmap|fork|pthread_\w+|poll|epoll_\w+|read|write|close)\s*\(|"
     r"\bfopen\s*\(", "system call"),
    (r"\babsl::(Mutex|Notification)\b", "mutex"),
    (r"\bstd::random_device\b|(?<![\w.>])(rand|srand|getrandom)\s*\(", "chance"),
]
# Generators that are seeded by hand may serve in unit tests, where nothing else is to be had.
GENERATORS = (r"#\s*include\s*<random>|\bstd::mt19937\w*|\babsl::(Insecure)?BitGen\b", "chance")

WORDS = [
    (r"\btokens?\b", "say lock"),
    (r"\bvolumes?\b", "say virtual disk"),
    (r"\b" + "TO" + r"DO\b|\bFIX" + r"ME\b|\bXX" + r"X\b|\bHA" + r"CK\b", "finish it"),
    (r"\bDISABLED" + r"_|\bGTEST" + r"_SKIP\b", "no disabled tests"),
    (r"\b(RULES|DESIGN)\s*(§|\d)", "cite a section of docs/ by its title"),
]
SOURCE = {".cc", ".h"}
TEXT = {".cc", ".h", ".py", ".sh", ".md", ".cmake", ".txt", ".1", ".json", ""}


def tree(root):
    """The files under version control, and those that could be: everything but build/ and .git/."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"],
        capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
        return sorted(root / name for name in set(names) if (root / name).is_file())
    return sorted(p for p in root.rglob("*") if p.is_file()
                  and not {"build", ".git"} & set(p.relative_to(root).parts))


def folder_of(root, path):
    parts = path.relative_to(root).parts
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    return parts[0] if parts[0] in ("sim", "tests") else None


def code_lines(text):
    """Yields (number, line) with comments and the contents of strings taken out."""
    in_block = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#include"):
            yield number, line
            continue
        line = re.sub(r'"(\\.|[^"\\])*"', '""', line)
        if in_block:
            if "*/" not in line:
                continue
            line, in_block = line.split("*/", 1)[1], False
        line = re.sub(r"/\*.*?\*/", "", line)
        if "/*" in line:
            line, in_block = line.split("/*", 1)[0], True
        yield number, line.split("//", 1)[0]


def check_levels(root, files):
    for path in files:
        folder = folder_of(root, path)
        if path.suffix not in SOURCE or folder is None:
            continue
        where = path.relative_to(root)
        if folder not in LEVELS:
            yield f"{where}:1: folder {folder} has no level in tests/lint/lint.py"
            continue
        for number, line in code_lines(path.read_text()):
            found = re.match(r'\s*#\s*include\s*"([^"/]+)/', line)
            if not found:
                if re.match(r'\s*#\s*include\s*"[^/"]+"', line) and folder != "tests":
                    yield f"{where}:{number}: include by its path from src/"
                continue
            to = found.group(1)
            if to not in LEVELS:
                yield f"{where}:{number}: includes unknown folder {to}"
            elif to != folder and LEVELS[to] >= LEVELS[folder]:
                yield (f"{where}:{number}: {folder} (level {LEVELS[folder]}) includes "
                       f"{to} (level {LEVELS[to]})")
            elif folder == "sim" and to == "os":
                yield f"{where}:{number}: the simulator must not know the operating system"
            elif folder in ("mount", "serve", "fs") and to == "os":
                yield f"{where}:{number}: {folder} must not know the operating system"


def check_seams(root, files):
    for path in files:
        folder = folder_of(root, path)
        if path.suffix not in SOURCE or folder is None or folder in WORLDLY:
            continue
        rules = SEAMS if path.name.endswith("_test.cc") else [*SEAMS, GENERATORS]
        for number, line in code_lines(path.read_text()):
            for pattern, what in rules:
                found = re.search(pattern, line)
                if found:
                    yield (f"{path.relative_to(root)}:{number}: {what} outside os, fuse, cli: "
                           f"{found.group(0).strip()}")


def check_words(root, files):
    for path in files:
        where = path.relative_to(root)
        if path.suffix not in TEXT or where.parts[0] == "LICENSE" or where.name == "lint.py":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for pattern, what in WORDS:
                found = re.search(pattern, line)
                if found:
                    yield f"{where}:{number}: '{found.group(0)}': {what}"


def check_width(root, files):
    for path in files:
        if path.suffix not in SOURCE | {".py", ".sh", ".cmake"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if len(line) > 100:
                yield f"{path.relative_to(root)}:{number}: {len(line)} columns"
            if line != line.rstrip() or "\t" in line:
                yield f"{path.relative_to(root)}:{number}: trailing space or tab"


def check_layout(root, files):
    sources = [str(p) for p in files if p.suffix in SOURCE]
    run = subprocess.run(["clang-format-14", "--dry-run", "--ferror-limit=1", *sources],
                         capture_output=True, text=True, check=False)
    for line in run.stderr.splitlines():
        if "-Wclang-format-violations" in line:
            yield line.replace(str(root) + "/", "").split(": ")[0] + ": clang-format -i this file"


RULES = {"levels": check_levels, "seams": check_seams, "words": check_words,
         "width": check_width, "layout": check_layout}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("rules", nargs="*", choices=[*RULES, []], metavar="RULE")
    arguments = parser.parse_args()
    files = tree(arguments.root)
    breaches = [line for name in arguments.rules or RULES for line in
                RULES[name](arguments.root, files)]
    print("\n".join(breaches) if breaches else f"{len(files)} files: no breach")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
