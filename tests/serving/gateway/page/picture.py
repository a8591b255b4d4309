"""The README's picture: a chat with SmolLM2-135M-Instruct on the gateway's page, as Chromium shows it.

.venv/bin/python -m tests.serving.gateway.page.picture --engine engines/smollm2      # -> docs/chat.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from contract.paths import ROOT
from tests.conftest import start_server, stop_server
from tests.serving.gateway.page.browser import ChatPage, chromium

QUESTIONS = (
    "Explain photosynthesis to a child in three sentences.",
    "Give me three tips for learning a language.",
)
TOKENS, SEED = "200", "1"
SIZE = {"width": 920, "height": 660}
SLOW_MS = 120_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/chat.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = start_server(Path(home) / "serve.log", "--engine", str(args.engine), gateway=True)
        try:
            photograph(server.gateway, args.out)
        finally:
            stop_server(server)


def photograph(url: str, out: Path) -> None:
    with chromium() as browser:
        chat = ChatPage(browser, url, viewport=SIZE, color_scheme="light")
        chat.page.set_default_timeout(SLOW_MS)
        chat.page.click("#open-settings")
        chat.page.fill("#max_tokens", TOKENS)
        chat.page.fill("#seed", SEED)
        chat.page.keyboard.press("Escape")
        for question in QUESTIONS:
            print(chat.ask(question))
        chat.page.evaluate("document.activeElement.blur()")
        chat.page.mouse.move(0, 0)
        chat.page.screenshot(path=out, animations="disabled")


if __name__ == "__main__":
    main()
