"""Runs unittest suites and writes the JUnit file that tests/summarize.py reads (named by GTEST_OUTPUT)."""
import os
import re
import sys
import time
import unittest
import xml.etree.ElementTree as ElementTree


UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff]")  # XML has no way to carry the others


class XmlResult(unittest.TextTestResult):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.cases = {}
        self.started = 0.0

    def startTest(self, test):
        self.started = time.monotonic()
        self.cases[test.id()] = {"seconds": 0.0}
        super().startTest(test)

    def stopTest(self, test):
        self.cases[test.id()]["seconds"] = time.monotonic() - self.started
        super().stopTest(test)

    def _note(self, test, kind, text):
        self.cases.setdefault(test.id(), {"seconds": 0.0})[kind] = text

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._note(test, "failure", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        self._note(test, "failure", self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failure", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def write(self, path):
        suite = ElementTree.Element("testsuite", name=os.path.basename(path))
        for name, case in self.cases.items():
            classname, _, method = name.rpartition(".")
            element = ElementTree.SubElement(suite, "testcase", classname=classname.removeprefix("__main__."),
                                             name=method, time=f"{case['seconds']:.3f}")
            for kind in ("failure", "skipped"):
                if kind in case:
                    ElementTree.SubElement(element, kind, message=UNPRINTABLE.sub("?", case[kind][-1000:]))
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def main():
    program = unittest.main(module="__main__", exit=False, verbosity=2,
                            testRunner=unittest.TextTestRunner(resultclass=XmlResult, verbosity=2, stream=sys.stdout))
    target = os.environ.get("GTEST_OUTPUT", "")
    if target.startswith("xml:"):
        name = os.path.splitext(os.path.basename(sys.argv[0]))[0] + ".xml"
        program.result.write(os.path.join(target[4:], name))
    sys.exit(0 if program.result.wasSuccessful() else 1)
