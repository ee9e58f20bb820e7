"""The site of docs/: built without a warning, every page, nothing from elsewhere, a search box that works from disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT

pytestmark = pytest.mark.slow
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)|<link[^>]*rel=\"(?:stylesheet|icon)\"[^>]*href=\"([^\"]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert written <= {path.stem for path in site.glob("*.html")} and "index" in written
    for page in site.glob("*.html"):
        loaded = ["".join(found) for found in LOADED.findall(page.read_text(encoding="utf-8"))]
        assert loaded and not [path for path in loaded if "//" in path], page.name
        assert all((site / path.split("?")[0]).is_file() for path in loaded if not path.startswith(("data:", "/"))), (
            page
        )


def test_the_reference_has_what_users_import(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("elmur.load", "elmur.policy.StreamingPolicy", "elmur.testing.check_model", "elmur.memory"):
        assert f'id="{name}"' in text, name


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, to search from disk as a reader does")
def test_the_search_box_works_from_disk(site: Path) -> None:
    page = [f"{(site / 'index.html').as_uri()}?q=truncated+back-propagation"]
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom"]
    shown = subprocess.run([*browser, *page], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'md-search-result__meta">(\d+) matching', shown)
    assert found and int(found[1]) >= 1
