#!/usr/bin/env python3
"""Checks the words and the width of lines in every text file of the repository, for `make lint`.

The check fails on lines of more than 110 columns. It also fails on a short list of words that are nearly
always wrong here, in comments, names and strings: see "Words" in CONTRIBUTING.md. Passing it does not make a
text good.

`words.py --self-test` shows that the check finds faults.
"""

import re
import subprocess
import sys
from pathlib import Path

MAX_COLUMNS = 110
# The width of a tab in columns, as in prettier.
TAB_COLUMNS = 2

WORDS = re.compile(
    r"\b(?:whom|whoever|anew|in vain|for want of|so many|nobody|somebody|(?:is|are) told)\b", re.IGNORECASE
)

# The exceptions to WORDS. Each file may contain the texts in its list.
ALLOWED = {
    # The changelog quotes this log line of version 0.1.
    ".github/CHANGELOG.md": ["killed for want of memory:"],
    ".github/CONTRIBUTING.md": [
        "A process is not *somebody*",
        "no paths are told",
    ],
    # The guest runs `systemctl kill --kill-whom=main`, and the name of this option contains a listed word.
    "tests/nodes/guest/node.py": ["--kill-whom=main"],
}

# The check of words skips this file, because it lists the words.
ITSELF = ".ci/words.py"

# The check skips recordings and golden files, files from other projects, and files that a program writes.
SKIPPED = re.compile(r"^fixtures/|\.(?:proto|lock|png|json)$|^LICENSE$")

COMMENT_MARK = re.compile(r"^\s*(?://[/!]?|#+|/?\*+|>)?\s*")
URL = re.compile(r"https?://\S+")


def words_of(line: str) -> str:
    """Splits names in snake case and camel case into words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line.replace("_", " "))


def is_too_long(path: str, line: str) -> bool:
    """Returns whether a line has too many columns.

    URLs are not counted. Rows of tables in Markdown files may be longer, except in README.md.
    """
    is_row = path.endswith(".md") and path != "README.md" and line.startswith("|")
    return not is_row and len(URL.sub("", line.expandtabs(TAB_COLUMNS))) > MAX_COLUMNS


def faults(path: str, text: str) -> list[str]:
    """Returns the faults of a file, each as one line of text."""
    found = []
    for allowed in ALLOWED.get(path, []):
        text = text.replace(allowed, "x" * len(allowed))
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        # A phrase may continue on the next line. So each line is searched together with the words of the next
        # line.
        words = words_of(line).rstrip()
        following = COMMENT_MARK.sub("", words_of(lines[number])) if number < len(lines) else ""
        for match in WORDS.finditer(f"{words} {following}"):
            if match.start() < len(words) and path != ITSELF:
                found.append(f"{path}:{number}: {match[0]!r}: expected plain words")
        if is_too_long(path, line):
            n_columns = len(line.expandtabs(TAB_COLUMNS))
            found.append(f"{path}:{number}: {n_columns} columns: expected at most {MAX_COLUMNS}")
    return found


def texts() -> dict[str, str]:
    """Returns the text of each tracked file that is checked, by path."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    paths = [path for path in listed.split("\0") if path and not SKIPPED.search(path)]
    return {path: Path(path).read_text(encoding="utf-8") for path in paths if Path(path).is_file()}


def self_test() -> None:
    """Checks that faulty texts have the expected faults, and that correct texts have none."""
    wide = "x" * MAX_COLUMNS
    for path, text, n_faults in [
        ("src/a.rs", "// The process whom it reads.", 1),
        ("src/a.rs", "// The process is\n    // told to end.", 1),
        ("src/a.rs", "fn those_who_stop_hold_up_nobody() {}", 1),
        ("src/a.rs", 'warn!("killed for want of memory");', 1),
        ("src/a.js", "const isTold = 1;", 1),
        ("README.md", "It is made anew, in vain.", 2),
        ("src/a.rs", "// It also manages anewborn process, and is untold.", 0),
        (".github/CHANGELOG.md", "it began with `killed for want of memory:`", 0),
        (".github/CHANGELOG.md", "killed for want of CPU", 1),
        ("src/a.rs", wide, 0),
        ("src/a.rs", wide + "x", 1),
        ("src/a.rs", "é" * MAX_COLUMNS, 0),
        ("src/a.js", "\t" + wide, 1),
        ("src/a.rs", f"// https://example.org/{wide}", 0),
        (".github/COST.md", f"| {wide} |", 0),
        ("README.md", f"| {wide} |", 1),
    ]:
        found = faults(path, text)
        assert len(found) == n_faults, (path, text, found)


def main(arguments: list[str]) -> int:
    """Runs the check."""
    if arguments == ["--self-test"]:
        self_test()
        return 0
    reported = [fault for path, text in texts().items() for fault in faults(path, text)]
    print("\n".join(reported), end="\n" if reported else "")
    return 1 if reported else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
