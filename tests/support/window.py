"""A window of QtWebEngine that is on no screen: it does what lines of JSON on its standard input say, and answers so.

A process of its own, for Qt wants the main thread. Where Qt, or a library of the system that it needs, cannot be
imported it ends with :data:`LACKING` and says what it is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"
# What is opened here are pages of ours, and the tests may run as root, where the sandbox refuses.
os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"
# Without a desktop there is nothing that prefers a dark page, but Blink can be told that there is.
DARK = "--blink-settings=preferredColorScheme=0" if "dark" in sys.argv else ""
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = f"--disable-gpu --no-sandbox {DARK}"

LACKING = 77
"""The exit code of a machine without the browser."""

try:
    from PySide6.QtCore import QObject, QTimer, QUrl, Signal
    from PySide6.QtPdf import QPdfDocument
    from PySide6.QtWebEngineCore import (
        QWebEnginePage,
        QWebEngineProfile,
        QWebEngineSettings,
        QWebEngineUrlRequestInfo,
        QWebEngineUrlRequestInterceptor,
    )
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(LACKING)

SETTLE = 150
"""Milliseconds from what changes a page to its picture."""


class Requests(QWebEngineUrlRequestInterceptor):
    """Notes what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def interceptRequest(self, info: QWebEngineUrlRequestInfo) -> None:
        self.asked.append(info.requestUrl().toString())


class Page(QWebEnginePage):
    """A page that keeps what it says."""

    def __init__(self, profile: QWebEngineProfile) -> None:
        super().__init__(profile)
        self.said: list[str] = []

    def javaScriptConsoleMessage(
        self, level: QWebEnginePage.JavaScriptConsoleMessageLevel, message: str, line: int, source: str
    ) -> None:
        self.said.append(f"{level.name.removesuffix('MessageLevel').lower()}: {message} ({source}:{line})")


class Lines(QObject):
    """The standard input, a line at a time, for Qt's thread."""

    came = Signal(str)
    ended = Signal()

    def read(self) -> None:
        for line in sys.stdin:
            self.came.emit(line)
        self.ended.emit()


class Window:
    """The view, and what it may be asked."""

    def __init__(self) -> None:
        self.profile = QWebEngineProfile()  # without a name: it leaves nothing on the disk
        self.requests = Requests()
        self.profile.setUrlRequestInterceptor(self.requests)
        self.view = QWebEngineView()
        self.page = Page(self.profile)
        self.view.setPage(self.page)
        self.page.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)
        self.page.loadFinished.connect(self._loaded)
        self.page.pdfPrintingFinished.connect(self._printed)
        self.waits = False
        self.view.show()

    def answer(self, value: Any = None) -> None:
        """A line, with what the page has said and asked for since the line before."""
        told = {"value": value, "said": self.page.said, "asked": self.requests.asked}
        print(json.dumps(told), flush=True)
        self.page.said, self.requests.asked = [], []

    def do(self, line: str) -> None:
        """What a line asks.

        :param line: an object with one key, the name of a method, and its arguments.
        """
        ((name, given),) = json.loads(line).items()
        getattr(self, f"do_{name}")(*given)

    def do_size(self, width: int, height: int) -> None:
        self.view.resize(width, height)
        QTimer.singleShot(SETTLE, self.answer)

    def do_open(self, address: str) -> None:
        self.waits = True
        self.view.load(QUrl(address))

    def do_follow(self, script: str) -> None:
        """A script that leads to another page."""
        self.waits = True
        self.page.runJavaScript(script)

    def do_evaluate(self, script: str) -> None:
        self.page.runJavaScript(f"JSON.stringify({script})", lambda text: self.answer(text and json.loads(text)))

    def do_picture(self, path: str) -> None:
        QTimer.singleShot(SETTLE, lambda: self.answer(self.view.grab().save(path)))

    def do_paper(self, path: str) -> None:
        self.page.printToPdf(path)

    def _printed(self, path: str, whole: bool) -> None:
        paper = QPdfDocument(self.page)
        read = whole and paper.load(path) == QPdfDocument.Error.None_
        self.answer([paper.getAllText(number).text() for number in range(paper.pageCount())] if read else None)
        paper.close()

    def _loaded(self, whole: bool) -> None:
        if self.waits:
            self.waits = False
            self.answer(whole)


def main() -> None:
    """Answer until the input ends."""
    app = QApplication([str(Path(__file__))])
    window = Window()
    lines = Lines()
    lines.came.connect(window.do)
    lines.ended.connect(app.quit)
    threading.Thread(target=lines.read, daemon=True).start()
    app.exec()
    sys.stdout.flush()
    os._exit(0)  # what Qt and Python do to each other's objects at the end is of no interest any more


if __name__ == "__main__":
    main()
