"""The vocabulary: words that are not the field's stay out of code, pages and messages."""

import re
import subprocess

from tests.support.deployment import ROOT

WORDS = {
    r"slices?": "batch",
    r"uncut|cut in pieces|cut off": "fan out",
    r"is_passing|in passing": "transient",
    r"forgets?|forgot(ten)?|forgiv\w+": "delete, reset",
    r"kept": "stored, reused, cached",
    r"silences?": "unresponsive, no response",
    r"dial(led|s)?": "connect",
    r"anew": "again, new",
    r"blamed?|blames|hopeless": "subscription error",
    r"somebody|nobody|everybody|anybody": "the caller, all users",
    r"(?-i:promises?)|verdict|rivals?": "guarantee, report, baseline",
    r"rooms?": "module",
    r"taken up|signs of life": "retried, heartbeat",
    r"agreed to": "allowed",
    r"leads inside|own site": "private address, same-origin",
    r"settled?|settles": "reconcile",
}
EXEMPT = {r"slices?": (".js",)}  # a method of arrays
PATTERN = {word: re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.IGNORECASE) for word in WORDS}


def test_no_word_comes_back() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.glob("pushapp/**/*.py")]
    found = []
    for name in files:
        path = ROOT / name
        if (
            name == "tests/test_vocabulary.py"
            or path.suffix in (".json", ".lua", ".png")
            or not path.is_file()
        ):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for word, pattern in PATTERN.items():
                if path.suffix not in EXEMPT.get(word, ()) and pattern.search(line):
                    found.append(f"{name}:{number}: {line.strip()[:80]} (say {WORDS[word]})")
    assert found == []
