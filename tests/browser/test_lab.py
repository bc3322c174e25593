"""The widgets live in JupyterLab: drawn there, and Python sees what the reader chooses."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from mmtutor.widgets import ContrastivePlayground

ROOT = Path(__file__).parents[2]
CELLS = [
    """
import numpy as np, torch
from mmtutor.encoders import TextEncoder
from mmtutor.widgets import ContrastivePlayground, EmbeddingExplorer, SearchBox
pictures, names = np.zeros((4, 32, 32, 3), np.uint8), ["cat", "dog", "apple", "car"]
checkpoints = [{"image": torch.randn(4, 8), "text": torch.randn(4, 8)} for _ in range(2)]
explorer = EmbeddingExplorer.from_embeddings(checkpoints, pictures, names, [0, 0, 1, 1], ["alive", "made"])
explorer
""",
    "playground = ContrastivePlayground(names=names, thumbnails=pictures)\nplayground",
    "box = SearchBox(TextEncoder(dim=8), torch.randn(4, 8), pictures, names, ['cat'])\nbox",
]
REPORT = "print('step', explorer.step, 'τ', playground.temperature, 'query', box.query, len(box.results))"
AS_PAGE = "from IPython.display import HTML\nHTML(playground.to_html())"
FROM_PYTHON = "box.query = '苹果'\nplayground.temperature = 0.5\nexplorer.shown_group = 1"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own: no token, own settings, the chapters' kernel."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source.strip()) for source in (*CELLS, REPORT, FROM_PYTHON, AS_PAGE)
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    stored = nbformat.v4.new_output("display_data", {"text/html": ContrastivePlayground().to_html()})
    notebook.cells[-1].outputs = [stored]
    nbformat.write(notebook, folder / "widgets.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "RUNTIME")}
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            env={**os.environ, **own, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address, server, seconds=60):
    """Wait until the server answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            return json.load(urllib.request.urlopen(f"{address}/api"))
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer at {address}")


def run_cell(page, index):
    page.evaluate(
        """index => { const app = window.jupyterapp;
          app.shell.currentWidget.content.activeCellIndex = index;
          app.commands.execute('notebook:run-cell'); }""",
        index,
    )


def test_widgets_live_in_jupyterlab_and_python_sees_the_reader_s_choice(lab, open_page):
    page = open_page(f"{lab}/lab/tree/widgets.ipynb", viewport={"width": 1200, "height": 4000}).page
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )
    page.wait_for_timeout(1000)  # Lab itself is not ready to run cells the moment the kernel is
    assert page.get_by_text(
        "To use the widget, allow scripts on this page, or run the cell in a notebook."
    ).is_visible()  # stored, not trusted: no script runs
    for index in range(len(CELLS)):
        run_cell(page, index)
    for name in ("explorer", "playground", "search"):
        page.wait_for_selector(f".mmt-{name} .mmt-try", timeout=60_000)
    assert page.locator(".mmt-page .mmt-try").count() == 0  # the live views, not pages

    page.get_by_label("temperature").fill("0")  # log10 of it
    page.get_by_role("searchbox").fill("a dog")
    page.get_by_role("slider", name="training").focus()
    page.keyboard.press("ArrowLeft")  # Lab must not take the key for its own
    point = page.get_by_role("slider", name="picture cat")
    point.focus()
    page.keyboard.press("ArrowUp")
    assert point.get_attribute("aria-valuetext") == "120 degrees"
    page.wait_for_timeout(600)
    run_cell(page, len(CELLS))
    output = page.locator(".jp-OutputArea-output pre", has_text="query")
    output.wait_for(timeout=20_000)
    assert output.inner_text().strip() == "step 0 τ 1.0 query a dog 4"

    run_cell(page, len(CELLS) + 1)
    page.wait_for_function("() => document.querySelector('.mmt-search input').value === '苹果'")
    page.wait_for_function("() => document.querySelector('.mmt-playground output').textContent === '0.50'")
    page.wait_for_function("() => document.querySelector('.mmt-explorer select').value === '2'")

    run_cell(page, len(CELLS) + 2)  # the page's HTML is drawn in Lab too, where it is trusted
    page.wait_for_selector(".mmt-page .mmt-try")
