"""run.py [STORY...|--all]: tells stories. A STORY is a file's name without test_, or more of a test's dotted name.

Without an argument: all but those that are marked as long, and it says how many those are.
"""

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "blackbox")]


def tests_of(suite):
    """The single tests of a suite of suites."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def is_long(test):
    return getattr(getattr(test, test._testMethodName, None), "is_long", False)


def main(*words):
    names = [word.removeprefix("test_") for word in words if word != "--all"]
    stories = names or sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))
    tests = list(tests_of(unittest.defaultTestLoader.loadTestsFromNames([f"test_{name}" for name in stories])))
    if not words:
        left_out = [test for test in tests if is_long(test)]
        tests = [test for test in tests if not is_long(test)]
        if left_out:
            print(f"{len(left_out)} long stories are told by --all only", file=sys.stderr)
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    sys.exit(0 if result.wasSuccessful() and result.testsRun else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
