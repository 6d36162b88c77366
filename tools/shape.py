#!/usr/bin/env python3
"""Measures the shape of the source tree against aims: `just shape`.

    tools/shape.py [--verbose] [--check] [--root DIR]

`--verbose` lists the offenders of each row; `--check` ends with 1 when an aim is missed. The source
is read as text, with comments and literals blanked, and not compiled. *Shipped* code is what
`src/lib.rs` and `src/main.rs` reach without `cfg(test)`; *core* is what of it is reached without
`cfg(feature = …)`. What each row counts:

- Largest type: lines and functions of all `impl` blocks of a type, trait impls included, summed
  over files. An `impl` belongs to the type of that name whose module is nearest, within the same
  top-level module.
- Look-ups: in methods of core types, `self.<field>` with `.get(`, `.get_mut(` or `[id]`, where the
  field, of the type or of a part of it, is a map, a slab, a `Vec` or a `SmallVec` of records. A
  record is a struct with named fields, of the same top-level module, that changes: it has methods
  on `&mut self`, or is reached by `get_mut`. To make a record and to end it (`insert`, `entry`,
  `remove`) is its parent's task and does not count.
- Finders: methods that take an id and return an `Option` or a `Result` of a reference to a record,
  or lend it to a closure. Each call `self.<finder>(` counts, so that a look-up cannot hide in one.
- Longest file: lines of a shipped file without its tests. Inline tests: lines of `mod tests { … }`.
- Shared names: `struct`, `enum`, `union`, `trait` and `type` outside functions and impls.
- Doc blocks: adjoining lines of `///`, or of `//!`, of shipped code.
- Core share: lines of shipped files without their tests, blank lines and comments included.
- Parameters: of functions of shipped code; `self` is one.
- Sleeps: calls of `sleep` and `sleep_until` in `tests/` and in the tests of `src/`. One that drives
  paused time does not count: its function, or every asynchronous test of its file, has
  `start_paused`.
- Long lines: of Rust in `src/`, `tests/`, `benches/`, `fuzz/` and of `build.rs`; of Markdown in
  `docs/` and at the root, without the rows of tables, which cannot be wrapped.
"""

import argparse
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

# What each figure should be, and what it counts. Aims of look-ups: a tenth of what there was.
AIMS = {
    "type": ("<=", 900, "lines of the largest type"),
    "lookups": ("<=", 24, "look-ups of a record by id in its parent's methods"),
    "finders": ("<=", 6, "look-ups through a finder"),
    "file": ("<=", 900, "lines of the longest file, without tests"),
    "inline": ("<=", 0, "inline test modules above 300 lines"),
    "names": ("<=", 15, "% of definitions that share their name"),
    "party": ("<=", 0, "% of doc blocks with he, his, him, who, whom, whose, she, her"),
    "short": ("<=", 4, "% of doc blocks of two words or less"),
    "core": (">=", 65, "% of lines are core, demo and simulated counted apart"),
    "parameters": ("<=", 5, "functions with 7 parameters or more"),
    "sleeps": ("<=", 0, "sleeps in tests"),
    "columns": ("<=", 0, "lines of Rust over 100 columns"),
    "markdown": ("<=", 0, "lines of Markdown over 120 columns"),
}
# Modules behind a feature that only show or try the product: neither core nor shell.
APART = {"demo", "phone", "phones", "listener", "events", "cometd_client", "simulated"}

COMMENT = r"//[^\n]*|/\*.*?\*/"
STRING = r'''\bb?c?r(#*)".*?"\1|"(?:\\.|[^"\\])*"'''
CHARACTER = r"'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'"
TOKEN = re.compile(f"{COMMENT}|{STRING}|{CHARACTER}", re.S)
VISIBILITY = r"(?:pub(?:\([^)]*\))?\s+)?"
ITEM = re.compile(
    rf"\s*{VISIBILITY}(?:async|const|enum|extern|fn|impl|let|macro_rules|mod|static|struct|trait"
    r"|type|union|unsafe|use)\b"
)
TEST = re.compile(r"#\s*\[\s*cfg\s*\(\s*(?:all\s*\([^)]*)?\btest\b")
REFERENCE = r"&\s*(?:'\w+\s+)?(?:mut\s+)?"
PARTY = re.compile(r"\b(?:he|his|him|who|whom|whose|she|her)\b", re.I)
SLEEP = re.compile(r"(?<!fn )\bsleep(?:_until)?\s*\(")
MAPS = {"HashMap", "BTreeMap", "IndexMap"}
LISTS = {"Slab", "Vec", "SmallVec"}
WRAPPERS = {"Arc", "Box", "Mutex", "Option", "Rc", "RefCell", "RwLock"}


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def close(code, at):
    """The place after the bracket that closes the one at `at`."""
    depth = 0
    for bracket in re.compile(r"[{}()\[\]]").finditer(code, at):
        depth += 1 if bracket[0] in "{([" else -1
        if depth == 0:
            return bracket.end()
    return len(code)


def close_angle(code, at):
    """The same for `<`, if there is one at `at`."""
    depth = 0
    if code[at] != "<":
        return at
    for bracket in re.compile(r"->|=>|[<>]").finditer(code, at):
        depth += {"<": 1, ">": -1}.get(bracket[0], 0)
        if depth == 0:
            return bracket.end()
    return at


def commas(text):
    """The parts of a list, split at its own commas only."""
    parts, depth = [""], 0
    for char in re.sub(r"->|=>", "  ", text):
        depth += (char in "([{<") - (char in ")]}>")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def item_end(code, at):
    """Where the item, the field or the statement that begins at `at` ends."""
    is_item, inner = ITEM.match(code, at), at
    for mark in re.compile(r"[;,{}()\[\]]").finditer(code, at):
        if mark.start() < inner:
            continue
        if mark[0] in "([":
            inner = close(code, mark.start())
        elif mark[0] == "{":
            return close(code, mark.start())
        elif mark[0] in "})]":
            return mark.start()
        elif mark[0] == ";" or not is_item:
            return mark.end()
    return len(code)


class Source:
    """A Rust file: its text, its code (comments and literals blanked), its code without tests."""

    def __init__(self, path, module=(), gated=False, test=False):
        self.path, self.module, self.gated, self.test = path, module, gated, test
        self.text = path.read_text()
        self.code = TOKEN.sub(lambda token: blank(token[0]), self.text)
        self.tests = [(0, len(self.code))] if test else list(self.inline_tests())
        self.shipped = self.code
        for start, end in self.tests:
            tests = blank(self.shipped[start:end])
            self.shipped = self.shipped[:start] + tests + self.shipped[end:]
        of_tests = sum(self.text.count("\n", *span) for span in self.tests)
        self.lines = self.text.count("\n") - of_tests

    def inline_tests(self):
        end = 0
        for attribute in TEST.finditer(self.code):
            if attribute.start() < end:
                continue
            end = close(self.code, self.code.index("[", attribute.start()))
            while following := re.compile(r"\s*#\s*\[").match(self.code, end):
                end = close(self.code, following.end() - 1)
            end = item_end(self.code, end)
            yield attribute.start(), end

    def line(self, at):
        return self.text.count("\n", 0, at) + 1

    def in_tests(self, at):
        return any(start <= at < end for start, end in self.tests)

    def children(self):
        """Modules in files of their own: name and attributes."""
        attributes = r"(?:[ \t]*#\[.*\]\s*\n|[ \t]*\n)*"
        declared = rf"^{attributes}[ \t]*{VISIBILITY}mod\s+(\w+)\s*;"
        for found in re.finditer(declared, self.code, re.M):
            yield found[1], self.text[found.start() : found.end()]

    def doc_blocks(self):
        """First line and text of each block of documentation that ships."""
        block, kind, offset = [], None, 0
        for number, line in enumerate(self.text.split("\n")):
            doc = re.match(r"\s*(///(?!/)|//!) ?(.*)", line)
            is_comment = not self.code[offset : offset + len(line)].strip()
            doc = doc if is_comment and not self.in_tests(offset) else None
            offset += len(line) + 1
            if block and (not doc or doc[1] != kind):
                yield number - len(block) + 1, " ".join(block)
                block = []
            if doc:
                block, kind = block + [doc[2]], doc[1]


def reach(root):
    """All modules of the crate, from its two roots."""
    found = {}

    def visit(path, module, gated, test):
        if path not in found or found[path].gated and not gated:
            source = found[path] = Source(path, module, gated, test)
            is_root = path.name in ("lib.rs", "main.rs", "mod.rs")
            folder = path.parent if is_root else path.with_suffix("")
            for name, attributes in source.children():
                places = (folder / f"{name}.rs", folder / name / "mod.rs")
                is_test = test or bool(TEST.search(attributes))
                is_gated = gated or bool(re.search(r"cfg\([^\]]*feature", attributes))
                for at in filter(Path.exists, places):
                    visit(at, module + (name,), is_gated, is_test)

    visit(root / "src/lib.rs", (), False, False)
    visit(root / "src/main.rs", ("main",), True, False)
    return [found[path] for path in sorted(found)]


class Types:
    """The types of the shipped code, their fields and their impls."""

    def __init__(self, sources):
        self.known, self.aliases, self.impls, self.names = defaultdict(list), {}, [], []
        for source in sources:
            self.read_definitions(source)
        for source in sources:
            self.read_impls(source)
        self.changing = {
            owner
            for owner, source, start, end in self.impls
            if re.search(r"\(\s*&\s*(?:'\w+\s+)?mut\s+self\b", source.shipped[start:end])
        }

    def read_definitions(self, source):
        code = source.shipped
        defined = rf"^{VISIBILITY}(?:unsafe )?(?:struct|enum|union|trait|type)\s+(\w+)"
        for found in re.finditer(defined, code, re.M):
            self.names.append((found[1], source, found.start()))
        for found in re.finditer(r"\btype\s+(\w+)(?:<[^=]*>)?\s*=\s*(?:\w+::)*(\w+)", code):
            self.aliases[found[1]] = found[2]
        for found in re.finditer(r"\b(struct|enum)\s+(\w+)[^{;(]*([{;(])", code):
            fields = {}
            if found[1] == "struct" and found[3] == "{":
                body = code[found.end() : close(code, found.end() - 1) - 1]
                parts = commas(re.sub(r"#\s*\[[^\]]*\]", "", body))
                pairs = (re.match(rf"{VISIBILITY}(\w+)\s*:\s*(.*)", part, re.S) for part in parts)
                fields = {pair[1]: " ".join(pair[2].split()) for pair in pairs if pair}
            self.known[found[2]].append((source.module, fields))

    def read_impls(self, source):
        code = source.shipped
        for found in re.finditer(r"^ *(?:unsafe )?impl\b", code, re.M):
            head = close_angle(code, found.end())
            body = code.index("{", head)
            implementor = re.split(r"\bfor\b(?!\s*<)", code[head:body])[-1]
            name = re.match(r"\W*(?:'\w+\s+)?(?:mut\s+|dyn\s+)*(?:\w+::)*(\w+)", implementor)
            owner = name and self.nearest(name[1], source.module)
            if owner:
                self.impls.append((owner, source, found.start(), close(code, body)))

    def nearest(self, name, module):
        """Module and name of the type that is meant by a name in a module."""
        places = [place for place, *_ in self.known[name]]
        places = [place for place in places if place[:1] == module[:1]] or places

        def nearness(place):
            return len(os.path.commonprefix([place, module])), -len(place)

        return (max(places, key=nearness), name) if places else None

    def fields(self, key):
        """Of a struct with named fields."""
        return next((fields for module, fields in self.known[key[1]] if module == key[0]), {})

    def content(self, text, module):
        """Of a field's type: the collection it is, if it is one, and the type it is or holds."""
        plain = r"&?(?:'\w+ )?(?:mut |dyn |impl )?(?:\w+::)*(\w*)(?:<(.*)>)?"
        name, inside = re.match(plain, text).groups()
        parts = commas(inside or "")
        if parts and name in WRAPPERS:
            return self.content(parts[0], module)
        kind = self.aliases.get(name, name)
        if parts and kind in MAPS | LISTS:
            held = parts[0].lstrip("[").split(";")[0] if kind in LISTS else parts[1]
            is_collection, key = self.content(held, module)
            return kind, None if is_collection else key
        return None, self.nearest(name, module)

    def finders(self):
        """Methods that find a part of their type by an id: the type, the method, what it finds."""
        method = rf"\bfn\s+(\w+)[^({{;]*\(\s*{REFERENCE}self\s*,([^{{;]*)"
        found = rf"->\s*(?:Option|Result)<\s*{REFERENCE}(\w+)|\bFn(?:Once|Mut)?\(\s*&mut\s+(\w+)"
        for owner, source, start, end in self.impls:
            for name, rest in re.findall(method, source.shipped[start:end]):
                if part := re.search(found, rest):
                    yield owner, name, self.nearest(part[1] or part[2], source.module)

    def uses(self):
        """In methods of core types, what is called on a part of `self`, or `[`."""
        for owner, source, start, end in self.impls:
            code = "" if source.gated else source.shipped[start:end]
            for use in re.finditer(r"\bself((?:\s*\.\s*\w+)+)\s*([(\[])", code):
                path = re.findall(r"\w+", use[1])
                method = path.pop() if use[2] == "(" else "["
                key, kind = owner, None
                while path and key and not kind:
                    field = self.fields(key).get(path.pop(0))
                    kind, key = self.content(field, key[0]) if field else (None, None)
                is_range = method == "[" and ".." in code[use.end() : close(code, use.end() - 1)]
                if key and not path and not is_range:
                    yield owner, kind, method, key, (source, source.line(start + use.start()))


def look_ups(types):
    """Where methods of core types look for a record: in its collection, and through finders."""
    uses = list(types.uses())
    reached = {key for _, kind, method, key, _ in uses if kind and method == "get_mut"}
    records = {key for key in types.changing | reached if types.fields(key)}
    finders = {(owner, name) for owner, name, found in types.finders() if found in records}
    direct, through = [], []
    for owner, kind, method, key, place in uses:
        is_record = key in records and key[0][:1] == owner[0][:1]
        if kind and is_record and method in ("get", "get_mut", "["):
            direct.append((*place, f"{owner[1]} looks for {key[1]}"))
        elif not kind and (key, method) in finders:
            through.append((*place, f"{owner[1]} calls {key[1]}::{method}"))
    return direct, through


def parameters(source):
    for found in re.finditer(r"\bfn\s+(\w+)\s*(?=[<(])", source.shipped):
        at = source.shipped.index("(", close_angle(source.shipped, found.end()))
        number = len(commas(source.shipped[at + 1 : close(source.shipped, at) - 1]))
        yield source, source.line(found.start()), found[1], number


def sleeps(source, whole):
    """Lines of a file's tests, or of a `whole` file, that wait for real time to pass."""
    function = rf"(?:#\[[^\n]*\]\s*)*{VISIBILITY}(?:async )?fn\s+\w+"
    paused = [
        (found.start(), close(source.code, source.code.index("{", found.end())))
        for found in re.finditer(function, source.code)
        if "start_paused" in found[0]
    ]
    runs = re.findall(r"#\[tokio::test[^\n]*", source.code)
    if runs and all("start_paused" in run for run in runs):
        return
    for call in SLEEP.finditer(source.code):
        is_paused = any(start <= call.start() < end for start, end in paused)
        if not is_paused and (whole or source.in_tests(call.start())):
            yield source, source.line(call.start()), "sleeps"


def of_types(shipped):
    types = Types(shipped)
    sizes = defaultdict(lambda: [0, 0, None])
    for owner, source, start, end in types.impls:
        size = sizes[owner]
        size[0] += source.shipped.count("\n", start, end) + 1
        size[1] += len(re.findall(r"\bfn\s+\w", source.shipped[start:end]))
        size[2] = size[2] or (source, source.line(start))
    largest = sorted(sizes.items(), key=lambda size: -size[1][0])
    above = sum(lines > AIMS["type"][1] for _, (lines, *_) in largest)
    top = [
        f"{'::'.join((*at[:1], name))} {lines:,}/{functions}"
        for (at, name), (lines, functions, _) in largest[:6]
    ]
    yield "type", largest[0][1][0], f"{above} above; {', '.join(top)}", [
        (*place, f"{'::'.join((*at, name))}: {lines} lines, {functions} functions")
        for (at, name), (lines, functions, place) in largest
        if lines > 400
    ]
    for row, found in zip(("lookups", "finders"), look_ups(types)):
        by = Counter(what.split()[0] for *_, what in found).most_common(5)
        yield row, len(found), ", ".join(f"{name} {count}" for name, count in by), found
    count = Counter(name for name, *_ in types.names)
    shared = [(at, at.line(start), name) for name, at, start in types.names if count[name] > 1]
    share = 100 * len(shared) / len(types.names)
    shared.sort(key=lambda at: at[2])
    yield "names", share, f"{len(shared)} of {len(types.names)}", shared


def of_files(shipped):
    longest = sorted(shipped, key=lambda source: -source.lines)
    above = [(at, 1, f"{at.lines} lines") for at in longest if at.lines > AIMS["file"][1]]
    yield "file", longest[0].lines, f"{len(above)} above", above
    inline = [
        (source, source.line(start), f"{lines} lines of tests")
        for source in shipped
        for start, end in source.tests
        if (lines := source.code.count("\n", start, end)) > 300
    ]
    yield "inline", len(inline), "", inline
    is_apart = {source: source.gated and bool(APART & set(source.module)) for source in shipped}
    core = sum(source.lines for source in shipped if not source.gated)
    apart = sum(source.lines for source in shipped if is_apart[source])
    every = sum(source.lines for source in shipped)
    said = f"core {core:,}, shell {every - core - apart:,}, apart {apart:,}; "
    said += f"{100 * core / every:.1f} % of all"
    shell = [at for at in longest if at.gated and not is_apart[at]]
    yield "core", 100 * core / (every - apart), said, [(at, 1, f"{at.lines} lines") for at in shell]


def of_docs(shipped):
    docs = [(source, *doc) for source in shipped for doc in source.doc_blocks()]
    party = [doc for doc in docs if PARTY.search(doc[2])]
    short = [doc for doc in docs if len(doc[2].split()) <= 2]
    for row, found in (("party", party), ("short", short)):
        yield row, 100 * len(found) / len(docs), f"{len(found)} of {len(docs)}", found


def of_functions(shipped):
    many = [
        (source, line, f"{name} has {number}")
        for shipping in shipped
        for source, line, name, number in parameters(shipping)
        if number >= 7
    ]
    yield "parameters", len(many), "", many


def of_tests(reached, tests):
    found = [at for source in reached for at in sleeps(source, False)]
    found += [at for source in tests for at in sleeps(source, True)]
    yield "sleeps", len(found), "", found


def of_columns(root, sources):
    rust = [source.path for source in sources]
    texts = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    for row, limit, paths in (("columns", 100, rust), ("markdown", 120, texts)):
        long = [
            (path, number, f"{len(line)} columns")
            for path in paths
            for number, line in enumerate(path.read_text().split("\n"), 1)
            if len(line) > limit and not (row == "markdown" and line.lstrip().startswith("|"))
        ]
        by = Counter(path.relative_to(root).parts[0] for path, *_ in long).most_common(4)
        yield row, len(long), ", ".join(f"{name} {count}" for name, count in by), long


def rust_files(folder):
    paths = sorted(folder.rglob("*.rs"))
    return [path for path in paths if "target" not in path.relative_to(folder).parts]


def measure(root):
    """Of each row: its name, its figure, what else is to be said of it, and the offenders."""
    reached = reach(root)
    lost = set(rust_files(root / "src")) - {source.path for source in reached}
    for path in sorted(lost):
        print(f"no module declares {path}", file=sys.stderr)
    shipped = [source for source in reached if not source.test]
    outside = {
        folder: [Source(path) for path in rust_files(root / folder)]
        for folder in ("tests", "benches", "fuzz")
    }
    yield from of_types(shipped)
    yield from of_files(shipped)
    yield from of_docs(shipped)
    yield from of_functions(shipped)
    yield from of_tests(reached, outside["tests"])
    yield from of_columns(root, [*reached, *sum(outside.values(), []), Source(root / "build.rs")])


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    asked = argparse.ArgumentParser(description="Measures the shape of the source tree.")
    asked.add_argument("--verbose", action="store_true", help="list the offenders")
    asked.add_argument("--check", action="store_true", help="end with 1 when an aim is missed")
    root = Path(__file__).resolve().parent.parent
    asked.add_argument("--root", type=Path, default=root, help="the repository to measure")
    asked = asked.parse_args()
    rows, missed = {row: rest for row, *rest in measure(asked.root)}, 0
    print(f"{'now':>8}  {'aim':>8}  met")
    for row, (sign, aim, what) in AIMS.items():
        now, said, offenders = rows[row]
        is_met = now <= aim if sign == "<=" else now >= aim
        missed += not is_met
        figure = f"{now:,.1f}" if isinstance(now, float) else f"{now:,}"
        print(f"{figure:>8}  {sign} {aim:>5}  {'yes' if is_met else 'NO ':<4} {what}", end="")
        print(f" ({said})" if said else "")
        for place, line, text in offenders if asked.verbose else ():
            path = getattr(place, "path", place).relative_to(asked.root)
            print(f"    {path}:{line}: {text if len(text) < 100 else text[:99] + '…'}")
    print(f"{missed} of {len(AIMS)} aims missed")
    return 1 if asked.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
