"""Real receivers for messages: an HTTP server and a mail server on a free port of this machine."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Gateway:
    """A messaging gateway that speaks HTTP. `answers` is its status; `hold` set: it takes a message and says nothing."""

    port: int = 0
    answers: int = 200
    hold: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"json://user:CURLEW-77@127.0.0.1:{self.port}/hook"

    @property
    def texts(self) -> list[str]:
        return [body["message"] for body in self.bodies]


@contextmanager
def a_gateway() -> Iterator[Gateway]:
    gateway = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            gateway.asked += 1
            gateway.raw.append(self.requestline.encode() + b"\n" + bytes(self.headers) + sent)
            if gateway.hold.is_set():
                gateway.release.wait(60)
            if gateway.answers == 200:
                gateway.bodies.append(json.loads(sent))
            self.send_response(gateway.answers)
            self.send_header("Content-Length", "0")
            if gateway.answers in (301, 302, 307, 308):
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    gateway.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield gateway
    finally:
        gateway.release.set()
        server.shutdown()
        server.server_close()


@dataclass
class MailServer:
    """A mail server that takes everything over SMTP (RFC 5321), without TLS."""

    port: int = 0
    mails: list[tuple[list[str], str]] = field(default_factory=list)
    """Recipients, and the message as it came."""


@contextmanager
def a_mail_server() -> Iterator[MailServer]:
    mail = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 mail.invalid")
            recipients: list[str] = []
            while line := self.rfile.readline().decode().strip():
                match line.upper().split(":")[0].split()[0]:
                    case "EHLO" | "HELO":
                        self.say("250 mail.invalid")
                    case "RCPT":
                        recipients.append(line.partition(":")[2].strip(" <>"))
                        self.say("250 ok")
                    case "DATA":
                        self.say("354 go on")
                        lines = []
                        while (text := self.rfile.readline()) != b".\r\n":
                            lines.append(text)
                        mail.mails.append((recipients, b"".join(lines).decode()))
                        self.say("250 taken")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("250 ok")

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        mail.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield mail
        server.shutdown()
