"""What the pages say works: every Python block runs, every relative link leads somewhere.

The blocks of one page run one after the other, in one process and an empty folder, as a reader
would type them.
A block that cannot run is fenced as ```python no-run: reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SECONDS = 300

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>[^`]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line stands (from 1), what its fence says, and its lines."""

    line: int
    info: str
    lines: tuple[str, ...]

    @property
    def language(self) -> str:
        """First word after the fence."""
        return (self.info.split() or [""])[0]

    @property
    def no_run(self) -> str | None:
        """The reason for not running it; "" where none is given; None where it runs."""
        found = re.search(r"\bno-run\b:?\s*(.*)", self.info)
        return found and found[1].strip()


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    opened: tuple[int, str, str, int] | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number + 1, fence["info"].strip(), fence["marks"], len(fence["indent"]))
        elif fence and fence["marks"].startswith(opened[2]) and not fence["info"].strip():
            first, info, _, indent = opened
            body = (inner[indent:] for inner in lines[first - 1 : number - 1])
            found.append(Block(first, info, tuple(body)))
            opened = None
    return found


def program(text: str) -> str:
    """The page's Python with everything else blank, so that line numbers are the page's own."""
    lines = [""] * len(text.splitlines())
    for block in blocks(text):
        if block.language == "python" and block.no_run is None:
            lines[block.line - 1 : block.line - 1 + len(block.lines)] = block.lines
    return "\n".join(lines) + "\n"


def prose(text: str) -> str:
    """The page without fenced blocks, comments and inline code, in which links are only letters."""
    lines = text.splitlines()
    for block in blocks(text):
        for number in range(block.line - 2, block.line + len(block.lines)):
            lines[number] = ""
    return re.sub(r"<!--.*?-->|`[^`\n]*`", "", "\n".join(lines), flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names that headings can be linked by."""
    headings = re.findall(
        r"^#{1,6} +(.+?) *#*$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in re.findall(
        r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose(page.read_text("utf-8"))
    ):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            broken.append(f"{page.name}: {target} does not exist")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text("utf-8")):
            broken.append(f"{page.name}: {target} names no heading of {file.name}")
    return broken


def name_of(page: Path) -> str:
    """A page's path in the project."""
    return page.relative_to(ROOT).as_posix()


PAGES_WITH_CODE = [page for page in PAGES if program(page.read_text("utf-8")).strip()]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    script = tmp_path / page.with_suffix(".py").name
    script.write_text(program(page.read_text("utf-8")), "utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{name_of(page)} (line numbers are the page's):\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_relative_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    silent = [
        f"{name_of(page)}:{b.line}" for b in blocks(page.read_text("utf-8")) if b.no_run == ""
    ]
    assert not silent, f"write the reason after no-run: {silent}"


def test_the_rule_in_contributing_is_one_file(tmp_path: Path) -> None:
    """Copies the package, adds the page's block as one file, and looks for it everywhere."""
    (rule,) = [
        b for b in blocks((ROOT / "CONTRIBUTING.md").read_text("utf-8")) if b.language == "python"
    ]
    ignored = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(ROOT / "keras_gradopt", tmp_path / "keras_gradopt", ignore=ignored)
    text = '"""Signum: steps of one size along the averaged gradient\'s sign."""\n\n'
    file = package / "gradient" / "sign_momentum.py"
    file.write_text(text + "\n".join(rule.lines), "utf-8")
    program = (
        "import keras, keras_gradopt as kg\n"
        "w = keras.Variable([1.0, -2.0])\n"
        "optimizer = kg.get('sign_momentum')\n"
        "assert type(optimizer) is kg.SignMomentum, type(optimizer)\n"
        "optimizer.learning_rate = 0.1\n"
        "optimizer.apply([2 * w], [w])\n"
        "values = keras.ops.convert_to_numpy(w)\n"
        "assert abs(values - [0.9, -1.9]).max() < 1e-6, values\n"
        "entry = [m for m in kg.methods() if m.class_name == 'SignMomentum']\n"
        "assert len(entry) == 1 and entry[0].year == 2018, entry\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_has_code_to_run() -> None:
    assert ROOT / "README.md" in PAGES_WITH_CODE


# --- the checks can fail ---

PAGE = """# A page

```python
x = 1
```

- in a list:

  ```python
  y = x
  ```

```python no-run: needs a cluster
z = [no](such-file.md)
```
"""


def test_a_program_keeps_the_line_numbers_of_its_page() -> None:
    lines = program(PAGE).splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {
        4: "x = 1",
        10: "y = x",
    }


def test_the_reason_of_a_block_that_does_not_run_is_read() -> None:
    assert [block.no_run for block in blocks(PAGE)] == [None, None, "needs a cluster"]
    assert blocks("```python no-run\n```")[0].no_run == ""


@pytest.mark.parametrize(
    "link", ["[a](nowhere.md)", "![a](no.png)", "[a](#nothing)", "[a](p.md#no)"]
)
def test_a_link_that_leads_nowhere_is_found(link: str, tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    page.write_text(f"# Here\n\n{link}\n", "utf-8")
    assert broken_links(page)


def test_links_to_headings_files_and_the_web_are_in_order(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    page.write_text(
        "# What it is: `it`\n[a](#what-it-is-it) [b](p.md) [c](https://keras.io)", "utf-8"
    )
    assert not broken_links(page)
