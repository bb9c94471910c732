"""The tables of README.md: that they are what the programs say, and what readme_tables.py refuses."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import readme_tables  # noqa: E402
import xml_runner  # noqa: E402

PROTO = """
// The whole.
message TrainSpec {
  enum Kind {
    KIND_UNSPECIFIED = 0;
  }
  Part part = 1;
  optional int32 rows = 2;  // [0, 9]; default 3
  // Before and
  // over two lines. Default "warm".
  optional string heat = 3;
  optional double share = 4;      // after, and
                                  // over two lines; default 1/4
  // Each has its own.
  repeated Part parts = 5 [deprecated = true];
  oneof other {
    uint64 seed = 6;  // default 0 (even rows)
  }
}

// A part.
// Of two lines.
message Part {
  optional string name = 1;  // of the part. Required.
}
"""
RESOLVED = {"part": {}, "rows": 3, "heat": "warm", "share": 0.25, "parts": [], "seed": "0"}


def option_rows(proto, resolved):
    return readme_tables.option_rows(readme_tables.parse_messages(proto), "TrainSpec", "", resolved, set())


class OptionRowsTest(unittest.TestCase):
    def test_reads_comments_before_and_behind_fields(self):
        self.assertEqual(option_rows(PROTO, RESOLVED), [
            ["`rows`", "3", "[0, 9]"],
            ["`heat`", "`warm`", "before and over two lines"],
            ["`share`", "1/4", "after, and over two lines"],
            ["`parts`", "none", "each has its own"],
            ["`seed`", "0", "default 0 (even rows)"],
            ["**part, parts[]**", "", "A part. Of two lines."],
            ["`part.name`", "required", "of the part"],
        ])

    def test_keeps_the_first_sentence_and_the_range(self):
        text = "Fitted at the end (Smith et al. 2018). More words. [0, 1], 0 = off; default 0. Needs rows"
        self.assertEqual(readme_tables.split_default(text)[1], "0")
        self.assertEqual(readme_tables.in_short(readme_tables.split_default(text)[0]),
                         "fitted at the end (Smith et al. 2018); [0, 1], 0 = off")

    def test_a_field_without_a_comment_is_named(self):
        with self.assertRaisesRegex(readme_tables.TableError, "train.part.name has no comment"):
            option_rows(PROTO.replace("  // of the part. Required.", ""), RESOLVED)

    def test_a_default_that_hamctl_contradicts_is_named(self):
        for changed in ({"rows": 4}, {"heat": "cold"}, {"share": 0.3}):
            with self.assertRaisesRegex(readme_tables.TableError, f"train.{list(changed)[0]} says default"):
                option_rows(PROTO, RESOLVED | changed)

    def test_a_field_that_only_hamctl_knows_is_named(self):
        with self.assertRaisesRegex(readme_tables.TableError, "TrainSpec has no field speed"):
            option_rows(PROTO, RESOLVED | {"speed": 1})

    def test_a_line_that_cannot_be_read_is_named(self):
        with self.assertRaisesRegex(readme_tables.TableError, "job.proto:8: cannot read"):
            option_rows(PROTO.replace("rows = 2;", "rows ="), RESOLVED)


class ReadmeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.copy = pathlib.Path(folder.name) / "README.md"
        self.text = (ROOT / "README.md").read_text()

    def run_program(self, *arguments, programs=os.environ["HAM_BIN"]):
        return subprocess.run([sys.executable, readme_tables.__file__, "--bin", programs, *arguments],
                              capture_output=True, text=True, timeout=60)

    def test_readme_is_what_the_programs_say(self):
        done = self.run_program()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_shows_what_differs_and_writes_it_anew(self):
        self.copy.write_text(self.text.replace("| `resnet-18` |", "| `resnet-19` |"))
        done = self.run_program("--readme", self.copy)
        self.assertEqual(done.returncode, 1)
        self.assertIn("\n-| `resnet-19` |", done.stdout)
        self.assertIn("\n+| `resnet-18` |", done.stdout)
        self.assertIn("--write", done.stderr)
        self.assertEqual(self.run_program("--readme", self.copy, "--write").returncode, 0)
        self.assertEqual(self.copy.read_text(), self.text)

    def test_a_missing_marker_is_named(self):
        self.copy.write_text(self.text.replace("<!-- end of models -->", ""))
        done = self.run_program("--readme", self.copy)
        self.assertEqual(done.returncode, 1)
        self.assertIn("<!-- end of models -->", done.stderr)

    def test_a_program_that_fails_or_is_missing_is_named(self):
        trainer = self.copy.parent / "ham-trainer"
        done = self.run_program(programs=str(self.copy.parent))
        self.assertEqual(done.returncode, 1)
        self.assertIn(str(trainer), done.stderr)
        trainer.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
        trainer.chmod(0o755)
        done = self.run_program(programs=str(self.copy.parent))
        self.assertEqual(done.returncode, 1)
        self.assertIn("failed with status 3: broken", done.stderr)


if __name__ == "__main__":
    xml_runner.main()
