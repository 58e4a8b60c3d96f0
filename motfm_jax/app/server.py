"""Serves the page: to this machine alone, or with a password."""

import secrets
import socket
import threading
from typing import Any

import fastapi
import gradio as gr
import uvicorn

USER = "motfm"
EVERYWHERE = ("0.0.0.0", "::")
HERE = ("127.0.0.1", "localhost", "::1")
# The browser is to fetch nothing from elsewhere, and to send nothing there.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'"
)


def application(page: gr.Blocks, style: dict[str, Any], password: str = "") -> fastapi.FastAPI:
    """The page as a web application.

    Args:
      page: of `page.page`.
      style: of `page.style`.
      password: of the user "motfm"; "" for none.
    """
    app = fastapi.FastAPI(openapi_url=None)

    @app.middleware("http")
    async def _stay_here(request: fastapi.Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return gr.mount_gradio_app(
        app,
        page,
        path="",
        auth=(USER, password) if password else None,
        ssr_mode=False,
        footer_links=[],
        app_kwargs={"openapi_url": None},
        **style,
    )


def serve(page: gr.Blocks, style: dict[str, Any], host: str, port: int) -> None:
    """Serves until Ctrl-C, after printing where.

    Raises:
      ValueError: the address is not one of this machine, or is taken.
    """
    password = "" if host in HERE else secrets.token_urlsafe(12)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # an early browser waits
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", "") or error
        raise ValueError(f"--host={host} --port={port}: {why}; give others") from error
    name = socket.gethostname() if host in EVERYWHERE else host
    address = f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"
    told = f"user {USER}, password {password}" if password else "for this machine alone"
    print(f"{address}, {told}; Ctrl-C ends it", flush=True)
    config = uvicorn.Config(application(page, style, password), log_level="warning")
    server = uvicorn.Server(config)
    # In a thread, so that Ctrl-C ends it at once: uvicorn would wait for the pages that are open.
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    thread.join()
