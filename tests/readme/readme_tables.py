#!/usr/bin/env python3
"""Holds the tables of README.md against what the programs know.

  tests/readme/readme_tables.py [--write] [--bin DIR] [--readme FILE]

Between `<!-- NAME: ... -->` and `<!-- end of NAME -->` README holds the tables of models (`ham-trainer models`), data
sets (`ham-trainer data list`), what GPUs reached (tests/gpu/results), how faults end (`tests/figures faults --record`) and options: the fields of TrainSpec and
EvaluateSpec in job.proto, with what the comments there say and the defaults that `hamctl submit --dry-run` resolves. Without --write prints the difference and exits with status 1
where README says something else; --write replaces the tables. DIR (default build/bin) holds the two programs.
"""
import argparse
import dataclasses
import difflib
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "benchmark"))
import gpu_figures  # noqa: E402

SMALLEST_SPEC = "train: {data: {name: fashion-mnist}}"
SMALLEST_EVALUATION = "evaluate: {weights: %s, data: {name: fashion-mnist}}" % ("0" * 64)


class TableError(Exception):
    """A source of the tables that cannot be read or contradicts another; says what to do."""


# The schema.

@dataclasses.dataclass
class Field:
    name: str
    type: str
    repeated: bool
    comment: str


@dataclasses.dataclass
class Message:
    comment: str
    fields: list


BLOCK = re.compile(r"(message|oneof|enum)\s+(\w+)\s*\{$")
FIELD = re.compile(r"(?:(optional|repeated)\s+)?(map<[^>]*>|[\w.]+)\s+(\w+)\s*=\s*\d+\s*(?:\[[^\]]*\])?;$")


def parse_messages(proto):
    """Name -> Message of a proto3 file. A comment belongs to the declaration below it; one that begins after a
    declaration, and the lines of comment below that are indented further than it, belong to that declaration."""
    messages, blocks, above, field, indent = {}, [], [], None, 0
    for number, line in enumerate(proto.splitlines(), 1):
        code, slashes, comment = line.partition("//")
        code, comment = code.strip(), comment.strip()
        if not code and slashes:
            if field is not None and line.index("//") > indent:
                field.comment = f"{field.comment} {comment}".strip()
            else:
                field = None
                above.append(comment)
            continue
        field = None
        if block := BLOCK.match(code):
            blocks.append(block.groups())
            if block[1] == "message":
                messages[block[2]] = Message(" ".join(above), [])
        elif code == "}":
            blocks.pop()
        elif blocks and blocks[-1][0] != "enum" and code:
            match = FIELD.match(code)
            if match is None:
                raise TableError(f"job.proto:{number}: cannot read \"{code}\"; write a field on one line, as the others")
            owner = next(name for kind, name in reversed(blocks) if kind == "message")
            indent = len(line) - len(line.lstrip())
            field = Field(match[3], match[2], match[1] == "repeated", " ".join([*above, *filter(None, [comment])]))
            messages[owner].fields.append(field)
        above = []
    return messages


# What a comment says.

SENTENCE_END = re.compile(r"(?<!\bal)\.(?= )")  # not that of "et al. 2018"
DEFAULT = re.compile(rf"(?:^|(?<=[;,.] ))default:? (.+?)(?:;|{SENTENCE_END.pattern}|\.?$)", re.IGNORECASE)
RANGE = re.compile(r"^[\[(][^\[\]()]*, ?[^\[\]()]*[\])]")


def split_default(comment):
    """A comment without its clause `default VALUE`, and VALUE ("" where it has none)."""
    clause = DEFAULT.search(comment)
    if clause is None:
        return comment, ""
    before, after = comment[:clause.start()].rstrip(" ;,."), comment[clause.end():].strip()
    return f"{before}. {after}" if before and after else before or after, clause[1]


def in_short(comment):
    """The first sentence of a comment, without its capital, and the range that a later one begins with."""
    first, *others = [sentence.strip() for sentence in SENTENCE_END.split(comment)]
    if re.match("[A-Z][a-z]", first):
        first = first[0].lower() + first[1:]
    return "; ".join(text.rstrip(".") for text in [first, *filter(RANGE.match, others)])


def literal(text):
    """The value that a `default` clause names; None where it is a formula or a condition."""
    if re.fullmatch(r"\"[^\"]*\"", text):
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if text == "none":
        return []
    if fraction := re.fullmatch(r"([\d.]+)/([\d.]+)", text):
        return float(fraction[1]) / float(fraction[2])
    try:
        return float(text)
    except ValueError:
        return None


def value_of(field, resolved):
    """A value as protobuf's JSON has it, where 64-bit integers are strings."""
    return int(resolved) if field.type in ("uint64", "int64") and isinstance(resolved, str) else resolved


def shown(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"`{value}`" if value else '""'
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def describe(path, field, resolved):
    """The default of a field, and what it is. `resolved`: its value where nobody set it; None where it has none."""
    if not field.comment:
        raise TableError(f"job.proto: train.{path} has no comment; say what it is, its range and default")
    if re.search(r"\bRequired\b", field.comment):
        return "required", in_short(re.sub(r"\s*\bRequired\.?", "", field.comment))
    what, default = split_default(field.comment)
    if resolved is None or (isinstance(resolved, list) and resolved):  # absent, or objects with rows of their own
        return default, in_short(what)
    value, said = value_of(field, resolved), literal(default)
    if said is None:
        return shown(value), "; ".join(filter(None, [in_short(what), default and f"default {default}"]))
    equal = abs(said - value) < 1e-12 if isinstance(said, float) and isinstance(value, (int, float)) else said == value
    if not equal:
        raise TableError(f"job.proto: the comment of train.{path} says default {default}, hamctl resolves it to "
                         f"{json.dumps(value)}; correct one of them, or say what the default depends on")
    return (default if "/" in default else shown(value)), in_short(what)


# The tables.

def cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;")


def table(head, rows, right_aligned=()):
    lines = [head, ["---:" if column in right_aligned else "---" for column in head], *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def option_rows(messages, name, path, resolved, met):
    """Rows of a message and of those in it. `resolved` is its object in a spec in which nobody set anything; `met` the
    messages that have rows already, to which those of this call are added."""
    fields = messages[name].fields
    if unread := sorted(set(resolved) - {field.name for field in fields}):
        raise TableError(f"job.proto: {name} has no field {unread[0]}, which hamctl prints; build hamctl anew")
    rows, inner = [], []
    for field in fields:
        here, value = f"{path}{field.name}", resolved.get(field.name)
        if field.repeated or field.type not in messages:
            rows.append([f"`{here}`", *describe(here, field, value)])
        if field.type in messages:
            inner.append((field, f"{here}[]" if field.repeated else here,
                          next(iter(value or []), {}) if field.repeated else value or {}))
    for field, here, value in inner:
        if field.type in met:
            continue
        met.add(field.type)
        alike = ", ".join(there for other, there, _ in inner if other.type == field.type)
        rows.append([f"**{alike}**", "", messages[field.type].comment])
        rows += option_rows(messages, field.type, f"{here}.", value, met)
    return rows


def folded(kind, smallest, rows):
    count = sum(row[0].startswith("`") for row in rows)
    return (f"<details><summary>All {count} options of {kind}</summary>\n\n"
            f"Defaults as `{smallest}` gets them.\n\n" + table(["option", "default", "what it is"], rows) +
            "\n\n</details>")


def options_tables(proto, trained, evaluated):
    """Both kinds of jobs; what an evaluation has in common with a training is explained there."""
    messages, met = parse_messages(proto), set()
    train = option_rows(messages, "TrainSpec", "", trained["train"], met)
    shared = [[f"`{field.name}`", f"as `train.{shared_with}`", in_short(field.comment)]
              for field in messages["EvaluateSpec"].fields if field.type in met
              for shared_with in [next((other.name for other in messages["TrainSpec"].fields
                                        if other.type == field.type), "evaluation.suites[]")]]
    evaluate = option_rows(messages, "EvaluateSpec", "", evaluated["evaluate"], met)
    return "\n\n".join([
        folded("a training, under <code>train</code>", SMALLEST_SPEC, train),
        folded("an evaluation, under <code>evaluate</code>", SMALLEST_EVALUATION.replace("0" * 64, "SHA256"),
               shared + evaluate)])


def models_table(models):
    return table(["model", "what it is", "images", "parameters for 10 classes"],
                 [[f"`{model['name']}`", model["description"], model["takes"],
                   f"{model['parameters']:,} at {model['images']}"] for model in models])


def data_sets_table(sets):
    return table(["data set", "images", "classes", "train", "test", "files", "augmentation by default"],
                 [[f"`{one['name']}`", f"{one['channels']}x{one['height']}x{one['width']}", len(one["class_names"]),
                   f"{one['train_rows']:,}", f"{one['test_rows']:,}", one["format"], one["augmentation"]]
                  for one in sets], ("classes", "train", "test"))


def gpu_table():
    return table(["what", "goal", "reached", "how"], gpu_figures.table_rows(ROOT))


def faults_table():
    rows = json.loads((ROOT / "tests/benchmark/results/faults.json").read_text())
    return table(["what", "goal", "reached", "how"],
                 [[row["name"], row["goal"], f"{row['value']} ({row['verdict']})",
                   f"{row['how']}; {row['date']}, commit {row['commit']}"] for row in rows])


def output_of(command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise TableError(f"{' '.join(command)} failed with status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def tables(programs):
    trainer, hamctl = str(programs / "ham-trainer"), str(programs / "hamctl")
    return {
        "GPU": gpu_table(),
        "faults": faults_table(),
        "models": models_table(output_of([trainer, "models", "--json"])),
        "data sets": data_sets_table(output_of([trainer, "data", "list", "--json"])),
        "options": options_tables((ROOT / "proto/ham/v1/job.proto").read_text(),
                                  *(output_of([hamctl, "submit", "--dry-run", "-", "-o", "json"], spec)
                                    for spec in (SMALLEST_SPEC, SMALLEST_EVALUATION))),
    }


def with_tables(readme, new):
    """README with the tables of `new`, by the names in its markers."""
    for name, text in new.items():
        between = re.compile(f"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->\n)", re.DOTALL)
        readme, count = between.subn(lambda markers: f"{markers[1]}{text}\n{markers[2]}", readme)
        if count != 1:
            raise TableError(f"README.md: between `<!-- {name}: ... -->` and `<!-- end of {name} -->`, each a line of "
                             f"its own, stands the table; there are {count} such pairs, not 1")
    return readme


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the tables")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/bin", help="folder of the programs")
    parser.add_argument("--readme", type=pathlib.Path, default=ROOT / "README.md", help="another README")
    arguments = parser.parse_args()
    try:
        old = arguments.readme.read_text()
        new = with_tables(old, tables(arguments.bin))
    except (TableError, OSError) as error:
        print(f"readme_tables.py: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        arguments.readme.write_text(new)
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "README.md",
                                               "what the programs say"))
    if new != old:
        print("README.md is not what the programs say: run tests/readme/readme_tables.py --write", file=sys.stderr)
    return int(new != old)


if __name__ == "__main__":
    sys.exit(main())
