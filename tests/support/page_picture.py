"""Writes docs/page.png: the page with three documents ranked, in front of the demo's model.

    PYTHONPATH=. .venv/bin/python tests/support/page_picture.py

Needs Chromium.
"""

import base64
from pathlib import Path

from browser import start
from gateway_server import serve_gateway
from page_tools import calm_page, fill, lines, run

PICTURE = Path(__file__).parents[2] / "docs/page.png"
WIDTH, HEIGHT = 1100, 1200  # in CSS pixels: higher than the page, so that nothing scrolls

if __name__ == "__main__":
    with serve_gateway() as gateway, start() as browser, calm_page(browser, gateway) as tab:
        tab.show_as(WIDTH, HEIGHT)
        fill(tab, documents=[lines(tab, "documents")[number] for number in (0, 1, 4)])
        for _ in range(2):  # the first request of a process takes longer
            run(tab)
        tab.run("document.activeElement.blur()")
        end = tab.run("document.querySelector('form').getBoundingClientRect().bottom") + 8
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end, "scale": 1}
        shot = tab.send("Page.captureScreenshot", clip=clip)
        PICTURE.write_bytes(base64.b64decode(shot["data"]))
